//! Bytes that may be a saved cache: they are refused, or a cache comes out that saves as the same bytes and computes.
//!
//! The first byte of an input chooses the layer, and whether the checksum is made right first, which mutations alone
//! would never do.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use lite_mamba::{Cache, Config, DType, Layer, Tokens, Variant, threads};

fuzz_target!(|data: &[u8]| {
    let Some((&mode, data)) = data.split_first() else { return };
    let layer = &layers()[usize::from(mode & 7)];
    let mut saved = data.to_vec();
    if mode & 8 == 8
        && let Some(content) = saved.len().checked_sub(4)
    {
        let checksum = crc32fast::hash(&saved[..content]);
        saved[content..].copy_from_slice(&checksum.to_le_bytes());
    }
    let Ok(mut cache) = Cache::load(layer, &saved) else { return };
    let mut again = vec![0; cache.saved_len().unwrap()];
    assert_eq!(cache.save(&mut again).unwrap(), saved.len());
    assert_eq!(again, saved);

    let d_model = layer.dims().d_model;
    let mut tokens = vec![0.5f32; cache.batch() * d_model];
    layer.forward(Tokens::InPlace(&mut tokens), cache.batch(), 1, Some(&mut cache)).unwrap();
    assert_eq!(cache.saved_len().unwrap(), saved.len());
});

/// Of every variant and type, as small as they come.
fn layers() -> &'static [Layer] {
    static LAYERS: OnceLock<Vec<Layer>> = OnceLock::new();
    LAYERS.get_or_init(|| {
        threads::set_num_threads(1).unwrap();
        let types = [DType::F32, DType::F64, DType::Bf16, DType::F16];
        let layer = |(i, dtype)| {
            let variant = Variant::ALL[i % 4];
            let conv_dilations = if variant == Variant::Baseline { vec![1] } else { vec![1, 3] };
            let config =
                Config { conv_dilations, d_state: 2, d_conv: 2, dtype, ..Config::new(variant, 1 + i / 4) };
            Layer::new(&config).unwrap()
        };
        types.into_iter().chain(types).enumerate().map(layer).collect()
    })
}
