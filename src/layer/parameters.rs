//! The parameters in the forms the stages read, and their values by state-dict name.

use super::{Config, Dims, Variant};
use crate::error::Result;
use crate::memory::{Buffer, product};
use crate::ops::conv::DepthwiseConv;
use crate::ops::linear::{Groups, Linear};
use crate::ops::padded;
use crate::ops::scan::SelectiveScan;
use crate::simd::{Isa, Storage};
use crate::tensor::Element;

/// All parameters of a layer, matrices stored as `W`. Matrices exist in packed form only; small tensors that a
/// stage reads in another form (`A_log`, `conv_gates`, pointwise biases) are kept beside it.
#[derive(Debug)]
pub struct Parameters<W: Storage> {
    d_inner: usize,
    /// The two halves of `in_proj`.
    pub in_proj_x: Linear<W>,
    /// See `in_proj_x`.
    pub in_proj_z: Linear<W>,
    /// The depthwise convolutions.
    pub conv: DepthwiseConv<W>,
    /// softmax(conv_gates), or ones where there are none.
    pub gates: Vec<W::Real>,
    /// DPWC: the pointwise products side by side, with the sum of their gated biases.
    pub pointwise: Option<Linear<W>>,
    /// u → r, B, C
    pub x_proj: Linear<W>,
    /// r → δ; its bias belongs to the scan.
    pub dt_proj: Linear<W>,
    /// A, D and the bias of δ.
    pub scan: SelectiveScan<W>,
    /// y → output
    pub out_proj: Linear<W>,
    conv_gates: Vec<W::Real>,
    a_log: Buffer<W::Real>,
    /// (branches, d_inner)
    pointwise_bias: Buffer<W::Real>,
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

impl<W: Storage> Parameters<W> {
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
            gates: vec![W::Real::from_f64(1.0); branches],
            pointwise,
            x_proj: linear("x_proj", dt_rank + 2 * d_state, Groups::one(d_inner))?,
            dt_proj: linear("dt_proj", d_inner, Groups::one(dt_rank))?,
            scan: SelectiveScan::zeroed(isa, d_inner, d_state)?,
            out_proj: linear("out_proj", d_model, Groups::one(d_inner))?,
            conv_gates: vec![W::Real::default(); if config.variant.is_gated() { branches } else { 0 }],
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

    /// Values of each row that products take in place of h and of r, and the most that they take in place of another
    /// input.
    pub fn prepared(&self) -> [usize; 3] {
        let others = [&self.x_proj, &self.out_proj].into_iter().chain(&self.pointwise);
        let most = others.map(Linear::room).max().unwrap_or(0);
        [self.in_proj_x.room(), self.dt_proj.room(), most]
    }

    /// Reads the parameter of a canonical name; `out` has its length.
    pub fn get<T: Element>(&self, name: &str, out: &mut [T]) {
        let half = out.len() / 2;
        match Field::of(name) {
            Field::ConvGates => write(out, self.conv_gates.iter().copied()),
            Field::ALog => write(out, self.a_log.iter().copied()),
            Field::D => write(out, self.scan.skip().iter().copied()),
            Field::InProjWeight => {
                self.in_proj_x.get_weight(0, &mut out[..half]);
                self.in_proj_z.get_weight(0, &mut out[half..]);
            }
            Field::InProjBias => {
                write(&mut out[..half], self.in_proj_x.bias().iter().copied());
                write(&mut out[half..], self.in_proj_z.bias().iter().copied());
            }
            Field::ConvWeight(i) => write(out, self.conv.weight(i)),
            Field::ConvBias(i) => write(out, self.conv.bias(i)),
            Field::PointwiseWeight(i) => {
                self.pointwise.as_ref().expect("listed for DPWC only").get_weight(i, out);
            }
            Field::PointwiseBias(i) => {
                write(out, self.pointwise_bias[i * self.d_inner..][..self.d_inner].iter().copied());
            }
            Field::XProjWeight => self.x_proj.get_weight(0, out),
            Field::DtProjWeight => self.dt_proj.get_weight(0, out),
            Field::DtProjBias => write(out, self.scan.delta_bias().iter().copied()),
            Field::OutProjWeight => self.out_proj.get_weight(0, out),
            Field::OutProjBias => write(out, self.out_proj.bias().iter().copied()),
        }
    }

    /// Writes the parameter of a canonical name, rounded to the type it is stored in; `values` has its length.
    pub fn set<T: Element>(&mut self, name: &str, values: &[T]) {
        let half = values.len() / 2;
        let stored = values.iter().map(|value| value.convert::<W>().convert());
        match Field::of(name) {
            Field::ConvGates => {
                write(&mut self.conv_gates, values.iter().copied());
                self.gates = softmax(&self.conv_gates);
                self.mix_pointwise_bias();
            }
            Field::ALog => {
                write(&mut self.a_log, values.iter().copied());
                self.scan.set_a_log(&self.a_log);
            }
            Field::D => write(self.scan.skip_mut(), values.iter().copied()),
            Field::InProjWeight => {
                self.in_proj_x.set_weight(0, &values[..half]);
                self.in_proj_z.set_weight(0, &values[half..]);
            }
            Field::InProjBias => {
                write::<_, W::Real>(self.in_proj_x.bias_mut(), stored.clone());
                write::<_, W::Real>(self.in_proj_z.bias_mut(), stored.skip(half));
            }
            Field::ConvWeight(i) => self.conv.set_weight(i, stored),
            Field::ConvBias(i) => self.conv.set_bias(i, stored),
            Field::PointwiseWeight(i) => {
                self.pointwise.as_mut().expect("listed for DPWC only").set_weight(i, values);
            }
            Field::PointwiseBias(i) => {
                write::<_, W::Real>(&mut self.pointwise_bias[i * self.d_inner..][..self.d_inner], stored);
                self.mix_pointwise_bias();
            }
            Field::XProjWeight => self.x_proj.set_weight(0, values),
            Field::DtProjWeight => self.dt_proj.set_weight(0, values),
            Field::DtProjBias => write::<_, W::Real>(self.scan.delta_bias_mut(), stored),
            Field::OutProjWeight => self.out_proj.set_weight(0, values),
            Field::OutProjBias => write::<_, W::Real>(self.out_proj.bias_mut(), stored),
        }
    }

    /// Σ gate_i · p_i, the bias of the pointwise products taken as one.
    fn mix_pointwise_bias(&mut self) {
        if let Some(pointwise) = &mut self.pointwise {
            for (channel, mixed) in pointwise.bias_mut().iter_mut().enumerate() {
                let biases = self.pointwise_bias.iter().skip(channel).step_by(self.d_inner);
                let sum: f64 = self.gates.iter().zip(biases).map(|(g, p)| g.to_f64() * p.to_f64()).sum();
                *mixed = W::Real::from_f64(sum);
            }
        }
    }
}

/// As many of `values` as there is room for.
fn write<T: Element, U: Element>(to: &mut [T], values: impl Iterator<Item = U>) {
    to.iter_mut().zip(values).for_each(|(to, value)| *to = value.convert());
}

/// exp(v_i) / Σ exp(v_j)
fn softmax<T: Element>(values: &[T]) -> Vec<T> {
    let largest = values.iter().map(|v| v.to_f64()).fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = values.iter().map(|v| (v.to_f64() - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| T::from_f64(power / sum)).collect()
}
