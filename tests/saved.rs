//! The saved form of a cache: whatever was done to it, it is read rightly or refused.

mod common;

use common::layers::random_layer;
use common::random::Random;
use lite_mamba::simd::Isa;
use lite_mamba::{Cache, Config, DType, ErrorKind, Layer, Tokens, Variant};

fn config(variant: Variant, dtype: DType) -> Config {
    let conv_dilations = if variant == Variant::Baseline { vec![1] } else { vec![1, 3] };
    Config { conv_dilations, d_state: 2, d_conv: 3, dtype, ..Config::new(variant, 3) }
}

fn layer(variant: Variant) -> Layer {
    Layer::new(&config(variant, DType::F32)).unwrap()
}

/// Two sequences of which the second has seen more, with states that are known to the bit.
fn cache(layer: &Layer, held: DType) -> Cache {
    let mut cache = Cache::with_dtype(layer, 2, held).unwrap();
    let mut both = [0.5f32; 7 * 3];
    layer.forward_varlen(Tokens::InPlace(&mut both), &[0, 2, 7], Some(&mut cache)).unwrap();
    for (i, info) in cache.states().to_vec().iter().enumerate() {
        let count: usize = info.shape.iter().product();
        let values: Vec<f32> = (0..count).map(|j| (100 * i + j) as f32 / 4.0 - 3.0).collect();
        cache.set_state(&info.name, &values).unwrap();
    }
    cache
}

fn save(cache: &Cache) -> Vec<u8> {
    let mut saved = vec![0xaa; cache.saved_len().unwrap()];
    assert_eq!(cache.save(&mut saved).unwrap(), saved.len());
    saved
}

fn states(cache: &Cache) -> Vec<Vec<f64>> {
    let read = |info: &lite_mamba::StateInfo| {
        let mut values = vec![f64::NAN; info.shape.iter().product()];
        cache.get_state(&info.name, &mut values).unwrap();
        values
    };
    cache.states().iter().map(read).collect()
}

const TYPES: [DType; 4] = [DType::F32, DType::F64, DType::Bf16, DType::F16];

#[test]
fn what_was_saved_comes_back() {
    for variant in Variant::ALL {
        let layer = layer(variant);
        for held in TYPES {
            let cache = cache(&layer, held);
            let saved = save(&cache);
            let loaded = Cache::load(&layer, &saved).unwrap();
            assert_eq!((loaded.dtype(), loaded.batch(), loaded.seqlen_offset()), (held, 2, 5));
            assert_eq!(states(&loaded), states(&cache));
            assert_eq!(save(&loaded), saved);
        }
        let empty = Cache::new(&layer, 0, 0).unwrap();
        assert_eq!(Cache::load(&layer, &save(&empty)).unwrap().batch(), 0);
    }
}

/// Where the rings stand does not show.
#[test]
fn the_same_state_gives_the_same_bytes() {
    let layer = layer(Variant::Ptcn);
    let source = cache(&layer, DType::F32);
    let mut other = Cache::new(&layer, 2, 0).unwrap();
    let mut both = [1.5f32; 2 * 9 * 3];
    layer.forward(Tokens::InPlace(&mut both), 2, 9, Some(&mut other)).unwrap();
    for lane in 0..2 {
        other.copy_lane(lane, &source, lane).unwrap();
    }
    assert_eq!(save(&other), save(&source));
}

#[test]
fn a_cut_or_altered_one_is_an_error() {
    let layer = layer(Variant::Stcn);
    for held in [DType::F32, DType::F16] {
        let saved = save(&cache(&layer, held));
        for len in 0..saved.len() {
            let error = Cache::load(&layer, &saved[..len]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Format, "{len} bytes: {error}");
        }
        let longer = [&saved[..], &[0]].concat();
        assert_eq!(Cache::load(&layer, &longer).unwrap_err().kind(), ErrorKind::Format);
        for i in 0..saved.len() {
            for bit in 0..8 {
                let mut altered = saved.clone();
                altered[i] ^= 1 << bit;
                let error = Cache::load(&layer, &altered).unwrap_err();
                // The version is looked at first: a later one may have another checksum.
                let expected = if (8..12).contains(&i) { ErrorKind::Unsupported } else { ErrorKind::Format };
                assert_eq!(error.kind(), expected, "bit {bit} of byte {i}: {error}");
            }
        }
    }
}

/// With a checksum that is right, what it says must still be possible.
#[test]
fn a_forged_one_is_an_error() {
    let layer = layer(Variant::Ptcn);
    let saved = save(&cache(&layer, DType::F32));
    let batch_at = 16;
    let offset_at = 24 + 8 * (8 + 2);
    assert_eq!(saved[batch_at..][..8], 2u64.to_le_bytes());
    assert_eq!(saved[offset_at..][..8], 2u64.to_le_bytes());
    for (at, value, kind) in [
        (batch_at, 3u64, ErrorKind::Format),
        (batch_at, 0, ErrorKind::Format),
        (batch_at, 1 << 40, ErrorKind::Format),
        (batch_at, u64::MAX, ErrorKind::OutOfMemory),
        (offset_at, u64::MAX, ErrorKind::Format),
        (12, 5 << 32, ErrorKind::Format),
    ] {
        let mut forged = saved.clone();
        forged[at..at + 8].copy_from_slice(&value.to_le_bytes());
        let content = forged.len() - 4;
        let checksum = crc32fast::hash(&forged[..content]);
        forged[content..].copy_from_slice(&checksum.to_le_bytes());
        let error = Cache::load(&layer, &forged).unwrap_err();
        assert_eq!(error.kind(), kind, "{value} at {at}: {error}");
    }
}

#[test]
fn one_of_another_layer_is_an_error_that_says_how_it_differs() {
    let base = config(Variant::Ptcn, DType::F32);
    let saved = save(&cache(&Layer::new(&base).unwrap(), DType::F32));
    let others = [
        (Config { variant: Variant::Stcn, ..base.clone() }, "variant"),
        (Config { dtype: DType::F64, ..base.clone() }, "dtype"),
        (Config { d_model: 4, expand: 1.5, ..base.clone() }, "d_model"),
        (Config { expand: 3.0, ..base.clone() }, "d_inner"),
        (Config { d_state: 3, ..base.clone() }, "d_state"),
        (Config { d_conv: 2, ..base.clone() }, "d_conv"),
        (Config { dt_rank: Some(2), ..base.clone() }, "dt_rank"),
        (Config { conv_dilations: vec![1], ..base.clone() }, "num_conv_dilations"),
        (Config { conv_dilations: vec![1, 4], ..base }, "dilation"),
    ];
    for (other, what) in others {
        let error = Cache::load(&Layer::new(&other).unwrap(), &saved).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ShapeMismatch, "{error}");
        assert!(error.message().contains(what), "{error}");
    }
}

#[test]
fn a_buffer_that_is_too_small_is_left_alone() {
    let layer = layer(Variant::Dpwc);
    let cache = cache(&layer, DType::Bf16);
    let len = cache.saved_len().unwrap();
    let mut buffer = vec![0xaa; len - 1];
    let error = cache.save(&mut buffer).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BufferTooSmall, "{error}");
    assert!(buffer.iter().all(|&byte| byte == 0xaa));
    let mut longer = vec![0xaa; len + 3];
    assert_eq!(cache.save(&mut longer).unwrap(), len);
    assert_eq!((&longer[..len], &longer[len..]), (&save(&cache)[..], &[0xaa; 3][..]));
}

/// The files of `tests/saved` were written by version 0.1.0 of this library, and must load for ever.
/// `LITE_MAMBA_WRITE_SAVED=1 cargo test --test saved` writes those that are not there.
#[test]
fn what_earlier_versions_saved_still_loads() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/saved");
    for variant in Variant::ALL {
        for held in TYPES {
            let layer = layer(variant);
            let expected = cache(&layer, held);
            let path = format!("{directory}/v1_{}_{held:?}.bin", variant.name()).to_lowercase();
            let path = path.replace(&directory.to_lowercase(), directory);
            if std::env::var_os("LITE_MAMBA_WRITE_SAVED").is_some() && !std::fs::exists(&path).unwrap() {
                std::fs::write(&path, save(&expected)).unwrap();
            }
            let saved = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
            let loaded = Cache::load(&layer, &saved).unwrap();
            assert_eq!(states(&loaded), states(&expected));
            assert_eq!(loaded.seqlen_offset(), 5);
            assert_eq!(saved, save(&expected), "this version saves in the same form");
        }
    }
}

/// A stream moves to another process's layer and goes on there.
#[test]
fn a_stream_goes_on_where_it_was_saved() {
    for dtype in TYPES {
        let config = config(Variant::Dpwc, dtype);
        let here = random_layer(&config, Isa::current(), 3);
        let there = random_layer(&config, Isa::current(), 3);
        let x = Random(9).values(20 * 3);
        let mut whole = x.clone();
        here.forward(Tokens::InPlace(&mut whole), 1, 20, None).unwrap();
        let mut before = x[..11 * 3].to_vec();
        let mut cache = Cache::new(&here, 1, 0).unwrap();
        here.forward(Tokens::InPlace(&mut before), 1, 11, Some(&mut cache)).unwrap();
        let mut cache = Cache::load(&there, &save(&cache)).unwrap();
        let mut after = x[11 * 3..].to_vec();
        there.forward(Tokens::InPlace(&mut after), 1, 9, Some(&mut cache)).unwrap();
        assert_eq!([before, after].concat(), whole);
    }
}
