//! Bytes that may be a safetensors file: they are refused, or a layer comes out that computes, and that is the same
//! after it has been saved and loaded again.
//!
//! The first byte of an input chooses whether a prefix and a configuration are given. The length that a file begins with
//! is made right unless that byte says otherwise: mutations alone would seldom get beyond it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lite_mamba::{Config, Layer, Tokens, Variant, threads, weights};

/// Values of a parameter or a history, at most.
const MOST: usize = 1 << 14;

fuzz_target!(|data: &[u8]| {
    let Some((&mode, data)) = data.split_first() else { return };
    threads::set_num_threads(1).unwrap();
    let mut file = data.to_vec();
    if mode & 4 == 0
        && let Some(end) = file.iter().rposition(|&byte| byte == b'}')
        && end >= 8
    {
        file[..8].copy_from_slice(&(end as u64 - 7).to_le_bytes());
    }
    let prefix = (mode & 1 == 1).then_some("m");
    let config = Config { d_state: 1, d_conv: 1, ..Config::new(Variant::Baseline, 1) };
    let config = (mode & 2 == 2).then_some(&config);
    let Ok(layer) = weights::load_memory(&file, prefix, config) else { return };
    let parameters = layer.parameters().iter().map(|info| info.count());
    if parameters.chain(layer.dims().conv_state_lens.iter().copied()).any(|count| count > MOST) {
        return;
    }
    let d_model = layer.dims().d_model;
    let mut tokens = vec![0.25f32; 3 * d_model];
    layer.forward(Tokens::InPlace(&mut tokens), 1, 3, None).unwrap();

    let path = std::env::temp_dir().join(format!("lite_mamba_fuzz_{}.safetensors", std::process::id()));
    weights::save(&layer, &path).unwrap();
    let again = weights::load(&path, None, None).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(again.config().dtype, layer.config().dtype);
    for info in layer.parameters() {
        assert_eq!(bits(&again, &info.name), bits(&layer, &info.name), "{}", info.name);
    }
});

fn bits(layer: &Layer, name: &str) -> Vec<u64> {
    let mut values = vec![0.0f64; layer.parameter(name).unwrap().count()];
    layer.get_parameter(name, &mut values).unwrap();
    values.into_iter().map(|value| if value.is_nan() { u64::MAX } else { value.to_bits() }).collect()
}
