//! The one path of tokens through the layer, to be read beside the maths of the reference.

use ndarray::{ArrayView2, ArrayViewMut2, s};

use super::workspace::Workspace;
use super::{Layer, Variant};
use crate::cache::State;
use crate::error::{Result, fail};
use crate::ops::conv::Segment;
use crate::ops::linear::{Input, Output};
use crate::ops::{CHANNEL_BLOCK, padded, view2, view2_mut, view3, view3_mut, view4_mut};
use crate::threads::Workers;

/// Where a call reads its tokens and writes its outputs, both (batch, seqlen, d_model), row-major.
#[derive(Debug)]
pub enum Tokens<'a, T> {
    /// From one array to another.
    Separate {
        /// The input.
        x: &'a [T],
        /// The output.
        y: &'a mut [T],
    },
    /// Each output takes the place of its input.
    InPlace(&'a mut [T]),
}

impl<T> Tokens<'_, T> {
    /// Whether input and output have `len` values.
    pub(super) fn check(&self, size: &str, len: usize) -> Result<()> {
        let (x, y) = match self {
            Tokens::Separate { x, y } => (x.len(), y.len()),
            Tokens::InPlace(both) => (both.len(), both.len()),
        };
        if x != len || y != len {
            fail!(ShapeMismatch, "x and y have {x} and {y} values; {size} is {len}");
        }
        Ok(())
    }

    fn input(&self, rows: std::ops::Range<usize>, columns: usize) -> ArrayView2<'_, T> {
        let values = match self {
            Tokens::Separate { x, .. } => x,
            Tokens::InPlace(both) => &both[..],
        };
        view2(&values[rows.start * columns..], [rows.len(), columns])
    }

    fn output(&mut self, rows: std::ops::Range<usize>, columns: usize) -> ArrayViewMut2<'_, T> {
        let values = match self {
            Tokens::Separate { y, .. } => &mut y[..],
            Tokens::InPlace(both) => both,
        };
        view2_mut(&mut values[rows.start * columns..], [rows.len(), columns])
    }
}

/// The sequences of a call, and where their states are.
pub(super) struct Sequences<'a> {
    /// How many.
    pub count: usize,
    /// Tokens of each.
    pub seqlen: usize,
    /// The lane of each in the cache; their own numbers if `None`.
    pub lanes: Option<&'a [usize]>,
}

impl Layer {
    /// Takes all tokens through the stages, a block of rows at a time. The rows are the tokens of the first
    /// sequence, then those of the second, and so on; a block holds the pieces of as many as it covers.
    pub(super) fn run(
        &self,
        tokens: &mut Tokens<'_, f32>,
        sequences: Sequences<'_>,
        workspace: &mut Workspace<f32>,
        cached: Option<&mut State<f32>>,
    ) {
        let Sequences { count, seqlen, lanes } = sequences;
        let rows = count * seqlen;
        let workers = Workers::for_operations(rows as f64 * self.operations_per_token());
        let mut own = workspace.state.take();
        let is_cached = cached.is_some();
        let state = cached.or(own.as_mut()).expect("a call without a cache takes a workspace with a state");
        let mut start = 0;
        while start < rows {
            let block = start..rows.min(start + workspace.rows);
            workspace.segments.clear();
            for sequence in block.start / seqlen..=(block.end - 1) / seqlen {
                let from = block.start.max(sequence * seqlen);
                let to = block.end.min((sequence + 1) * seqlen);
                let lane = match lanes {
                    Some(lanes) => lanes[sequence],
                    None if is_cached => sequence,
                    None => sequence % state.lanes(),
                };
                if !is_cached && from == sequence * seqlen {
                    state.reset_lane(lane);
                }
                let rows = from - block.start..to - block.start;
                workspace.segments.push(Segment { lane, rows, offset: state.offset(lane) });
            }
            self.block(&workers, tokens, block.clone(), workspace, state);
            for segment in &workspace.segments {
                state.advance(segment.lane, segment.rows.len());
            }
            start = block.end;
        }
        workspace.state = own;
    }

    /// One block of rows, stage by stage.
    fn block(
        &self,
        workers: &Workers,
        tokens: &mut Tokens<'_, f32>,
        block: std::ops::Range<usize>,
        workspace: &mut Workspace<f32>,
        state: &mut State<f32>,
    ) {
        let p = &self.parameters;
        let (rows, branches) = (block.len(), self.dims.branches);
        let (dt_rank, d_state) = (self.dims.dt_rank, self.dims.d_state);
        let blocks = padded(self.dims.d_inner) / CHANNEL_BLOCK;
        let Workspace { x, z, u, branches: apart, projected, delta, y, segments, .. } = workspace;
        let inner = [blocks, rows, CHANNEL_BLOCK];

        // [x, z] = in_proj(h)
        let h = Input::Rows(tokens.input(block.clone(), self.dims.d_model));
        p.in_proj_x.apply(workers, h, Output::Blocks(view3_mut(x, inner)));
        p.in_proj_z.apply(workers, h, Output::Blocks(view3_mut(z, inner)));

        // u = the front end of x
        let sum = [1, blocks, rows, CHANNEL_BLOCK];
        match self.config.variant {
            Variant::Ptcn | Variant::Baseline => {
                let (x, u) = (view3(x, inner), view4_mut(u, sum));
                p.conv.apply(workers, 0..branches, &p.gates, segments, x, state.history(0), u);
            }
            Variant::Stcn => {
                for i in 0..branches {
                    let (v, next) = (view3(x, inner), view4_mut(u, sum));
                    p.conv.apply(workers, i..i + 1, &p.gates[i..=i], segments, v, state.history(i), next);
                    // The output is the next branch's input; the last one ends in `u`.
                    if i + 1 < branches {
                        std::mem::swap(x, u);
                    }
                }
            }
            Variant::Dpwc => {
                let wide = [branches, blocks, rows, CHANNEL_BLOCK];
                let (x, v) = (view3(x, inner), view4_mut(apart, wide));
                p.conv.apply(workers, 0..branches, &p.gates, segments, x, state.history(0), v);
                let v = Input::Blocks(view3(apart, [branches * blocks, rows, CHANNEL_BLOCK]));
                let pointwise = p.pointwise.as_ref().expect("a DPWC layer has pointwise products");
                pointwise.apply(workers, v, Output::Blocks(view3_mut(u, inner)));
            }
        }
        let u = view3(u, inner);

        // [r, B, C] = x_proj(u)
        let wide = [rows, dt_rank + 2 * d_state];
        p.x_proj.apply(workers, Input::Blocks(u), Output::Rows(view2_mut(projected, wide)));
        let projected = view2(projected, wide);
        let r = projected.slice(s![.., ..dt_rank]);
        let b = projected.slice(s![.., dt_rank..dt_rank + d_state]);
        let c = projected.slice(s![.., dt_rank + d_state..]);

        // δ = softplus(dt_proj(r)), s_t = exp(δA) ⊙ s_{t−1} + (δu)Bᵀ, y = (sC + D ⊙ u) ⊙ silu(z)
        p.dt_proj.apply(workers, Input::Rows(r), Output::Blocks(view3_mut(delta, inner)));
        let (delta, z, lanes) = (view3_mut(delta, inner), view3(z, inner), state.lanes());
        p.scan.apply(workers, segments, u, delta, z, b, c, state.ssm(), lanes, view3_mut(y, inner));

        // out = out_proj(y)
        let out = tokens.output(block, self.dims.d_model);
        p.out_proj.apply(workers, Input::Blocks(view3(y, inner)), Output::Rows(out));
    }

    /// Multiplications and additions that a token costs, exponentials counted as ten.
    fn operations_per_token(&self) -> f64 {
        let [d, e, n, r] =
            [self.dims.d_model, self.dims.d_inner, self.dims.d_state, self.dims.dt_rank].map(|v| v as f64);
        let branches = self.dims.branches as f64;
        let pointwise = if self.config.variant == Variant::Dpwc { branches * e * e } else { 0.0 };
        let products = 2.0 * (3.0 * d * e + e * (r + 2.0 * n) + r * e + pointwise);
        products + 16.0 * e * n + 2.0 * branches * e * (self.dims.d_conv as f64 + 10.0)
    }
}
