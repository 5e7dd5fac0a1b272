//! Layers of this library, made from golden files or at random, and the few calls that every test makes.

use lite_mamba::simd::Isa;
use lite_mamba::tensor::Element;
use lite_mamba::{Cache, Config, DType, DtInit, Layer, Tokens, Variant};

use super::golden::Golden;
use super::oracle::{self, OracleLayer};
use super::random::Random;
use super::widen;

/// The configuration of a golden file.
pub fn config(golden: &Golden) -> Config {
    let json = &golden.config;
    let name = json["variant"].as_str().expect("a variant");
    let variant = Variant::ALL.into_iter().find(|v| v.name() == name).expect("a known variant");
    let number = |key: &str| json[key].as_f64().unwrap_or_else(|| panic!("{}: {key}", golden.name));
    let flag = |key: &str| json[key].as_bool().unwrap_or_else(|| panic!("{}: {key}", golden.name));
    Config {
        d_state: golden.size("d_state"),
        d_conv: golden.size("d_conv"),
        conv_dilations: golden.oracle().dilations,
        expand: number("expand"),
        dt_rank: json["dt_rank"].as_u64().map(|rank| rank as usize),
        dt_min: number("dt_min"),
        dt_max: number("dt_max"),
        dt_init: if json["dt_init"] == "constant" { DtInit::Constant } else { DtInit::Random },
        dt_scale: number("dt_scale"),
        dt_init_floor: number("dt_init_floor"),
        conv_bias: flag("conv_bias"),
        bias: flag("bias"),
        layer_idx: json["layer_idx"].as_u64(),
        seed: golden.seed.unwrap_or(0),
        ..Config::new(variant, golden.size("d_model"))
    }
}

/// The layer of a golden file in a storage type, computing with the instructions of `isa`.
pub fn layer(golden: &Golden, dtype: DType, isa: Isa) -> Layer {
    let config = Config { dtype, ..config(golden) };
    let mut layer = Layer::with_isa(&config, isa).expect("a valid configuration");
    for (name, tensor) in golden.weights() {
        layer.set_parameter(name, &tensor.values).expect("a parameter of the layer");
    }
    layer
}

/// A layer whose parameters are all different from each other: the initial ones, and what starts alike
/// (`A_log` over the channels, `D`, `conv_gates`) or in a narrow range (the bias of δ) spread out.
pub fn random_layer(config: &Config, isa: Isa, seed: u64) -> Layer {
    let mut layer = Layer::with_isa(config, isa).expect("a valid configuration");
    let mut random = Random(seed);
    for info in layer.parameters().to_vec() {
        let spread = match info.name.as_str() {
            "A_log" | "D" => 1.0,
            "conv_gates" | "dt_proj.bias" => 2.0,
            _ => continue,
        };
        let mut values = parameter(&layer, &info.name);
        for value in &mut values {
            *value += random.uniform(-spread, spread) as f32;
        }
        layer.set_parameter(&info.name, &values).expect("a parameter of the layer");
    }
    layer
}

/// A parameter of a layer.
pub fn parameter(layer: &Layer, name: &str) -> Vec<f32> {
    let info = layer.parameters().iter().find(|info| info.name == name).expect("a parameter");
    let mut values = vec![f32::NAN; info.count()];
    layer.get_parameter(name, &mut values).expect("a valid call");
    values
}

/// The same layer in float64.
pub fn oracle(layer: &Layer) -> OracleLayer {
    let dims = layer.dims();
    OracleLayer {
        variant: match layer.config().variant {
            Variant::Ptcn => oracle::Variant::Ptcn,
            Variant::Stcn => oracle::Variant::Stcn,
            Variant::Dpwc => oracle::Variant::Dpwc,
            Variant::Baseline => oracle::Variant::Baseline,
        },
        d_model: dims.d_model,
        d_inner: dims.d_inner,
        d_state: dims.d_state,
        d_conv: dims.d_conv,
        dt_rank: dims.dt_rank,
        dilations: layer.config().conv_dilations.clone(),
        params: layer
            .parameters()
            .iter()
            .map(|info| (info.name.clone(), (info.shape.clone(), widen(&parameter(layer, &info.name)))))
            .collect(),
    }
}

/// The nearest values of a type, ties to even.
pub fn converted<T: Element>(values: &[f32]) -> Vec<T> {
    values.iter().map(|v| v.convert()).collect()
}

/// All tokens in one call, from the beginning or on from a cache.
pub fn forward<T: Element>(layer: &Layer, x: &[T], batch: usize, cache: Option<&mut Cache>) -> Vec<T> {
    let seqlen = x.len().checked_div(batch).unwrap_or(0) / layer.dims().d_model;
    let mut y = vec![T::from_f64(f64::NAN); x.len()];
    layer.forward(Tokens::Separate { x, y: &mut y }, batch, seqlen, cache).expect("a valid call");
    y
}

/// The same with each output in its input's place.
pub fn forward_in_place<T: Element>(
    layer: &Layer,
    x: &[T],
    batch: usize,
    cache: Option<&mut Cache>,
) -> Vec<T> {
    let seqlen = x.len().checked_div(batch).unwrap_or(0) / layer.dims().d_model;
    let mut both = x.to_vec();
    layer.forward(Tokens::InPlace(&mut both), batch, seqlen, cache).expect("a valid call");
    both
}

/// Tokens `range` of (batch, seqlen, d_model).
pub fn tokens<T: Copy>(x: &[T], batch: usize, d_model: usize, range: std::ops::Range<usize>) -> Vec<T> {
    let sequence = x.len() / batch;
    x.chunks_exact(sequence.max(1))
        .flat_map(|x| &x[range.start * d_model..range.end * d_model])
        .copied()
        .collect()
}

/// All tokens in chunks of the given lengths, which add up to the sequence, through a cache.
pub fn chunked<T: Element>(
    layer: &Layer,
    x: &[T],
    batch: usize,
    lengths: &[usize],
    cache: &mut Cache,
) -> Vec<T> {
    let d_model = layer.dims().d_model;
    let sequence = x.len() / batch;
    let mut y = vec![T::from_f64(f64::NAN); x.len()];
    let mut start = 0;
    for &length in lengths {
        let part = forward(layer, &tokens(x, batch, d_model, start..start + length), batch, Some(cache));
        for (b, part) in part.chunks_exact((length * d_model).max(1)).enumerate() {
            y[b * sequence + start * d_model..][..part.len()].copy_from_slice(part);
        }
        start += length;
    }
    assert_eq!(start * d_model, sequence, "the chunks make up the sequence");
    y
}

/// The bits of each value in f64, which compare where NaN is equal to itself and −0 is not 0.
pub fn bits<T: Element>(values: &[T]) -> Vec<u64> {
    values.iter().map(|v| v.to_f64().to_bits()).collect()
}

/// A tensor of the cache's state.
pub fn state<T: Element>(cache: &Cache, name: &str) -> Vec<T> {
    let info = cache.states().iter().find(|info| info.name == name).expect("a state");
    let mut values = vec![T::from_f64(f64::NAN); info.shape.iter().product()];
    cache.get_state(name, &mut values).expect("a valid call");
    values
}

/// The bits of every tensor of the cache's state.
pub fn state_bits(cache: &Cache) -> Vec<Vec<u64>> {
    cache.states().iter().map(|info| bits(&state::<f64>(cache, &info.name))).collect()
}
