//! Layers of this library made from golden files, and the few calls that every test makes.

use lite_mamba::simd::Isa;
use lite_mamba::{Cache, Config, DtInit, Layer, Tokens, Variant};

use super::golden::Golden;

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

/// The layer of a golden file, computing with the instructions of `isa`.
pub fn layer(golden: &Golden, isa: Isa) -> Layer {
    let mut layer = Layer::with_isa(&config(golden), isa).expect("a valid configuration");
    for (name, tensor) in golden.weights() {
        layer.set_parameter(name, &tensor.values).expect("a parameter of the layer");
    }
    layer
}

/// All tokens in one call, from the beginning or on from a cache.
pub fn forward(layer: &Layer, x: &[f32], batch: usize, cache: Option<&mut Cache>) -> Vec<f32> {
    let seqlen = if batch == 0 { 0 } else { x.len() / batch / layer.dims().d_model };
    let mut y = vec![f32::NAN; x.len()];
    layer.forward(Tokens::Separate { x, y: &mut y }, batch, seqlen, cache).expect("a valid call");
    y
}

/// Tokens `range` of (batch, seqlen, d_model).
pub fn tokens(x: &[f32], batch: usize, d_model: usize, range: std::ops::Range<usize>) -> Vec<f32> {
    let sequence = x.len() / batch;
    x.chunks_exact(sequence).flat_map(|x| &x[range.start * d_model..range.end * d_model]).copied().collect()
}

/// All tokens in chunks of the given lengths, which add up to the sequence, through a cache.
pub fn chunked(layer: &Layer, x: &[f32], batch: usize, lengths: &[usize], cache: &mut Cache) -> Vec<f32> {
    let d_model = layer.dims().d_model;
    let sequence = x.len() / batch;
    let mut y = vec![f32::NAN; x.len()];
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

/// The bits of each value, which compare where NaN is equal to itself and −0 is not 0.
pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// A tensor of the cache's state.
pub fn state(cache: &Cache, name: &str) -> Vec<f32> {
    let info = cache.states().iter().find(|info| info.name == name).expect("a state");
    let mut values = vec![f32::NAN; info.shape.iter().product()];
    cache.get_state(name, &mut values).expect("a valid call");
    values
}
