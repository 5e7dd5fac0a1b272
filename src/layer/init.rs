//! Seeded initial values: those of the reference's constructor after `torch.manual_seed(seed)`.
//!
//! Uniformly drawn parameters have the bits of PyTorch on an x86-64 CPU with AVX2; `A_log` and `dt_proj.bias`
//! go through logarithms and exponentials, whose last bits differ from PyTorch's vectorised ones.

use std::collections::BTreeMap;

use crate::error::{Error, ErrorKind, Result, fail};
use crate::layer::config::{Config, Dims, DtInit, Variant};
use crate::layer::names::parameter_list;
use crate::memory::check_fits;

/// The initial values of every parameter of [`parameter_list`], by name, row-major.
///
/// They depend on the sizes, the `dt_*` arguments and the low 32 bits of `config.seed` only.
///
/// # Errors
/// `InvalidConfig` where the range of `dt_proj.weight` overflows f32; `OutOfMemory` where the values do not fit
/// the machine's memory.
pub fn initial_values(config: &Config, dims: &Dims) -> Result<BTreeMap<String, Vec<f32>>> {
    let dt_init_std = dt_init_std(config, dims)?;
    let parameters = parameter_list(config, dims);
    let count = parameters.iter().fold(0usize, |sum, parameter| sum.saturating_add(parameter.count()));
    check_fits("the initial values", count.saturating_mul(size_of::<f32>()))?;

    let mut init = Init { rng: Mt19937::new(config.seed as u32), values: BTreeMap::new() };
    for parameter in parameters {
        let values = ones(&parameter.name, parameter.count())?;
        init.values.insert(parameter.name, values);
    }

    init.module("in_proj", dims.d_model);
    match config.variant {
        Variant::Ptcn | Variant::Stcn => {
            for i in 0..dims.branches {
                init.module(&format!("conv1d_layers.{i}"), dims.d_conv);
            }
        }
        Variant::Baseline => init.module("conv1d", dims.d_conv),
        Variant::Dpwc => {
            // The reference's base class draws depthwise branches that the subclass throws away.
            let per_channel = dims.d_conv + usize::from(config.conv_bias);
            for _ in 0..dims.branches * dims.d_inner * per_channel {
                init.rng.next_u32();
            }
        }
    }
    init.module("x_proj", dims.d_inner);

    // The default values come first and cost their draws, though both are replaced.
    init.module("dt_proj", dims.dt_rank);
    match config.dt_init {
        DtInit::Random => init.uniform("dt_proj.weight", dt_init_std),
        DtInit::Constant => init.fill("dt_proj.weight", dt_init_std as f32),
    }
    init.dt_bias(config);

    init.module("out_proj", dims.d_inner);
    if config.variant == Variant::Dpwc {
        for i in 0..dims.branches {
            init.module(&format!("dw_conv1d_layers.{i}"), dims.d_conv);
        }
        for i in 0..dims.branches {
            init.module(&format!("pw_conv1d_layers.{i}"), dims.d_inner);
        }
    }

    // `conv_gates` and `D` stay the ones they were made of.
    if let Some(a_log) = init.values.get_mut("A_log") {
        for row in a_log.chunks_exact_mut(dims.d_state) {
            for (n, value) in row.iter_mut().enumerate() {
                *value = ((n + 1) as f64).ln() as f32;
            }
        }
    }
    Ok(init.values)
}

/// Bound of the uniform distribution of `dt_proj.weight`, or its constant.
fn dt_init_std(config: &Config, dims: &Dims) -> Result<f64> {
    let std = (dims.dt_rank as f64).powf(-0.5) * config.dt_scale;
    let widest = match config.dt_init {
        DtInit::Random => 2.0 * std,
        DtInit::Constant => std,
    };
    if widest.abs() > f64::from(f32::MAX) {
        fail!(
            InvalidConfig,
            "dt_scale is {:e}; the initial dt_proj.weight must stay within the range of f32",
            config.dt_scale
        );
    }
    Ok(std)
}

/// `len` ones.
fn ones(name: &str, len: usize) -> Result<Vec<f32>> {
    let mut values = Vec::new();
    if values.try_reserve_exact(len).is_err() {
        let message = format!("no memory for the {len} values of parameter {name}");
        return Err(Error::new(ErrorKind::OutOfMemory, message));
    }
    values.resize(len, 1.0);
    Ok(values)
}

struct Init {
    rng: Mt19937,
    values: BTreeMap<String, Vec<f32>>,
}

impl Init {
    /// `kaiming_uniform_(a=√5)` of a Linear or Conv1d weight and the default of its bias, which have the same
    /// bound.
    fn module(&mut self, module: &str, fan_in: usize) {
        let bound = 1.0 / (fan_in as f64).sqrt();
        self.uniform(&format!("{module}.weight"), bound);
        self.uniform(&format!("{module}.bias"), bound);
    }

    /// Draws a parameter uniformly from ±`bound`; one that this layer lacks costs no draw.
    fn uniform(&mut self, name: &str, bound: f64) {
        // PyTorch computes fma(u, to − from, from) in f32. In f64 the product is exact and the sum needs no
        // more than 49 bits, so the cast is the one rounding, on every machine.
        let from = f64::from(-bound as f32);
        let range = f64::from(bound as f32 - -bound as f32);
        for value in self.values.get_mut(name).into_iter().flatten() {
            let u = f64::from(self.rng.next_unit());
            // dt_scale = 0 gives the range from -0 to +0, of which PyTorch returns the lower end.
            *value = if range == 0.0 { from as f32 } else { (u * range + from) as f32 };
        }
    }

    fn fill(&mut self, name: &str, value: f32) {
        if let Some(values) = self.values.get_mut(name) {
            values.fill(value);
        }
    }

    /// `dt_proj.bias`: softplus⁻¹ of a δ drawn log-uniformly from [`dt_min`, `dt_max`]. Each function rounds
    /// its f64 result to f32, so that it is correctly rounded but for rare ties.
    fn dt_bias(&mut self, config: &Config) {
        let log_min = config.dt_min.ln();
        let range = (config.dt_max.ln() - log_min) as f32;
        let log_min = log_min as f32;
        let floor = config.dt_init_floor as f32;
        for bias in self.values.get_mut("dt_proj.bias").into_iter().flatten() {
            let log_dt = self.rng.next_unit() * range + log_min;
            let dt = (f64::from(log_dt).exp() as f32).max(floor);
            let one_minus_exp = -(f64::from(-dt).exp_m1() as f32);
            *bias = dt + f64::from(one_minus_exp).ln() as f32;
        }
    }
}

/// The Mersenne Twister of Matsumoto and Nishimura (1998), PyTorch's generator on the CPU.
struct Mt19937 {
    state: [u32; Self::N],
    next: usize,
}

impl Mt19937 {
    const N: usize = 624;
    const M: usize = 397;

    fn new(seed: u32) -> Self {
        let mut state = [seed; Self::N];
        for i in 1..Self::N {
            let previous = state[i - 1];
            state[i] = 1_812_433_253_u32.wrapping_mul(previous ^ (previous >> 30)).wrapping_add(i as u32);
        }
        Mt19937 { state, next: Self::N }
    }

    fn next_u32(&mut self) -> u32 {
        if self.next == Self::N {
            self.twist();
            self.next = 0;
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// PyTorch's uniform f32 in [0, 1): the low 24 bits of one draw.
    fn next_unit(&mut self) -> f32 {
        (self.next_u32() & 0xff_ffff) as f32 / (1 << 24) as f32
    }

    fn twist(&mut self) {
        for i in 0..Self::N {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % Self::N] & 0x7fff_ffff);
            let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + Self::M) % Self::N] ^ (y >> 1) ^ odd;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn initial(config: &Config) -> Result<BTreeMap<String, Vec<f32>>> {
        initial_values(config, &config.dims()?)
    }

    #[test]
    fn generator_is_mt19937() {
        let mut rng = Mt19937::new(5489);
        assert_eq!(rng.next_u32(), 3_499_211_612);
        // The C++ standard, [rand.predef]: the 10,000th draw of the default seed.
        assert_eq!((1..10_000).map(|_| rng.next_u32()).last(), Some(4_123_659_995));
    }

    /// The first values of parameters as PyTorch 2.15 and lite-mamba 0.2.6 give them, as bits.
    fn assert_bits(config: &Config, expected: &[(&str, [u32; 3])]) {
        let values = initial(config).unwrap();
        for (name, bits) in expected {
            let found: Vec<u32> = values[*name][..3].iter().map(|v| v.to_bits()).collect();
            // Logarithms: PyTorch's vectorised ones may differ in the last bits.
            let ulps = if *name == "dt_proj.bias" { 2 } else { 0 };
            for (found, expected) in found.iter().zip(bits) {
                assert!(found.abs_diff(*expected) <= ulps, "{name}: {found:#x}, expected {expected:#x}");
            }
        }
    }

    #[test]
    fn ptcn_has_the_bits_of_pytorch() {
        let conv_dilations = vec![1, 2];
        let config = Config { expand: 1.5, conv_dilations, seed: 42, ..Config::new(Variant::Ptcn, 20) };
        assert_bits(
            &config,
            &[
                ("in_proj.weight", [0x3e2f0f18, 0x3e3e0cb9, 0xbd569191]),
                ("conv1d_layers.1.bias", [0x3d81b760, 0x3dda2148, 0xbd0b7a80]),
                ("x_proj.weight", [0x3e1f3fa4, 0xbc2c47a0, 0x3d111cd9]),
                ("dt_proj.weight", [0x3f2977de, 0x3cfb9a2e, 0x3eddc07d]),
                ("dt_proj.bias", [0xc095aabf, 0xc037ad46, 0xc0d0d01f]),
                ("out_proj.weight", [0x3e2c05e6, 0x3cf81aba, 0xbe064511]),
            ],
        );
    }

    #[test]
    fn dpwc_draws_its_branches_last_and_seeds_count_modulo_2p32() {
        let config = Config {
            conv_dilations: vec![1, 3],
            bias: true,
            conv_bias: false,
            seed: (1 << 32) + 7,
            ..Config::new(Variant::Dpwc, 6)
        };
        assert_bits(
            &config,
            &[
                ("in_proj.weight", [0x3ce9967a, 0xbe7bd412, 0x3e051d9f]),
                ("x_proj.weight", [0x3e1438d7, 0x3d63faa4, 0x3d21ccc4]),
                ("dt_proj.weight", [0xbecb9e54, 0xbe72d440, 0x3e834294]),
                ("dt_proj.bias", [0xc041e103, 0xc0a62bd5, 0xc087be6b]),
                ("out_proj.weight", [0xbe70d444, 0xbe80b7a9, 0x3de6a4c3]),
                ("out_proj.bias", [0xbe127be7, 0x3e426cae, 0xbe8ef9e9]),
                ("dw_conv1d_layers.1.weight", [0x3e7207cc, 0x3d13b1a0, 0xbec4674a]),
                ("pw_conv1d_layers.0.weight", [0xbe13041c, 0xbd8b8d1e, 0xbe12e698]),
                ("pw_conv1d_layers.1.bias", [0x3e56f3b0, 0x3e2b57ca, 0x3e0777b3]),
            ],
        );
        let same = Config { seed: 7, ..config.clone() };
        assert_eq!(initial(&config).unwrap(), initial(&same).unwrap());
    }

    #[test]
    fn undrawn_values() {
        let conv_dilations = vec![1, 2, 4];
        let dt_init = DtInit::Constant;
        let config = Config { d_state: 3, conv_dilations, dt_init, ..Config::new(Variant::Ptcn, 64) };
        let values = initial(&config).unwrap();
        assert_eq!(values["conv_gates"], [1.0; 3]);
        assert_eq!(values["D"], [1.0; 128]);
        assert_eq!(values["dt_proj.weight"], [0.5; 128 * 4]);
        let log3 = 3f64.ln() as f32;
        assert!(values["A_log"].chunks(3).all(|row| row == [0.0, std::f32::consts::LN_2, log3]));
    }

    #[test]
    fn an_empty_range_gives_its_lower_end() {
        let config = Config { dt_scale: 0.0, ..Config::new(Variant::Stcn, 4) };
        let values = initial(&config).unwrap();
        assert!(values["dt_proj.weight"].iter().all(|v| v.to_bits() == (-0.0f32).to_bits()));
    }

    #[test]
    fn dt_is_clamped_from_below() {
        let config =
            Config { dt_min: 1e-5, dt_max: 1e-4, dt_init_floor: 0.5, ..Config::new(Variant::Stcn, 8) };
        let bias = (f64::exp_m1(0.5)).ln() as f32; // softplus⁻¹(0.5)
        for value in &initial(&config).unwrap()["dt_proj.bias"] {
            assert!((value - bias).abs() < 2.5e-7, "{value}, expected {bias}");
        }
    }

    #[test]
    fn a_range_beyond_f32_is_an_error() {
        for (dt_init, dt_scale) in [(DtInit::Random, 3e38), (DtInit::Constant, -4e38)] {
            let config = Config { dt_init, dt_scale, ..Config::new(Variant::Stcn, 8) };
            let error = initial(&config).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert!(error.message().starts_with("dt_scale is"), "{error}");
        }
    }

    #[test]
    fn a_size_beyond_the_machine_is_an_error() {
        for d_model in [1 << 24, (1 << 38) + 1] {
            let config = Config::new(Variant::Stcn, d_model);
            assert_eq!(initial(&config).unwrap_err().kind(), ErrorKind::OutOfMemory);
        }
    }
}
