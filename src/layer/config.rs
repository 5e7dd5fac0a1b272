//! The configuration of a layer: every argument of the reference's constructor, checked once.

use crate::error::{Result, fail};
use crate::tensor::DType;

/// How the dilated causal convolutions are combined into the input of the state space model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Variant {
    /// Parallel branches, mixed by softmax gates (the reference's `PTCNMamba`, also its `Mamba`).
    Ptcn = 0,
    /// Stacked branches, each fed by the one before, no gates (`STCNMamba`).
    Stcn = 1,
    /// Parallel depthwise branches, each followed by a pointwise product, mixed by gates (`DPWCMamba`).
    Dpwc = 2,
    /// One convolution of dilation 1: the block of `state-spaces/mamba` (`BaselineMamba`).
    Baseline = 3,
}

impl Variant {
    /// All variants, in the order of their numbers.
    pub const ALL: [Variant; 4] = [Variant::Ptcn, Variant::Stcn, Variant::Dpwc, Variant::Baseline];

    /// The name used in files and messages: `PTCN`, `STCN`, `DPWC` or `Baseline`.
    pub fn name(self) -> &'static str {
        match self {
            Variant::Ptcn => "PTCN",
            Variant::Stcn => "STCN",
            Variant::Dpwc => "DPWC",
            Variant::Baseline => "Baseline",
        }
    }

    /// Whether the branches are mixed by `softmax(conv_gates)`.
    pub fn is_gated(self) -> bool {
        matches!(self, Variant::Ptcn | Variant::Dpwc)
    }
}

/// How `dt_proj.weight` is initialised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum DtInit {
    /// Uniform in ±`dt_rank`^-½ · `dt_scale`.
    Random = 0,
    /// The constant `dt_rank`^-½ · `dt_scale`.
    Constant = 1,
}

/// Where the layer lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
#[allow(missing_docs)]
pub enum Device {
    Cpu = 0,
    Cuda = 1,
}

/// The arithmetic of matrix products on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Math {
    /// The storage type's own arithmetic (true f32 for f32).
    Default = 0,
    /// TF32 for f32 layers on CUDA; without effect elsewhere.
    Tf32 = 1,
}

/// Every argument of the reference's constructor, under its name and with its default, and what this
/// library adds: the device, the arithmetic and the seed of the initial values.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Which of the four layers.
    pub variant: Variant,
    /// Width of the input and the output, ≥ 1.
    pub d_model: usize,
    /// States per channel, ≥ 1.
    pub d_state: usize,
    /// Taps of each convolution, ≥ 1.
    pub d_conv: usize,
    /// One dilation ≥ 1 per branch, at least one branch; exactly `[1]` for [`Variant::Baseline`].
    pub conv_dilations: Vec<usize>,
    /// `d_inner` is `expand · d_model` truncated, in f64.
    pub expand: f64,
    /// Rank of the δ projection; `None` is ⌈d_model / 16⌉.
    pub dt_rank: Option<usize>,
    /// Smallest initial δ, > 0.
    pub dt_min: f64,
    /// Largest initial δ, ≥ `dt_min`.
    pub dt_max: f64,
    /// How `dt_proj.weight` starts.
    pub dt_init: DtInit,
    /// Scale of the initial `dt_proj.weight`, finite; ≥ 0 for [`DtInit::Random`].
    pub dt_scale: f64,
    /// Lower clamp of the initial δ, ≥ 0.
    pub dt_init_floor: f64,
    /// Whether the depthwise convolutions have a bias.
    pub conv_bias: bool,
    /// Whether `in_proj` and `out_proj` have a bias.
    pub bias: bool,
    /// Accepted for the reference's sake; changes nothing there or here.
    pub use_fast_path: bool,
    /// The layer's number in its model, the key of its cache among several layers.
    pub layer_idx: Option<u64>,
    /// Storage type of the parameters.
    pub dtype: DType,
    /// Where parameters, caches and arithmetic live.
    pub device: Device,
    /// Which GPU, for [`Device::Cuda`].
    pub device_index: u32,
    /// Arithmetic of matrix products on a GPU.
    pub math: Math,
    /// Seed of the initial values, as `torch.manual_seed`; its low 32 bits count.
    pub seed: u64,
}

impl Config {
    /// The reference's defaults for a layer of width `d_model`.
    pub fn new(variant: Variant, d_model: usize) -> Self {
        Config {
            variant,
            d_model,
            d_state: 16,
            d_conv: 4,
            conv_dilations: vec![1],
            expand: 2.0,
            dt_rank: None,
            dt_min: 0.001,
            dt_max: 0.1,
            dt_init: DtInit::Random,
            dt_scale: 1.0,
            dt_init_floor: 1e-4,
            conv_bias: true,
            bias: false,
            use_fast_path: false,
            layer_idx: None,
            dtype: DType::F32,
            device: Device::Cpu,
            device_index: 0,
            math: Math::Default,
            seed: 0,
        }
    }

    /// Which GPU the layer lives on; `None` for the processor.
    pub(crate) fn device_number(&self) -> Option<u32> {
        (self.device == Device::Cuda).then_some(self.device_index)
    }

    /// Checks every field and resolves the sizes that follow from them.
    ///
    /// # Errors
    /// `InvalidConfig` naming the field; `OutOfMemory` if a size overflows; `Cuda` for a device that this build
    /// cannot run on.
    pub fn dims(&self) -> Result<Dims> {
        positive("d_model", self.d_model)?;
        positive("d_state", self.d_state)?;
        positive("d_conv", self.d_conv)?;
        if let Some(rank) = self.dt_rank {
            positive("dt_rank", rank)?;
        }
        if self.conv_dilations.is_empty() {
            fail!(InvalidConfig, "conv_dilations is empty; it must hold at least one dilation");
        }
        if let Some(i) = self.conv_dilations.iter().position(|&d| d < 1) {
            fail!(InvalidConfig, "conv_dilations[{i}] is 0; every dilation must be at least 1");
        }
        if self.variant == Variant::Baseline && self.conv_dilations != [1] {
            fail!(
                InvalidConfig,
                "conv_dilations is {:?}; the Baseline variant takes exactly one branch of dilation 1",
                self.conv_dilations
            );
        }
        if !(self.expand.is_finite() && self.expand > 0.0) {
            fail!(InvalidConfig, "expand is {}; it must be a positive finite number", self.expand);
        }
        // Truncated in f64 as the reference does: 0.7 · 10 is 7 here and 6 in f32.
        let d_inner = (self.expand * self.d_model as f64).trunc();
        if d_inner < 1.0 {
            fail!(
                InvalidConfig,
                "expand is {} and d_model {}; their product must be at least 1",
                self.expand,
                self.d_model
            );
        }
        positive_finite("dt_min", self.dt_min)?;
        positive_finite("dt_max", self.dt_max)?;
        if self.dt_min > self.dt_max {
            fail!(
                InvalidConfig,
                "dt_min is {} and dt_max {}; dt_min must not be larger",
                self.dt_min,
                self.dt_max
            );
        }
        if !self.dt_scale.is_finite() || (self.dt_init == DtInit::Random && self.dt_scale < 0.0) {
            fail!(
                InvalidConfig,
                "dt_scale is {}; it must be finite, and not negative for random dt_init",
                self.dt_scale
            );
        }
        if !(self.dt_init_floor.is_finite() && self.dt_init_floor >= 0.0) {
            fail!(
                InvalidConfig,
                "dt_init_floor is {}; it must be finite and not negative",
                self.dt_init_floor
            );
        }
        if self.layer_idx.is_some_and(|i| i > i64::MAX as u64) {
            fail!(InvalidConfig, "layer_idx is {}; it must fit 63 bits", self.layer_idx.unwrap_or(0));
        }
        if self.device == Device::Cuda {
            #[cfg(not(feature = "cuda"))]
            fail!(Cuda, "device is CUDA; this library was built without CUDA support");
            #[cfg(feature = "cuda")]
            crate::cuda::check(self)?;
        }
        Dims::new(self, d_inner)
    }
}

/// The sizes that a [`Config`] resolves to, all of them checked against overflow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dims {
    /// D: width of the input and the output.
    pub d_model: usize,
    /// E: channels of the convolutions and of the state space model.
    pub d_inner: usize,
    /// N: states per channel.
    pub d_state: usize,
    /// W: taps of each convolution.
    pub d_conv: usize,
    /// R: rank of the δ projection.
    pub dt_rank: usize,
    /// k: number of convolutions.
    pub branches: usize,
    /// `(W−1)·d + 1` for each branch: the inputs that the reference keeps.
    pub conv_state_lens: Vec<usize>,
}

impl Dims {
    fn new(config: &Config, d_inner: f64) -> Result<Self> {
        // No machine holds a matrix with a side of 2^40; below it every product of two sides fits in 128 bits.
        const MAX_SIDE: usize = 1 << 40;
        let d_model = config.d_model;
        let dt_rank = config.dt_rank.unwrap_or(d_model.div_ceil(16));
        let d_inner = if d_inner < MAX_SIDE as f64 { d_inner as usize } else { usize::MAX };
        for (name, size) in [
            ("d_model", d_model),
            ("expand · d_model", d_inner),
            ("d_state", config.d_state),
            ("d_conv", config.d_conv),
            ("dt_rank", dt_rank),
            ("num_conv_dilations", config.conv_dilations.len()),
        ] {
            if size >= MAX_SIDE {
                fail!(OutOfMemory, "{name} is {size}; a layer of that size fits no machine's memory");
            }
        }
        let conv_state_lens = config
            .conv_dilations
            .iter()
            .enumerate()
            .map(|(i, &dilation)| match (config.d_conv - 1).checked_mul(dilation).and_then(|n| n.checked_add(1)) {
                Some(n) if n < MAX_SIDE => Ok(n),
                _ => fail!(
                    OutOfMemory,
                    "conv_dilations[{i}] is {dilation} and d_conv {}; the history they need fits no machine's memory",
                    config.d_conv
                ),
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Dims {
            d_model,
            d_inner,
            d_state: config.d_state,
            d_conv: config.d_conv,
            dt_rank,
            branches: config.conv_dilations.len(),
            conv_state_lens,
        })
    }
}

fn positive(name: &str, value: usize) -> Result<()> {
    if value == 0 {
        fail!(InvalidConfig, "{name} is 0; it must be at least 1");
    }
    Ok(())
}

fn positive_finite(name: &str, value: f64) -> Result<()> {
    if !(value.is_finite() && value > 0.0) {
        fail!(InvalidConfig, "{name} is {value}; it must be a positive finite number");
    }
    Ok(())
}
