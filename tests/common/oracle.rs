//! The layer in plain float64: the oracle that every other number is held against.
//!
//! It is written for the eye, one loop per sum, straight from the published maths of the Mamba
//! block with dilated convolutions; it uses nothing of the library under test. `tests/oracle.rs`
//! proves it against the reference package's own numbers.
//!
//! Symbols: `B` batch, `L` tokens, `D` d_model, `E` d_inner, `N` d_state, `W` d_conv, `R` dt_rank.
//! All tensors are row-major; inside, a sequence is a list of rows of one lane, one row per token.

use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Parallel branches, mixed by softmax gates.
    Ptcn,
    /// Stacked convolutions, each fed by the one before.
    Stcn,
    /// Parallel branches, each followed by a pointwise convolution, mixed by softmax gates.
    Dpwc,
    /// One convolution of dilation 1.
    Baseline,
}

/// A shape and its values.
pub type Tensor = (Vec<usize>, Vec<f64>);

#[derive(Clone, Debug)]
pub struct OracleLayer {
    pub variant: Variant,
    pub d_model: usize,
    pub d_inner: usize,
    pub d_state: usize,
    pub d_conv: usize,
    pub dt_rank: usize,
    pub dilations: Vec<usize>,
    /// By state-dict name. Branch 0 may go by its own name or by its alias `conv1d`.
    pub params: BTreeMap<String, Tensor>,
}

/// What a forward over a whole sequence gives, in the reference's layouts.
#[derive(Clone, Debug)]
pub struct Output {
    /// (B, L, D)
    pub y: Vec<f64>,
    /// Per branch (B, E, S_i): its last S_i = (W−1)·d_i + 1 inputs, oldest first, zeros for what
    /// lies before the first token.
    pub conv_states: Vec<Vec<f64>>,
    /// (B, E, N)
    pub ssm_state: Vec<f64>,
}

/// One row per token.
type Rows = Vec<Vec<f64>>;

impl OracleLayer {
    /// The whole sequence `x` (B, L, D) from the zero state.
    pub fn forward(&self, x: &[f64], batch: usize, seqlen: usize) -> Output {
        assert_eq!(x.len(), batch * seqlen * self.d_model);
        let mut output = Output {
            y: Vec::new(),
            conv_states: vec![Vec::new(); self.dilations.len()],
            ssm_state: Vec::new(),
        };
        for lane in 0..batch {
            let lane_x = &x[lane * seqlen * self.d_model..][..seqlen * self.d_model];
            let rows = lane_x.chunks(self.d_model).map(<[f64]>::to_vec).collect();
            self.forward_lane(rows, &mut output);
        }
        output
    }

    /// One lane, appended to `output`.
    fn forward_lane(&self, h: Rows, output: &mut Output) {
        // [x, z] = in_proj(h)
        let xz = self.linear("in_proj", &h);
        let x: Rows = xz.iter().map(|row| row[..self.d_inner].to_vec()).collect();
        let z: Rows = xz.iter().map(|row| row[self.d_inner..].to_vec()).collect();

        let (u, conv_inputs) = self.front_end(x);
        for (i, inputs) in conv_inputs.iter().enumerate() {
            self.append_conv_state(inputs, self.dilations[i], &mut output.conv_states[i]);
        }

        // [r, B, C] = x_proj(u); δ = softplus(dt_proj(r)); A = −exp(A_log)
        let (n, r) = (self.d_state, self.dt_rank);
        let rbc = self.linear("x_proj", &u);
        let low_rank: Rows = rbc.iter().map(|row| row[..r].to_vec()).collect();
        let delta = self.linear("dt_proj", &low_rank);
        let a: Vec<f64> = self.param("A_log").iter().map(|v| -v.exp()).collect();
        let d = self.param("D");

        // s_t = exp(δ_t A) ⊙ s_{t−1} + (δ_t u_t) B_tᵀ;  y_t = s_t C_t + D ⊙ u_t;  y ⊙ silu(z)
        let mut s = vec![0.0; self.d_inner * n];
        let mut gated: Rows = Vec::new();
        for t in 0..u.len() {
            let b = &rbc[t][r..r + n];
            let c = &rbc[t][r + n..];
            let mut row = Vec::new();
            for e in 0..self.d_inner {
                let delta = softplus(delta[t][e]);
                let mut y = d[e] * u[t][e];
                for j in 0..n {
                    let state = &mut s[e * n + j];
                    *state = (delta * a[e * n + j]).exp() * *state + delta * u[t][e] * b[j];
                    y += *state * c[j];
                }
                row.push(y * silu(z[t][e]));
            }
            gated.push(row);
        }
        output.ssm_state.extend(s);

        // out = out_proj(y ⊙ silu(z))
        output.y.extend(self.linear("out_proj", &gated).into_iter().flatten());
    }

    /// The convolutions of the variant: u, and what went into each branch.
    fn front_end(&self, x: Rows) -> (Rows, Vec<Rows>) {
        let branches = self.dilations.len();
        match self.variant {
            Variant::Baseline => (self.conv(0, &x), vec![x]),
            Variant::Stcn => {
                // u = conv_k(… conv_2(conv_1(x)))
                let mut inputs = vec![x];
                for i in 0..branches {
                    let next = self.conv(i, &inputs[i]);
                    inputs.push(next);
                }
                let u = inputs.pop().expect("the input at least");
                (u, inputs)
            }
            Variant::Ptcn | Variant::Dpwc => {
                // u = Σ_i softmax(conv_gates)_i · branch_i(x)
                let gates = softmax(self.param("conv_gates"));
                let mut u = vec![vec![0.0; self.d_inner]; x.len()];
                for (i, gate) in gates.iter().enumerate() {
                    let mut branch = self.conv(i, &x);
                    if self.variant == Variant::Dpwc {
                        branch = self.linear(&format!("pw_conv1d_layers.{i}"), &branch);
                    }
                    for (sum, row) in u.iter_mut().zip(&branch) {
                        for (s, v) in sum.iter_mut().zip(row) {
                            *s += gate * v;
                        }
                    }
                }
                (u, vec![x; branches])
            }
        }
    }

    /// conv_i(v) = silu(Σ_j w_i[:, j] · v[t − (W−1−j)·d_i] + b_i), zeros before the first token.
    fn conv(&self, i: usize, v: &Rows) -> Rows {
        let name = self.conv_name(i);
        let weight = self.param(&format!("{name}.weight")); // (E, 1, W)
        let bias = self.optional(&format!("{name}.bias"));
        let w = self.d_conv;
        let mut out = Vec::new();
        for t in 0..v.len() {
            let mut row = Vec::new();
            for e in 0..self.d_inner {
                let mut sum = bias.map_or(0.0, |b| b[e]);
                for j in 0..w {
                    let back = (w - 1 - j) * self.dilations[i];
                    if back <= t {
                        sum += weight[e * w + j] * v[t - back][e];
                    }
                }
                row.push(silu(sum));
            }
            out.push(row);
        }
        out
    }

    /// Branch i's depthwise convolution, by its own name or, for branch 0, by the alias.
    fn conv_name(&self, i: usize) -> String {
        let own = match self.variant {
            Variant::Baseline => "conv1d".to_string(),
            Variant::Dpwc => format!("dw_conv1d_layers.{i}"),
            Variant::Ptcn | Variant::Stcn => format!("conv1d_layers.{i}"),
        };
        if i == 0 && !self.params.contains_key(&format!("{own}.weight")) { "conv1d".to_string() } else { own }
    }

    /// One lane's last S inputs, channel by channel, oldest first.
    fn append_conv_state(&self, inputs: &Rows, dilation: usize, state: &mut Vec<f64>) {
        let length = (self.d_conv - 1) * dilation + 1;
        for e in 0..self.d_inner {
            for back in (0..length).rev() {
                let t = (inputs.len()).checked_sub(1 + back);
                state.push(t.map_or(0.0, |t| inputs[t][e]));
            }
        }
    }

    /// `weight · row + bias` for every row; the bias counts where there is one.
    fn linear(&self, name: &str, rows: &Rows) -> Rows {
        let weight = self.param(&format!("{name}.weight"));
        let bias = self.optional(&format!("{name}.bias"));
        let apply = |row: &Vec<f64>| {
            let outputs = weight.chunks(row.len()).enumerate();
            outputs
                .map(|(o, w)| {
                    let dot: f64 = w.iter().zip(row).map(|(w, v)| w * v).sum();
                    dot + bias.map_or(0.0, |b| b[o])
                })
                .collect()
        };
        rows.iter().map(apply).collect()
    }

    fn param(&self, name: &str) -> &[f64] {
        self.optional(name).unwrap_or_else(|| panic!("the layer has no parameter {name}"))
    }

    fn optional(&self, name: &str) -> Option<&[f64]> {
        self.params.get(name).map(|(_, values)| values.as_slice())
    }
}

fn silu(v: f64) -> f64 {
    v / (1.0 + (-v).exp())
}

/// ln(1 + eᵛ); v itself above 20, as PyTorch has it.
fn softplus(v: f64) -> f64 {
    if v > 20.0 { v } else { v.exp().ln_1p() }
}

fn softmax(values: &[f64]) -> Vec<f64> {
    let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = values.iter().map(|v| (v - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|p| p / sum).collect()
}
