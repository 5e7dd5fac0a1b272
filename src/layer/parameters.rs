//! The parameters in the forms the stages read, and their values by state-dict name.

use super::{Config, Dims, Variant};
use crate::error::Result;
use crate::memory::{Buffer, product};
use crate::ops::conv::DepthwiseConv;
use crate::ops::linear::{Groups, Linear};
use crate::ops::padded;
use crate::ops::scan::SelectiveScan;
use crate::simd::{Isa, Real};

/// All parameters of a layer. Matrices exist in packed form only; small tensors that a stage reads in
/// another form (`A_log`, `conv_gates`, pointwise biases) are kept beside it.
#[derive(Debug)]
pub struct Parameters<T: Real> {
    d_inner: usize,
    /// The two halves of `in_proj`.
    pub in_proj_x: Linear<T>,
    /// See `in_proj_x`.
    pub in_proj_z: Linear<T>,
    /// The depthwise convolutions.
    pub conv: DepthwiseConv<T>,
    /// softmax(conv_gates), or ones where there are none.
    pub gates: Vec<T>,
    /// DPWC: the pointwise products side by side, with the sum of their gated biases.
    pub pointwise: Option<Linear<T>>,
    /// u → r, B, C
    pub x_proj: Linear<T>,
    /// r → δ; its bias belongs to the scan.
    pub dt_proj: Linear<T>,
    /// A, D and the bias of δ.
    pub scan: SelectiveScan<T>,
    /// y → output
    pub out_proj: Linear<T>,
    conv_gates: Vec<T>,
    a_log: Buffer<T>,
    /// (branches, d_inner)
    pointwise_bias: Buffer<T>,
}

/// A name of the state dict, resolved.
#[derive(Clone, Copy)]
enum Field {
    ConvGates,
    ALog,
    D,
    InProjWeight,
    InProjBias,
    ConvWeight(usize),
    ConvBias(usize),
    PointwiseWeight(usize),
    PointwiseBias(usize),
    XProjWeight,
    DtProjWeight,
    DtProjBias,
    OutProjWeight,
    OutProjBias,
}

impl Field {
    /// What a canonical name of [`super::parameter_list`] stands for.
    fn of(name: &str) -> Field {
        let branch = || name.split('.').nth(1).and_then(|i| i.parse().ok()).unwrap_or(0);
        let is_bias = name.ends_with(".bias");
        match (name.split('.').next().unwrap_or(name), is_bias) {
            ("conv_gates", _) => Field::ConvGates,
            ("A_log", _) => Field::ALog,
            ("D", _) => Field::D,
            ("in_proj", false) => Field::InProjWeight,
            ("in_proj", true) => Field::InProjBias,
            ("pw_conv1d_layers", false) => Field::PointwiseWeight(branch()),
            ("pw_conv1d_layers", true) => Field::PointwiseBias(branch()),
            ("x_proj", _) => Field::XProjWeight,
            ("dt_proj", false) => Field::DtProjWeight,
            ("dt_proj", true) => Field::DtProjBias,
            ("out_proj", false) => Field::OutProjWeight,
            ("out_proj", true) => Field::OutProjBias,
            (_, false) => Field::ConvWeight(branch()),
            (_, true) => Field::ConvBias(branch()),
        }
    }
}

impl<T: Real> Parameters<T> {
    /// All zeros.
    ///
    /// # Errors
    /// `OutOfMemory`
    pub fn zeroed(config: &Config, dims: &Dims, isa: Isa) -> Result<Self> {
        let Dims { d_model, d_inner, d_state, dt_rank, branches, .. } = *dims;
        let linear = |what, outputs, inputs| Linear::zeroed(what, isa, outputs, inputs);
        let apart = Groups { count: branches, len: d_inner, stride: padded(d_inner) };
        let pointwise = match config.variant {
            Variant::Dpwc => Some(linear("pw_conv1d_layers", d_inner, apart)?),
            _ => None,
        };
        Ok(Parameters {
            d_inner,
            in_proj_x: linear("in_proj", d_inner, Groups::one(d_model))?,
            in_proj_z: linear("in_proj", d_inner, Groups::one(d_model))?,
            conv: DepthwiseConv::zeroed(isa, d_inner, dims.d_conv, &config.conv_dilations)?,
            gates: vec![T::ONE; branches],
            pointwise,
            x_proj: linear("x_proj", dt_rank + 2 * d_state, Groups::one(d_inner))?,
            dt_proj: linear("dt_proj", d_inner, Groups::one(dt_rank))?,
            scan: SelectiveScan::zeroed(isa, d_inner, d_state)?,
            out_proj: linear("out_proj", d_model, Groups::one(d_inner))?,
            conv_gates: vec![T::ZERO; if config.variant.is_gated() { branches } else { 0 }],
            a_log: Buffer::zeroed("A_log", product("A_log", &[d_inner, d_state])?)?,
            pointwise_bias: Buffer::zeroed(
                "pw_conv1d_layers",
                if config.variant == Variant::Dpwc {
                    product("pw_conv1d_layers", &[branches, d_inner])?
                } else {
                    0
                },
            )?,
        })
    }

    /// Reads the parameter of a canonical name; `out` has its length.
    pub fn get(&self, name: &str, out: &mut [T]) {
        let half = out.len() / 2;
        match Field::of(name) {
            Field::ConvGates => out.copy_from_slice(&self.conv_gates),
            Field::ALog => out.copy_from_slice(&self.a_log),
            Field::D => out.copy_from_slice(self.scan.skip()),
            Field::InProjWeight => {
                self.in_proj_x.get_weight(0, &mut out[..half]);
                self.in_proj_z.get_weight(0, &mut out[half..]);
            }
            Field::InProjBias => {
                out[..half].copy_from_slice(self.in_proj_x.bias());
                out[half..].copy_from_slice(self.in_proj_z.bias());
            }
            Field::ConvWeight(i) => self.conv.get_weight(i, out),
            Field::ConvBias(i) => self.conv.get_bias(i, out),
            Field::PointwiseWeight(i) => {
                self.pointwise.as_ref().expect("listed for DPWC only").get_weight(i, out);
            }
            Field::PointwiseBias(i) => {
                out.copy_from_slice(&self.pointwise_bias[i * self.d_inner..][..self.d_inner]);
            }
            Field::XProjWeight => self.x_proj.get_weight(0, out),
            Field::DtProjWeight => self.dt_proj.get_weight(0, out),
            Field::DtProjBias => out.copy_from_slice(self.scan.delta_bias()),
            Field::OutProjWeight => self.out_proj.get_weight(0, out),
            Field::OutProjBias => out.copy_from_slice(self.out_proj.bias()),
        }
    }

    /// Writes the parameter of a canonical name; `values` has its length.
    pub fn set(&mut self, name: &str, values: &[T]) {
        let half = values.len() / 2;
        match Field::of(name) {
            Field::ConvGates => {
                self.conv_gates.copy_from_slice(values);
                self.gates = softmax(values);
                self.mix_pointwise_bias();
            }
            Field::ALog => {
                self.a_log.copy_from_slice(values);
                self.scan.set_a_log(values);
            }
            Field::D => self.scan.skip_mut().copy_from_slice(values),
            Field::InProjWeight => {
                self.in_proj_x.set_weight(0, &values[..half]);
                self.in_proj_z.set_weight(0, &values[half..]);
            }
            Field::InProjBias => {
                self.in_proj_x.bias_mut().copy_from_slice(&values[..half]);
                self.in_proj_z.bias_mut().copy_from_slice(&values[half..]);
            }
            Field::ConvWeight(i) => self.conv.set_weight(i, values),
            Field::ConvBias(i) => self.conv.set_bias(i, values),
            Field::PointwiseWeight(i) => {
                self.pointwise.as_mut().expect("listed for DPWC only").set_weight(i, values);
            }
            Field::PointwiseBias(i) => {
                self.pointwise_bias[i * self.d_inner..][..self.d_inner].copy_from_slice(values);
                self.mix_pointwise_bias();
            }
            Field::XProjWeight => self.x_proj.set_weight(0, values),
            Field::DtProjWeight => self.dt_proj.set_weight(0, values),
            Field::DtProjBias => self.scan.delta_bias_mut().copy_from_slice(values),
            Field::OutProjWeight => self.out_proj.set_weight(0, values),
            Field::OutProjBias => self.out_proj.bias_mut().copy_from_slice(values),
        }
    }

    /// Σ gate_i · p_i, the bias of the pointwise products taken as one.
    fn mix_pointwise_bias(&mut self) {
        if let Some(pointwise) = &mut self.pointwise {
            for (channel, mixed) in pointwise.bias_mut().iter_mut().enumerate() {
                let biases = self.pointwise_bias.iter().skip(channel).step_by(self.d_inner);
                let sum: f64 = self.gates.iter().zip(biases).map(|(g, p)| g.to_f64() * p.to_f64()).sum();
                *mixed = T::from_f64(sum);
            }
        }
    }
}

/// exp(v_i) / Σ exp(v_j)
fn softmax<T: Real>(values: &[T]) -> Vec<T> {
    let largest = values.iter().map(|v| v.to_f64()).fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = values.iter().map(|v| (v.to_f64() - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| T::from_f64(power / sum)).collect()
}
