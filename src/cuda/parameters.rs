//! The parameters of a layer on a device, and their values by state-dict name.

use std::collections::BTreeMap;

use half::{bf16, f16};

use super::driver::{Gpu, Memory, Stream};
use super::kernels::{Address, CopyArgs, Kernel, Storage};
use super::product::Linear;
use crate::error::Result;
use crate::layer::{Config, Dims, Variant};
use crate::memory::product;

/// All parameters. Matrices are stored in the layer's type, all else in f32, what the reference stores in the layer's
/// type having been rounded to it.
#[derive(Debug)]
pub struct Parameters {
    gpu: &'static Gpu,
    storage: Storage,
    branches: usize,
    d_inner: usize,
    in_proj: Matrix,
    /// DPWC: the pointwise products side by side, (d_inner, branches · d_inner), with the sum of their gated biases.
    pointwise: Option<Matrix>,
    x_proj: Matrix,
    dt_proj: Matrix,
    out_proj: Matrix,
    /// (branches, d_conv, d_inner)
    conv_weight: Memory,
    /// (branches, d_inner)
    conv_bias: Option<Memory>,
    /// softmax(conv_gates), or ones.
    gates: Memory,
    /// (branches), i32
    dilations: Memory,
    /// (d_inner, d_state): A log2(e)
    a: Memory,
    /// D
    skip: Memory,
    delta_bias: Memory,
    /// What is held in another form above: by name.
    originals: BTreeMap<String, Vec<f32>>,
}

#[derive(Debug)]
struct Matrix {
    weight: Memory,
    bias: Option<Memory>,
    inputs: usize,
    outputs: usize,
}

impl Matrix {
    fn zeroed(
        gpu: &'static Gpu,
        storage: Storage,
        what: &str,
        [outputs, inputs]: [usize; 2],
        bias: bool,
    ) -> Result<Matrix> {
        let weight = Memory::zeroed(gpu, what, product(what, &[storage.size(), outputs, inputs])?)?;
        let bias = if bias { Some(Memory::zeroed(gpu, what, storage.size() * outputs)?) } else { None };
        Ok(Matrix { weight, bias, inputs, outputs })
    }

    fn linear(&self) -> Linear {
        Linear {
            weight: self.weight.address(),
            bias: address(&self.bias),
            inputs: self.inputs,
            outputs: self.outputs,
            hurry: false,
            is_last: false,
        }
    }
}

fn address(memory: &Option<Memory>) -> Address {
    memory.as_ref().map_or(0, Memory::address)
}

/// Where a parameter's values are: a tensor of two sides, the second running fastest in the state dict.
struct Place<'a> {
    memory: &'a Memory,
    storage: Storage,
    start: usize,
    sides: [usize; 2],
    strides: [usize; 2],
}

impl Parameters {
    /// All zeros, the gates apart.
    ///
    /// # Errors
    /// `Cuda` where the device has no room for them, `OutOfMemory` where a size overflows.
    pub fn zeroed(gpu: &'static Gpu, storage: Storage, config: &Config, dims: &Dims) -> Result<Parameters> {
        let Dims { d_model, d_inner, d_state, d_conv, dt_rank, branches, .. } = *dims;
        let matrix = |what, sides, bias| Matrix::zeroed(gpu, storage, what, sides, bias);
        let floats =
            |what, sizes: &[usize]| Memory::zeroed(gpu, what, product(what, &[4, product(what, sizes)?])?);
        let dilations: Vec<i32> = (config.conv_dilations.iter())
            .map(|&dilation| super::driver::int("a dilation", dilation))
            .collect::<Result<_>>()?;
        let parameters = Parameters {
            gpu,
            storage,
            branches,
            d_inner,
            in_proj: matrix("in_proj", [product("in_proj", &[2, d_inner])?, d_model], config.bias)?,
            pointwise: match config.variant {
                Variant::Dpwc => {
                    let inputs = product("pw_conv1d_layers", &[branches, d_inner])?;
                    Some(matrix("pw_conv1d_layers", [d_inner, inputs], true)?)
                }
                _ => None,
            },
            x_proj: matrix("x_proj", [dt_rank + 2 * d_state, d_inner], false)?,
            dt_proj: matrix("dt_proj", [d_inner, dt_rank], false)?,
            out_proj: matrix("out_proj", [d_model, d_inner], config.bias)?,
            conv_weight: floats("the convolutions", &[branches, d_conv, d_inner])?,
            conv_bias: if config.conv_bias {
                Some(floats("the convolutions", &[branches, d_inner])?)
            } else {
                None
            },
            gates: floats("conv_gates", &[branches])?,
            dilations: floats("conv_dilations", &[branches])?,
            a: floats("A_log", &[d_inner, d_state])?,
            skip: floats("D", &[d_inner])?,
            delta_bias: floats("dt_proj", &[d_inner])?,
            originals: BTreeMap::new(),
        };
        parameters.dilations.write(Stream::DEFAULT, &dilations)?;
        parameters.gates.write(Stream::DEFAULT, &vec![1.0_f32; branches])?;
        gpu.synchronize()?;
        Ok(parameters)
    }

    pub(super) fn in_proj(&self) -> Linear {
        self.in_proj.linear()
    }

    pub(super) fn pointwise(&self) -> Option<Linear> {
        self.pointwise.as_ref().map(Matrix::linear)
    }

    pub(super) fn x_proj(&self) -> Linear {
        self.x_proj.linear()
    }

    pub(super) fn dt_proj(&self) -> Linear {
        self.dt_proj.linear()
    }

    pub(super) fn out_proj(&self) -> Linear {
        Linear { is_last: true, ..self.out_proj.linear() }
    }

    /// Weight, bias, gates and dilations of the convolutions from `branch` on; the number of taps being `taps`.
    pub(super) fn conv(&self, branch: usize, taps: usize) -> [Address; 4] {
        let bias = address(&self.conv_bias);
        [
            self.conv_weight.address() + (4 * branch * taps * self.d_inner) as u64,
            if bias == 0 { 0 } else { bias + (4 * branch * self.d_inner) as u64 },
            self.gates.address() + 4 * branch as u64,
            self.dilations.address() + 4 * branch as u64,
        ]
    }

    /// A, D and the bias of δ.
    pub(super) fn scan(&self) -> [Address; 3] {
        [&self.a, &self.skip, &self.delta_bias].map(Memory::address)
    }

    /// Where the parameter of a canonical name is held as it is, but for its type; `None` for what has an original.
    fn place<'a>(&'a self, name: &str) -> Option<Place<'a>> {
        let branch = || name.split('.').nth(1).and_then(|i| i.parse().ok()).unwrap_or(0_usize);
        let is_bias = name.ends_with(".bias");
        let matrix = |matrix: &'a Matrix| -> Place<'a> {
            Place {
                memory: &matrix.weight,
                storage: self.storage,
                start: 0,
                sides: [matrix.outputs, matrix.inputs],
                strides: [matrix.inputs, 1],
            }
        };
        let vector =
            |memory, storage, start, len| Place { memory, storage, start, sides: [1, len], strides: [0, 1] };
        let bias_of = |matrix: &'a Matrix| {
            let memory = matrix.bias.as_ref().expect("listed where there is one");
            vector(memory, self.storage, 0, matrix.outputs)
        };
        let e = self.d_inner;
        Some(match (name.split('.').next().unwrap_or(name), is_bias) {
            ("conv_gates" | "A_log", _) | ("pw_conv1d_layers", true) => return None,
            ("D", _) => vector(&self.skip, Storage::F32, 0, e),
            ("in_proj", false) => matrix(&self.in_proj),
            ("in_proj", true) => bias_of(&self.in_proj),
            ("pw_conv1d_layers", false) => {
                let pointwise = self.pointwise.as_ref().expect("listed for DPWC only");
                Place { start: branch() * e, sides: [e, e], ..matrix(pointwise) }
            }
            ("x_proj", _) => matrix(&self.x_proj),
            ("dt_proj", false) => matrix(&self.dt_proj),
            ("dt_proj", true) => vector(&self.delta_bias, Storage::F32, 0, e),
            ("out_proj", false) => matrix(&self.out_proj),
            ("out_proj", true) => bias_of(&self.out_proj),
            (_, false) => {
                let taps = self.conv_weight.bytes() / (4 * self.branches * e);
                Place {
                    memory: &self.conv_weight,
                    storage: Storage::F32,
                    start: branch() * taps * e,
                    sides: [e, taps],
                    strides: [1, e],
                }
            }
            (_, true) => {
                let memory = self.conv_bias.as_ref().expect("listed where there is one");
                vector(memory, Storage::F32, branch() * e, e)
            }
        })
    }

    /// Reads the parameter of a canonical name; `out` has its length.
    ///
    /// # Errors
    /// `Cuda`
    pub fn get(&self, name: &str, out: &mut [f32]) -> Result<()> {
        let Some(place) = self.place(name) else {
            match self.originals.get(name) {
                Some(values) => out.copy_from_slice(values),
                None => out.fill(0.0),
            }
            return Ok(());
        };
        self.gpu.synchronize()?;
        let staged = Memory::zeroed(self.gpu, name, size_of_val(out))?;
        self.copy(&place, &staged, false)?;
        staged.read(Stream::DEFAULT, 0, out)
    }

    /// Writes the parameter of a canonical name, when all work on the device is done; `values` has its length.
    ///
    /// # Errors
    /// `Cuda`
    pub fn set(&mut self, name: &str, values: &[f32]) -> Result<()> {
        self.gpu.synchronize()?;
        let rounded: Vec<f32> = match (self.storage, name) {
            (Storage::F32, _) | (_, "A_log" | "D" | "conv_gates") => values.to_vec(),
            (Storage::Bf16, _) => values.iter().map(|&v| bf16::from_f32(v).to_f32()).collect(),
            (Storage::F16, _) => values.iter().map(|&v| f16::from_f32(v).to_f32()).collect(),
        };
        if let Some(place) = self.place(name) {
            let staged = Memory::zeroed(self.gpu, name, size_of_val(values))?;
            staged.write(Stream::DEFAULT, &rounded)?;
            self.copy(&place, &staged, true)?;
        } else {
            self.originals.insert(name.to_owned(), rounded);
            match name {
                "A_log" => {
                    let scaled = |v: &f32| (-f64::from(*v).exp() * std::f64::consts::LOG2_E) as f32;
                    let a: Vec<f32> = self.originals[name].iter().map(scaled).collect();
                    self.a.write(Stream::DEFAULT, &a)?;
                }
                "conv_gates" => {
                    let gates: Vec<f32> = self.softmax().into_iter().map(|gate| gate as f32).collect();
                    self.gates.write(Stream::DEFAULT, &gates)?;
                    self.mix_pointwise_bias()?;
                }
                _ => self.mix_pointwise_bias()?,
            }
        }
        self.gpu.synchronize()
    }

    /// exp(v_i) / Σ exp(v_j) of the gates.
    fn softmax(&self) -> Vec<f64> {
        let none = vec![0.0; self.branches];
        let gates = self.originals.get("conv_gates").unwrap_or(&none);
        let largest = gates.iter().copied().map(f64::from).fold(f64::NEG_INFINITY, f64::max);
        let powers: Vec<f64> = gates.iter().map(|&v| (f64::from(v) - largest).exp()).collect();
        let sum: f64 = powers.iter().sum();
        powers.iter().map(|power| power / sum).collect()
    }

    /// Σ gate_i · p_i, the bias of the pointwise products taken as one.
    fn mix_pointwise_bias(&self) -> Result<()> {
        let Some(Matrix { bias: Some(bias), .. }) = &self.pointwise else {
            return Ok(());
        };
        let mut mixed = vec![0.0; self.d_inner];
        for (i, gate) in self.softmax().into_iter().enumerate() {
            if let Some(values) = self.originals.get(&format!("pw_conv1d_layers.{i}.bias")) {
                for (mixed, &value) in mixed.iter_mut().zip(values) {
                    *mixed += gate * f64::from(value);
                }
            }
        }
        let mixed: Vec<f32> = mixed.into_iter().map(|v| v as f32).collect();
        let staged = Memory::zeroed(self.gpu, "pw_conv1d_layers", size_of_val(&mixed[..]))?;
        staged.write(Stream::DEFAULT, &mixed)?;
        let place = Place {
            memory: bias,
            storage: self.storage,
            start: 0,
            sides: [1, self.d_inner],
            strides: [0, 1],
        };
        self.copy(&place, &staged, true)
    }

    /// Copies between a parameter and f32 values in the state dict's order, and waits.
    fn copy(&self, place: &Place<'_>, values: &Memory, in_place: bool) -> Result<()> {
        let sides = [1, place.sides[0], place.sides[1]].map(|side| side as i64);
        let own = [0, place.strides[0] as i64, place.strides[1] as i64];
        let contiguous = [0, sides[2], 1];
        let address = place.memory.address() + (place.start * place.storage.size()) as u64;
        let [own_type, f32_type] = [place.storage, Storage::F32].map(|storage| storage.dtype() as u32);
        let arguments = if in_place {
            CopyArgs {
                from: values.address(),
                to: address,
                from_strides: contiguous,
                to_strides: own,
                sides,
                from_type: f32_type,
                to_type: own_type,
            }
        } else {
            CopyArgs {
                from: address,
                to: values.address(),
                from_strides: own,
                to_strides: contiguous,
                sides,
                from_type: own_type,
                to_type: f32_type,
            }
        };
        let _current = self.gpu.enter()?;
        // SAFETY: both tensors are as large as their sides say.
        unsafe { copy(self.gpu, Stream::DEFAULT, self.storage, &arguments) }?;
        self.gpu.synchronize()
    }
}

/// Enqueues a copy of a tensor, by the kernels of a layer's type. The device is current.
///
/// # Errors
/// `Cuda`
///
/// # Safety
/// Both tensors are on the device and as large as told.
pub unsafe fn copy(gpu: &Gpu, stream: Stream, storage: Storage, arguments: &CopyArgs) -> Result<()> {
    let count: i64 = arguments.sides.iter().product();
    if count == 0 {
        return Ok(());
    }
    let blocks = (count as usize).div_ceil(256).min(64 * gpu.multiprocessors() as usize);
    // SAFETY: the caller's promise.
    unsafe { gpu.launch(stream, Kernel::Copy, storage, [blocks, 1, 1], [256, 1], arguments) }
}
