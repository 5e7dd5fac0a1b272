//! The layer on a GPU against the reference's numbers and the float64 oracle. All but the first test need a GPU and are
//! ignored elsewhere: `make test-cuda` runs them.
#![cfg(feature = "cuda")]

mod common;

use std::ffi::c_void;
use std::ptr::{from_mut, from_ref, null_mut};

use common::c_abi::{build_info, last_error, lm_cuda_available, lm_forward_dlpack, lm_step_dlpack};
use common::golden::{self, TypedGolden};
use common::layers::{self, bits, oracle, parameter, random_layer};
use common::oracle::OracleLayer;
use common::random::Random;
use common::{relative_error, relative_error_f32, widen};
use cudarc::driver::sys;
use half::{bf16, f16};
use lite_mamba::cuda::{self, Calls, DeviceTokens, Engine, Memory, Part, State, Storage, Stream};
use lite_mamba::ffi::{DLDataType, DLDevice, DLTensor};
use lite_mamba::simd::Isa;
use lite_mamba::{Cache, Config, DType, Device, ErrorKind, Layer, Math, Tokens, Variant};

/// Our error may be twice that of PyTorch's f32 on the same case, or this, whichever is larger.
const FLOOR: f64 = 2e-6;
/// In the types of 16 bits it may be so many times the reference's own, of forward or of steps, in that type; or the
/// type's epsilon, for what is rounded on the way is only mostly what PyTorch rounds.
const REFERENCE: f64 = 1.2;

#[test]
fn without_a_gpu_the_reason_is_told() {
    if let Err(error) = cuda::available() {
        assert_eq!(error.kind(), ErrorKind::Cuda);
        assert!(error.message().contains("CUDA"), "{error}");
        let config = Config::new(Variant::Ptcn, 8);
        let dims = config.dims().unwrap();
        let config = Config { device: Device::Cuda, ..config };
        let refused = Layer::new(&config).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Cuda);
        assert_eq!(refused.message(), format!("device is CUDA, but {}", error.message()));
        assert_eq!(Engine::new(&config, &dims).unwrap_err(), refused);
    } else {
        let config = Config { device: Device::Cuda, ..Config::new(Variant::Ptcn, 8) };
        for (config, kind, word) in [
            (Config { device_index: 1000, ..config.clone() }, ErrorKind::Cuda, "device_index is 1000"),
            (Config { dtype: DType::F64, ..config.clone() }, ErrorKind::Unsupported, "dtype is F64"),
            (Config { d_state: 257, ..config.clone() }, ErrorKind::Unsupported, "d_state is 257"),
            (Config { d_model: 1 << 20, expand: 1e4, ..config.clone() }, ErrorKind::OutOfMemory, ""),
        ] {
            let error = Layer::new(&config).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.message().contains(word), "{error}");
        }
    }
}

/// All, or as many as `PROPTEST_CASES` says: a sanitizer slows down by a hundred times what is launched.
fn some<T>(all: &[T]) -> impl Iterator<Item = &T> {
    let wanted = std::env::var("PROPTEST_CASES").map_or(all.len(), |n| n.parse().expect("a number"));
    all.iter().step_by(all.len().div_ceil(wanted.max(1)).max(1))
}

fn round(storage: Storage, values: &[f32]) -> Vec<f32> {
    match storage {
        Storage::F32 => values.to_vec(),
        Storage::Bf16 => values.iter().map(|&v| bf16::from_f32(v).to_f32()).collect(),
        Storage::F16 => values.iter().map(|&v| f16::from_f32(v).to_f32()).collect(),
    }
}

/// The oracle with the layer's parameters, as they are when stored so.
fn rounded_oracle(layer: &Layer, storage: Storage) -> OracleLayer {
    let mut oracle = oracle(layer);
    for (name, (_, values)) in &mut oracle.params {
        if !matches!(name.as_str(), "A_log" | "D" | "conv_gates") {
            *values = widen(&round(storage, &values.iter().map(|&v| v as f32).collect::<Vec<_>>()));
        }
    }
    oracle
}

/// The same layer on the GPU.
fn engine(layer: &Layer, storage: Storage) -> Engine {
    let config = Config { dtype: storage.dtype(), ..layer.config().clone() };
    let mut engine = Engine::new(&config, layer.dims()).expect("a GPU with room");
    for info in layer.parameters() {
        let values = parameter(layer, &info.name);
        engine.parameters_mut().set(&info.name, &values).unwrap();
        let mut back = vec![f32::NAN; values.len()];
        engine.parameters().get(&info.name, &mut back).unwrap();
        let kept = matches!(info.name.as_str(), "A_log" | "D" | "conv_gates");
        let expected = if kept { values } else { round(storage, &values) };
        assert_eq!(bits(&back), bits(&expected), "{} comes back", info.name);
    }
    engine
}

fn forward(engine: &Engine, x: &[f32], calls: Calls<'_>, state: Option<&State>) -> Vec<f32> {
    let mut y = vec![f32::NAN; x.len()];
    engine.start(x, calls, state).unwrap().finish(&mut y).unwrap();
    y
}

fn chunked(
    engine: &Engine,
    x: &[f32],
    batch: usize,
    d_model: usize,
    lengths: &[usize],
    state: &State,
) -> Vec<f32> {
    let sequence = x.len() / batch;
    let mut y = vec![f32::NAN; x.len()];
    let mut start = 0;
    for &length in lengths {
        let tokens = layers::tokens(x, batch, d_model, start..start + length);
        let part = forward(engine, &tokens, Calls::uniform(batch, length), Some(state));
        for (b, part) in part.chunks_exact((length * d_model).max(1)).enumerate() {
            y[b * sequence + start * d_model..][..part.len()].copy_from_slice(part);
        }
        start += length;
    }
    y
}

/// A tensor of the state by the reference's name.
fn state(state: &State, layer: &Layer, name: &str) -> Vec<f32> {
    let dims = layer.dims();
    let (part, len) = match name.strip_prefix("conv_state.") {
        Some(i) => {
            let i: usize = i.parse().unwrap();
            let len = dims.conv_state_lens[i];
            let index = if layer.config().variant == Variant::Stcn { i } else { 0 };
            (Part::History { index, len }, len)
        }
        None => (Part::Ssm, dims.d_state),
    };
    let mut values = vec![f32::NAN; state.lanes() * dims.d_inner * len];
    state.get(part, &mut values).unwrap();
    values
}

fn config(variant: Variant, random: &mut Random) -> Config {
    let branches = 1 + random.below(5);
    Config {
        d_state: [1 + random.below(20), 16, 16, 1 + random.below(256)][random.below(4)],
        d_conv: 1 + random.below(6),
        conv_dilations: if variant == Variant::Baseline {
            vec![1]
        } else {
            (0..branches).map(|_| 1 + random.below(9)).collect()
        },
        expand: [2.0, 1.5, 0.7][random.below(3)],
        dt_rank: [None, Some(1 + random.below(6))][random.below(2)],
        conv_bias: random.below(2) == 0,
        bias: random.below(2) == 0,
        seed: random.next(),
        ..Config::new(variant, 2 + random.below(40))
    }
}

#[test]
#[ignore = "needs a GPU"]
fn forward_step_and_states_are_the_references() {
    let mut cases = golden::cases();
    if std::env::var_os("PROPTEST_CASES").is_some() {
        cases.retain(|case| case.batch_and_seqlen().1 <= 131);
    }
    for case in some(&cases) {
        let (batch, seqlen) = case.batch_and_seqlen();
        let x = &case.tensor("x").values;
        let exact = case.oracle().forward(&widen(x), batch, seqlen).y;
        let allowed = FLOOR.max(2.0 * relative_error(&widen(&case.tensor("y").values), &exact));
        let layer = layers::layer(case, DType::F32, Isa::current());
        let engine = engine(&layer, Storage::F32);
        let d_model = layer.dims().d_model;
        let near = |what: &str, y: &[f32]| {
            let error = relative_error(&widen(y), &exact);
            println!("{:40} {what:10} {error:.2e} of {allowed:.2e}", case.name);
            assert!(error <= allowed, "{}: {what} is off by {error:e}; {allowed:e} is allowed", case.name);
        };
        near("forward", &forward(&engine, x, Calls::uniform(batch, seqlen), None));
        let odd: Vec<usize> = [1, 2, 1, 5, 17, 64, 3].into_iter().cycle().take(7 * seqlen).collect();
        let mut left = seqlen;
        let odd: Vec<usize> = odd
            .into_iter()
            .map(|n| {
                let n = n.min(left);
                left -= n;
                n
            })
            .collect();
        for (what, chunks) in [("one call", vec![seqlen]), ("chunks", odd), ("steps", vec![1; seqlen])] {
            let lanes = engine.new_state(batch).unwrap();
            near(what, &chunked(&engine, x, batch, d_model, &chunks, &lanes));
            assert_eq!(lanes.seen_tokens().unwrap(), vec![seqlen as u64; batch]);
            for (name, expected) in case.tensors.iter().filter(|(name, _)| name.contains("_state")) {
                let error = relative_error_f32(&state(&lanes, &layer, name), &expected.values);
                assert!(error <= 1e-5, "{}: {what}: {name} is off by {error:e}", case.name);
            }
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn types_of_16_bits_are_as_exact_as_the_reference() {
    let mut wrong = Vec::new();
    for TypedGolden { case, outputs } in some(&golden::typed_cases()) {
        let (batch, seqlen) = case.batch_and_seqlen();
        let layer = layers::layer(case, DType::F32, Isa::current());
        for (storage, ending, epsilon) in
            [(Storage::Bf16, ".bf16", bf16::EPSILON.to_f64()), (Storage::F16, ".f16", f16::EPSILON.to_f64())]
        {
            let rounded = case.rounded(|v| round(storage, &[v])[0]);
            let x = &rounded.tensor("x").values;
            let exact = rounded.oracle().forward(&widen(x), batch, seqlen).y;
            let own = outputs.iter().filter(|(name, _)| name.ends_with(ending));
            let own = own.map(|(_, y)| relative_error(&widen(&y.values), &exact)).fold(0.0, f64::max);
            assert!(own > 0.0, "{}: the reference's outputs", case.name);
            let engine = engine(&layer, storage);
            let lanes = engine.new_state(batch).unwrap();
            let whole = forward(&engine, x, Calls::uniform(batch, seqlen), None);
            let stepped = chunked(&engine, x, batch, layer.dims().d_model, &vec![1; seqlen], &lanes);
            for (call, y) in [("forward", whole), ("steps", stepped)] {
                let error = relative_error(&widen(&y), &exact);
                println!("{:40} {call:7} {storage:?} {error:.2e} {:.2}", case.name, error / own);
                if error > epsilon.max(REFERENCE * own) {
                    wrong.push(format!("{} as {storage:?}: {call} {error:.2e}, {own:.2e}", case.name));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "our error and the reference's own:\n{}", wrong.join("\n"));
}

/// The layer stored as each type, over sequences in one call and in pieces, within `f32_allowed`, or what 16 bits allow.
fn every_type_follows_the_oracle(layer: &Layer, x: &[f32], batch: usize, pieces: &[usize], f32_allowed: f64) {
    let d_model = layer.config().d_model;
    let seqlen = pieces.iter().sum();
    for (storage, allowed) in [(Storage::F32, f32_allowed), (Storage::F16, 2e-2), (Storage::Bf16, 1.5e-1)] {
        let engine = engine(layer, storage);
        let x = round(storage, x);
        let exact = rounded_oracle(layer, storage).forward(&widen(&x), batch, seqlen);
        let whole = forward(&engine, &x, Calls::uniform(batch, seqlen), None);
        let lanes = engine.new_state(batch).unwrap();
        let streamed = chunked(&engine, &x, batch, d_model, pieces, &lanes);
        let ssm_state = state(&lanes, layer, "ssm_state");
        for (what, ours, exact) in [
            ("whole", whole, &exact.y),
            ("pieces", streamed, &exact.y),
            ("ssm_state", ssm_state, &exact.ssm_state),
        ] {
            let error = relative_error(&widen(&ours), exact);
            let config = layer.config();
            println!("{} {d_model} {storage:?} {what}: {error:.2e}", config.variant.name());
            assert!(
                error <= allowed,
                "{config:?} as {storage:?}, {batch} x {pieces:?}: {what} is off by {error:e}"
            );
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn random_layers_of_every_type() {
    let mut random = Random(11);
    for round_of in some(&Vec::from_iter(0..60)) {
        let config = config(Variant::ALL[round_of % 4], &mut random);
        let layer = random_layer(&config, Isa::current(), random.next());
        let (batch, seqlen) = (1 + random.below(12), 1 + random.below(300));
        let x = random.values(batch * seqlen * config.d_model);
        let cut = random.below(seqlen);
        every_type_follows_the_oracle(&layer, &x, batch, &[cut, 1, seqlen - cut - 1], 2e-5);
    }
}

/// 16 states whose sizes suit the kernels of their own, in one chunk and in many, of every type. Those of 16 bits compute δ
/// where dt_rank is a multiple of 8 up to 128, and cut sequences of more than 16384 rows in all.
#[test]
#[ignore = "needs a GPU"]
fn sixteen_states_of_every_type() {
    let mut random = Random(23);
    for (variant, d_model, dt_rank, batch, seqlen) in [
        (Variant::Ptcn, 12, Some(4), 3, 100),
        (Variant::Ptcn, 64, None, 2, 1),
        (Variant::Dpwc, 20, Some(8), 1, 4117),
        (Variant::Baseline, 64, None, 2, 777),
        (Variant::Stcn, 128, None, 1, 259),
        (Variant::Stcn, 12, Some(24), 2, 400),
        (Variant::Ptcn, 12, Some(40), 1, 1031),
        (Variant::Ptcn, 28, Some(64), 5, 63),
        (Variant::Baseline, 28, Some(128), 2, 300),
        (Variant::Ptcn, 20, Some(136), 1, 300),
        (Variant::Stcn, 8, Some(8), 3, 6001),
        (Variant::Ptcn, 8, Some(16), 1, 16401),
    ] {
        let config = Config { dt_rank, ..Config::new(variant, d_model) };
        let layer = random_layer(&config, Isa::current(), random.next());
        let x = random.values(batch * seqlen * d_model);
        let cut = seqlen / 3;
        every_type_follows_the_oracle(&layer, &x, batch, &[cut, seqlen - cut], 1e-5);
    }
}

/// Steps of so few sequences that the products are our own kernels', and of a few more.
#[test]
#[ignore = "needs a GPU"]
fn steps_of_any_number_of_sequences() {
    const MOST: usize = 70;
    const TOKENS: usize = 3;
    let mut random = Random(23);
    for (variant, d_model, d_state, d_conv, dilations) in [
        (Variant::Ptcn, 24, 16, 4, vec![1, 2, 5]),
        (Variant::Dpwc, 72, 7, 3, vec![2, 1]),
        (Variant::Baseline, 100, 20, 2, vec![1]),
        (Variant::Ptcn, 264, 16, 4, vec![1, 2, 4, 8, 16, 3, 2, 1]),
        (Variant::Ptcn, 520, 33, 5, vec![1, 2]),
        // Sums of more pieces than are on their way at once, and an out_proj whose clusters are halved.
        (Variant::Ptcn, 1032, 16, 4, vec![1, 2, 4, 8]),
    ] {
        let config = Config {
            d_state,
            d_conv,
            conv_dilations: dilations,
            bias: d_model % 16 == 8,
            ..Config::new(variant, d_model)
        };
        let layer = random_layer(&config, Isa::current(), random.next());
        let x = random.values(MOST * TOKENS * d_model);
        for (storage, math, allowed) in [
            (Storage::F32, Math::Default, 1e-5),
            (Storage::F32, Math::Tf32, 1e-2),
            (Storage::F16, Math::Default, 2e-2),
            (Storage::Bf16, Math::Default, 1.5e-1),
            (Storage::Bf16, Math::Tf32, 1.5e-1),
        ] {
            let exact = rounded_oracle(&layer, storage);
            let x = round(storage, &x);
            let exact = exact.forward(&widen(&x), MOST, TOKENS);
            let mut engine =
                Engine::new(&Config { dtype: storage.dtype(), math, ..config.clone() }, layer.dims())
                    .unwrap();
            for info in layer.parameters() {
                engine.parameters_mut().set(&info.name, &parameter(&layer, &info.name)).unwrap();
            }
            // What a sanitizer should see comes first: full tiles of both heights, one row, one too many for a tile.
            let telling = [8, 32, 1, 33, 3, 17];
            let others = (1..=MOST).filter(|rows| !telling.contains(rows));
            let counts = Vec::from_iter(telling.into_iter().chain(others));
            let worst = counts.iter().take(some(&counts).count()).map(|&rows| {
                let len = rows * TOKENS * d_model;
                let lanes = engine.new_state(rows).unwrap();
                let y = chunked(&engine, &x[..len], rows, d_model, &[1; TOKENS], &lanes);
                let error = relative_error(&widen(&y), &exact.y[..len]);
                assert!(
                    error <= allowed,
                    "{config:?} as {storage:?} {math:?}, {rows} rows: off by {error:e}"
                );
                let ssm = state(&lanes, &layer, "ssm_state");
                let error = relative_error(&widen(&ssm), &exact.ssm_state[..ssm.len()]);
                assert!(
                    error <= allowed,
                    "{config:?} as {storage:?} {math:?}, {rows} rows: ssm_state is off by {error:e}"
                );
                error
            });
            println!("{} {d_model} {storage:?} {math:?}: {:.2e}", variant.name(), worst.fold(0.0, f64::max));
        }
    }
}

/// Calls are cut into blocks of rows, and the scan into chunks, as sizes have it.
#[test]
#[ignore = "needs a GPU"]
fn lengths_where_blocks_and_chunks_end() {
    let sizes =
        [(700, 3), (3, 1500), (1, 5001), (9, 700), (2100, 1), (1, 2048), (1, 2049), (5, 1023), (40, 129)];
    for (variant, dt_rank) in
        Variant::ALL.into_iter().flat_map(|variant| [(variant, None), (variant, Some(4))])
    {
        let config = Config {
            conv_dilations: if variant == Variant::Baseline { vec![1] } else { vec![1, 3, 8] },
            bias: true,
            dt_rank,
            ..Config::new(variant, 12)
        };
        let layer = random_layer(&config, Isa::current(), 3);
        let oracle = oracle(&layer);
        let engine = engine(&layer, Storage::F32);
        for &(batch, seqlen) in some(&sizes) {
            let what = format!("{} of {batch} x {seqlen}", variant.name());
            let x = Random(17).values(batch * seqlen * 12);
            let exact = oracle.forward(&widen(&x), batch, seqlen);
            let whole = forward(&engine, &x, Calls::uniform(batch, seqlen), None);
            let error = relative_error(&widen(&whole), &exact.y);
            assert!(error < 1e-5, "{what}: off by {error:e}");
            let lanes = engine.new_state(batch).unwrap();
            let cached = forward(&engine, &x, Calls::uniform(batch, seqlen), Some(&lanes));
            assert!(relative_error_f32(&cached, &whole) < 1e-5, "{what} with a state");
            for (i, exact) in exact.conv_states.iter().enumerate() {
                let error = relative_error(&widen(&state(&lanes, &layer, &format!("conv_state.{i}"))), exact);
                assert!(error < 1e-5, "{what}: conv_state.{i} is off by {error:e}");
            }
            let error = relative_error(&widen(&state(&lanes, &layer, "ssm_state")), &exact.ssm_state);
            assert!(error < 1e-5, "{what}: ssm_state is off by {error:e}");
        }
    }
}

/// Pieces of 256 tokens of 64 sequences leave the last token of each, which lies a sequence from the next.
#[test]
#[ignore = "needs a GPU"]
fn one_token_is_left_of_many_sequences() {
    let (batch, seqlen) = (64, 3841);
    for variant in Variant::ALL {
        let config = Config {
            conv_dilations: if variant == Variant::Baseline { vec![1] } else { vec![1, 3] },
            ..Config::new(variant, 8)
        };
        let layer = random_layer(&config, Isa::current(), 3);
        let engine = engine(&layer, Storage::F32);
        let x = Random(17).values(seqlen * 8);
        let exact = oracle(&layer).forward(&widen(&x), 1, seqlen);
        let all = forward(&engine, &x.repeat(batch), Calls::uniform(batch, seqlen), None);
        for (i, y) in all.chunks_exact(seqlen * 8).enumerate() {
            let error = relative_error(&widen(y), &exact.y);
            assert!(error < 1e-5, "{}, sequence {i}: off by {error:e}", variant.name());
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn sequences_of_their_own_lengths_in_lanes_of_their_own() {
    for variant in Variant::ALL {
        let config = Config {
            conv_dilations: if variant == Variant::Baseline { vec![1] } else { vec![1, 3, 8] },
            ..Config::new(variant, 12)
        };
        let layer = random_layer(&config, Isa::current(), 3);
        let engine = engine(&layer, Storage::F32);
        let lengths = [5, 0, 1, 700, 64, 3000, 2, 0, 90];
        let starts: Vec<usize> = std::iter::once(0)
            .chain(lengths.iter().scan(0, |sum, n| {
                *sum += n;
                Some(*sum)
            }))
            .collect();
        let x = Random(4).values(starts[lengths.len()] * 12);
        let order = [8, 7, 0, 2, 1, 3, 6, 5, 4];
        let lanes = engine.new_state(9).unwrap();
        let calls = Calls { count: 9, seqlen: 0, starts: Some(&starts), lanes: Some(&order) };
        let without = forward(&engine, &x, Calls { lanes: None, ..calls }, None);
        for _ in 0..2 {
            let before: Vec<State> = order
                .iter()
                .map(|&lane| {
                    let mut own = engine.new_state(1).unwrap();
                    own.copy_lane(0, Some(&lanes), lane).unwrap();
                    own
                })
                .collect();
            let first = before.iter().all(|own| own.seen_tokens().unwrap() == [0]);
            let y = forward(&engine, &x, calls, Some(&lanes));
            for (i, own) in before.iter().enumerate() {
                let range = starts[i] * 12..starts[i + 1] * 12;
                let alone = forward(&engine, &x[range.clone()], Calls::uniform(1, lengths[i]), Some(own));
                assert!(relative_error_f32(&y[range.clone()], &alone) < 1e-5, "{} {i}", variant.name());
                if first {
                    assert!(relative_error_f32(&without[range], &alone) < 1e-5, "{} {i}", variant.name());
                }
                let mut moved = engine.new_state(1).unwrap();
                moved.copy_lane(0, Some(&lanes), order[i]).unwrap();
                assert_eq!(moved.seen_tokens().unwrap(), own.seen_tokens().unwrap());
                let (a, b) = (state(&moved, &layer, "ssm_state"), state(own, &layer, "ssm_state"));
                assert!(relative_error_f32(&a, &b) < 1e-5, "{} {i}", variant.name());
            }
        }
        // A step of some lanes.
        let x = Random(5).values(3 * 12);
        let due = [6, 0, 3];
        let copy = lanes.try_clone().unwrap();
        let y = forward(&engine, &x, Calls { lanes: Some(&due), ..Calls::uniform(3, 1) }, Some(&lanes));
        for (i, &lane) in due.iter().enumerate() {
            let mut own = engine.new_state(1).unwrap();
            own.copy_lane(0, Some(&copy), lane).unwrap();
            let alone = forward(&engine, &x[i * 12..][..12], Calls::uniform(1, 1), Some(&own));
            assert!(relative_error_f32(&y[i * 12..][..12], &alone) < 1e-5);
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn states_are_set_cleared_copied() {
    for variant in Variant::ALL {
        let config = Config {
            conv_dilations: if variant == Variant::Baseline { vec![1] } else { vec![2, 5] },
            ..Config::new(variant, 7)
        };
        let layer = random_layer(&config, Isa::current(), 3);
        let engine = engine(&layer, Storage::F32);
        let x = Random(4).values(2 * 23 * 7);
        let mut lanes = engine.new_state(2).unwrap();
        forward(&engine, &x, Calls::uniform(2, 23), Some(&lanes));
        let mut moved = engine.new_state(2).unwrap();
        forward(&engine, &x[..2 * 4 * 7], Calls::uniform(2, 4), Some(&moved));
        for (i, &len) in layer.dims().conv_state_lens.iter().enumerate() {
            let index = if variant == Variant::Stcn { i } else { 0 };
            let values = state(&lanes, &layer, &format!("conv_state.{i}"));
            moved.set(Part::History { index, len }, &values).unwrap();
            assert_eq!(bits(&state(&moved, &layer, &format!("conv_state.{i}"))), bits(&values));
        }
        moved.set(Part::Ssm, &state(&lanes, &layer, "ssm_state")).unwrap();
        let copy = lanes.try_clone().unwrap();
        let next = Calls::uniform(2, 9);
        let expected = bits(&forward(&engine, &x[..2 * 9 * 7], next, Some(&lanes)));
        assert_eq!(bits(&forward(&engine, &x[..2 * 9 * 7], next, Some(&moved))), expected);
        assert_eq!(bits(&forward(&engine, &x[..2 * 9 * 7], next, Some(&copy))), expected);
        assert_eq!(lanes.seen_tokens().unwrap(), [32, 32]);
        lanes.reset_lane(1).unwrap();
        assert_eq!(lanes.seen_tokens().unwrap(), [32, 0]);
        lanes.copy_lane(0, None, 1).unwrap();
        let fresh = engine.new_state(2).unwrap();
        let expected = bits(&forward(&engine, &x[..2 * 9 * 7], next, Some(&fresh)));
        assert_eq!(bits(&forward(&engine, &x[..2 * 9 * 7], next, Some(&lanes))), expected);
        lanes.reset().unwrap();
        assert_eq!(bits(&forward(&engine, &x[..2 * 9 * 7], next, Some(&lanes))), expected);
        let error = lanes.get(Part::Ssm, &mut [0.0; 3]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ShapeMismatch);
    }
}

/// A device tensor of f32 tokens.
fn upload(engine: &Engine, values: &[f32]) -> Memory {
    let memory = Memory::zeroed(engine.gpu(), "a test", size_of_val(values)).unwrap();
    memory.write(Stream::DEFAULT, values).unwrap();
    engine.gpu().synchronize().unwrap();
    memory
}

fn download(engine: &Engine, memory: &Memory) -> Vec<f32> {
    engine.gpu().synchronize().unwrap();
    let mut values = vec![f32::NAN; memory.bytes() / 4];
    let _current = engine.gpu().enter().unwrap();
    memory.read(Stream::DEFAULT, 0, &mut values).unwrap();
    values
}

fn tensor(memory: &Memory, seqlen: usize, d_model: usize) -> DeviceTokens {
    DeviceTokens {
        address: memory.address(),
        dtype: DType::F32,
        strides: [(seqlen * d_model) as i64, d_model as i64, 1],
    }
}

#[test]
#[ignore = "needs a GPU"]
fn device_tensors_of_any_strides_and_types() {
    let layer = random_layer(&Config::new(Variant::Ptcn, 6), Isa::current(), 3);
    for storage in Storage::ALL {
        let engine = engine(&layer, storage);
        let (batch, seqlen) = (3, 10);
        let x = round(Storage::Bf16, &Random(4).values(batch * seqlen * 6));
        let expected = forward(&engine, &x, Calls::uniform(batch, seqlen), None);
        // (tokens, batch, d_model), every other value.
        let strides = [12, (batch * 12) as i64, 2];
        let mut spread = vec![7.0; x.len() * 2];
        for (i, &value) in x.iter().enumerate() {
            let (b, t, d) = (i / 60, i / 6 % 10, i % 6);
            spread[b * 12 + t * batch * 12 + d * 2] = value;
        }
        let (from, to) = (upload(&engine, &spread), upload(&engine, &vec![7.0; spread.len()]));
        let tokens = |memory: &Memory| DeviceTokens { address: memory.address(), dtype: DType::F32, strides };
        let calls = Calls::uniform(batch, seqlen);
        // SAFETY: tensors of this device and size.
        unsafe { engine.enqueue([tokens(&from), tokens(&to)], calls, None, Stream::DEFAULT) }.unwrap();
        let y = download(&engine, &to);
        for (i, &expected) in expected.iter().enumerate() {
            let (b, t, d) = (i / 60, i / 6 % 10, i % 6);
            assert_eq!(y[b * 12 + t * batch * 12 + d * 2], expected, "{storage:?} at {i}");
        }
        assert_eq!(y.iter().filter(|&&v| v == 7.0).count(), x.len(), "nothing else is written");
    }
}

#[test]
#[ignore = "needs a GPU"]
fn a_captured_step_is_a_step_at_every_replay() {
    for (storage, batch) in [(Storage::F32, 1), (Storage::Bf16, 3), (Storage::F32, 32)] {
        let config = Config { conv_dilations: vec![1, 4], ..Config::new(Variant::Ptcn, 64) };
        let layer = random_layer(&config, Isa::current(), 3);
        let engine = engine(&layer, storage);
        let x = round(storage, &Random(8).values(20 * batch * 64));
        let (direct, captured) = (engine.new_state(batch).unwrap(), engine.new_state(batch).unwrap());
        let (from, to) = (upload(&engine, &x[..batch * 64]), upload(&engine, &vec![0.0; batch * 64]));
        let tensors = [tensor(&from, 1, 64), tensor(&to, 1, 64)];
        let current = engine.gpu().enter().unwrap();
        let mut handle = null_mut();
        let mut graph = null_mut();
        let mut executable = null_mut();
        let ok = sys::CUresult::CUDA_SUCCESS;
        // SAFETY: handles made and used in order; the tensors outlive the graph.
        unsafe {
            assert_eq!(sys::cuStreamCreate(&mut handle, 1), ok);
            let stream = Stream::of(handle.cast());
            let calls = Calls::uniform(batch, 1);
            engine.enqueue(tensors, calls, Some(&engine.new_state(batch).unwrap()), stream).unwrap();
            let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
            assert_eq!(sys::cuStreamBeginCapture_v2(handle, mode), ok);
            engine.enqueue(tensors, calls, Some(&captured), stream).unwrap();
            assert_eq!(sys::cuStreamEndCapture(handle, &mut graph), ok);
            assert_eq!(sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0), ok);
        }
        assert_eq!(captured.seen_tokens().unwrap(), vec![0; batch]);
        // SAFETY: made above.
        let stream = unsafe { Stream::of(handle.cast()) };
        for (i, x) in x.chunks(batch * 64).enumerate() {
            from.write(stream, x).unwrap();
            // SAFETY: as above.
            unsafe { assert_eq!(sys::cuGraphLaunch(executable, handle), ok) };
            let y = download(&engine, &to);
            assert_eq!(
                bits(&y),
                bits(&forward(&engine, x, Calls::uniform(batch, 1), Some(&direct))),
                "step {i}"
            );
        }
        assert_eq!(captured.seen_tokens().unwrap(), vec![20; batch]);
        // SAFETY: nothing uses the stream any more.
        unsafe { assert_eq!(sys::cuStreamDestroy_v2(handle), ok) };
        drop(current);
    }
}

#[test]
#[ignore = "needs a GPU"]
fn threads_share_a_layer() {
    let layer = random_layer(
        &Config { conv_dilations: vec![1, 4], ..Config::new(Variant::Dpwc, 32) },
        Isa::current(),
        3,
    );
    let engines: Vec<Engine> = (0..cuda::available().unwrap())
        .map(|device_index| {
            let config = Config { device_index, ..layer.config().clone() };
            let mut engine = Engine::new(&config, layer.dims()).unwrap();
            for info in layer.parameters() {
                engine.parameters_mut().set(&info.name, &parameter(&layer, &info.name)).unwrap();
            }
            engine
        })
        .collect();
    let inputs: Vec<Vec<f32>> = (0..8).map(|i| Random(i).values((1 + i as usize * 37) * 32)).collect();
    std::thread::scope(|scope| {
        for x in &inputs {
            let engines = &engines;
            scope.spawn(move || {
                let run = |engine| {
                    let state = Engine::new_state(engine, 1).unwrap();
                    let mut y = forward(engine, x, Calls::uniform(1, x.len() / 32), Some(&state));
                    y.extend(forward(engine, &x[..32], Calls::uniform(1, 1), Some(&state)));
                    bits(&y)
                };
                let expected = run(&engines[0]);
                for _ in 0..20 {
                    for engine in engines {
                        assert_eq!(run(engine), expected);
                    }
                }
            });
        }
    });
}

/// NaN and infinity in a token reach the later ones of its lane, and no others.
#[test]
#[ignore = "needs a GPU"]
fn poison_stays_in_its_lane_and_behind_its_token() {
    for variant in Variant::ALL {
        for (d_state, dt_rank) in [(3, None), (16, None), (16, Some(4)), (40, None), (130, None)] {
            let config = Config { d_state, dt_rank, ..Config::new(variant, 8) };
            let layer = random_layer(&config, Isa::current(), 3);
            let engine = engine(&layer, Storage::F32);
            let clean = Random(1).values(3 * 40 * 8);
            let calls = Calls::uniform(3, 40);
            let expected = forward(&engine, &clean, calls, None);
            for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = clean.clone();
                x[(40 + 9) * 8 + 2] = poison;
                let y = forward(&engine, &x, calls, None);
                let exact = oracle(&layer).forward(&widen(&x), 3, 40).y;
                let reached = (40 + 9) * 8..80 * 8;
                for (i, value) in y.iter().enumerate() {
                    if !reached.contains(&i) {
                        assert_eq!(value.to_bits(), expected[i].to_bits(), "{} at {i}", variant.name());
                    } else if exact[i].is_nan() {
                        assert!(value.is_nan(), "{value} at {i}, where IEEE 754 says NaN");
                    }
                }
                if poison.is_nan() {
                    assert!(y[reached].iter().all(|v| v.is_nan()), "a NaN was lost");
                }
            }
        }
    }
}

/// An infinite δu is an infinite output, in forward and in steps: what fills up a vector of states makes no NaN of it.
#[test]
#[ignore = "needs a GPU"]
fn what_is_infinite_stays_so() {
    let config = Config { d_state: 1, expand: 1.0, dt_rank: Some(1), ..Config::new(Variant::Baseline, 1) };
    let mut layer = Layer::new(&config).unwrap();
    for info in layer.parameters().to_vec() {
        let value = match info.name.as_str() {
            "dt_proj.bias" => 3e38,
            "A_log" => 0.0,
            _ => 1.0,
        };
        layer.set_parameter(&info.name, &vec![value; info.count()]).unwrap();
    }
    let engine = engine(&layer, Storage::F32);
    for rows in [1, 2, 9, 40] {
        let x = vec![1e4; rows];
        let lanes = engine.new_state(rows).unwrap();
        for y in [
            layers::forward(&layer, &x, rows, None),
            forward(&engine, &x, Calls::uniform(rows, 1), None),
            forward(&engine, &x, Calls::uniform(rows, 1), Some(&lanes)),
        ] {
            assert!(y.iter().all(|&y| y == f32::INFINITY), "{rows} rows: {y:?}");
        }
    }
}

/// The layer's own calls: the same numbers as with the processor, and caches that go from one to the other.
#[test]
#[ignore = "needs a GPU"]
fn a_layer_on_a_gpu_is_a_layer() {
    for (variant, dtype, allowed) in [
        (Variant::Ptcn, DType::F32, 1e-5),
        (Variant::Stcn, DType::F32, 1e-5),
        (Variant::Dpwc, DType::Bf16, 5e-2),
        (Variant::Baseline, DType::F16, 1e-2),
    ] {
        let dilations = if variant == Variant::Baseline { vec![1] } else { vec![2, 5] };
        let config =
            Config { conv_dilations: dilations, dtype, bias: true, seed: 5, ..Config::new(variant, 20) };
        let host = random_layer(&config, Isa::current(), 9);
        let mut device = Layer::new(&Config { device: Device::Cuda, ..config.clone() }).unwrap();
        assert_eq!(device.dims(), host.dims());
        for info in host.parameters() {
            let values = parameter(&host, &info.name);
            device.set_parameter(&info.name, &values).unwrap();
            assert_eq!(bits(&parameter(&device, &info.name)), bits(&values), "{}", info.name);
        }
        let near = |a: &[f32], b: &[f32], what: &str| {
            let error = relative_error_f32(a, b);
            assert!(error <= allowed, "{} {dtype:?}: {what} is off by {error:e}", variant.name());
        };
        let x = Random(2).values(3 * 30 * 20);
        let expected = layers::forward(&host, &x, 3, None);
        near(&layers::forward(&device, &x, 3, None), &expected, "forward");
        near(&layers::forward_in_place(&device, &x, 3, None), &expected, "forward in place");

        let (mut on_host, mut on_device) =
            (Cache::new(&host, 3, 0).unwrap(), Cache::new(&device, 3, 0).unwrap());
        let expected = layers::chunked(&host, &x, 3, &[7, 1, 22], &mut on_host);
        near(&layers::chunked(&device, &x, 3, &[7, 1, 22], &mut on_device), &expected, "chunks");
        assert_eq!(on_device.seqlen_offset(), 30);
        assert!(on_device.bytes() > 3 * 40 * 16 * 4);
        for info in on_host.states() {
            near(&layers::state(&on_device, &info.name), &layers::state(&on_host, &info.name), &info.name);
        }
        for (layer, cache) in [(&host, &mut on_device), (&device, &mut on_host)] {
            let error = layer.forward(Tokens::InPlace(&mut x.clone()), 3, 30, Some(cache)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ShapeMismatch);
        }
        // A saved cache goes on anywhere.
        let mut saved = vec![0; on_device.saved_len().unwrap()];
        on_device.save(&mut saved).unwrap();
        let mut moved = Cache::load(&host, &saved).unwrap();
        for info in on_host.states() {
            assert_eq!(
                bits(&layers::state::<f32>(&moved, &info.name)),
                bits(&layers::state::<f32>(&on_device, &info.name))
            );
        }
        let mut back = Cache::load(&device, &saved).unwrap();
        let expected = layers::forward(&device, &x, 3, Some(&mut on_device));
        near(&layers::forward(&host, &x, 3, Some(&mut moved)), &expected, "a moved cache");
        near(&layers::forward(&device, &x, 3, Some(&mut back)), &expected, "a cache that came back");
        assert_eq!(back.seqlen_offset(), 60);

        let cu_seqlens = [0, 40, 40, 90];
        let mut y = vec![f32::NAN; x.len()];
        device.forward_varlen(Tokens::Separate { x: &x, y: &mut y }, &cu_seqlens, Some(&mut back)).unwrap();
        let mut expected = vec![f32::NAN; x.len()];
        host.forward_varlen(Tokens::Separate { x: &x, y: &mut expected }, &cu_seqlens, Some(&mut moved))
            .unwrap();
        near(&y, &expected, "sequences of their own lengths");
        let lanes = [2, 0];
        device.step_lanes(Tokens::Separate { x: &x[..40], y: &mut y[..40] }, &lanes, &mut back).unwrap();
        host.step_lanes(Tokens::Separate { x: &x[..40], y: &mut expected[..40] }, &lanes, &mut moved)
            .unwrap();
        near(&y[..40], &expected[..40], "lanes");
        back.reset_lane(2).unwrap();
        back.copy_lane_within(0, 2).unwrap();
        back.copy_lane(1, &Cache::new(&device, 1, 0).unwrap(), 0).unwrap();
        assert_eq!(back.seqlen_offset(), 0);
        back.reset();
        let error = Cache::with_dtype(&device, 1, DType::Bf16).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}

#[test]
fn what_can_be_used_is_told() {
    // SAFETY: no arguments.
    let available = unsafe { lm_cuda_available() };
    let info = build_info();
    assert_eq!(available, cuda::available().is_ok());
    assert!(info.contains(if available { "CUDA on" } else { "CUDA not usable: " }), "{info}");
}

/// The device tensors of other libraries, through C.
#[test]
#[ignore = "needs a GPU"]
fn device_tensors_of_other_libraries() {
    let config =
        Config { device: Device::Cuda, conv_dilations: vec![1, 3], ..Config::new(Variant::Ptcn, 12) };
    let layer = Layer::new(&config).unwrap();
    let gpu = cuda::Gpu::get(0).unwrap();
    let (batch, seqlen) = (2, 9);
    let x = Random(3).values(batch * seqlen * 12);
    let expected = layers::forward(&layer, &x, batch, None);
    let upload = |values: &[f32]| {
        let memory = Memory::zeroed(gpu, "a test", size_of_val(values)).unwrap();
        memory.write(Stream::DEFAULT, values).unwrap();
        gpu.synchronize().unwrap();
        memory
    };
    let (from, to) = (upload(&x), upload(&vec![f32::NAN; x.len()]));
    let mut shape = [batch as i64, seqlen as i64, 12];
    let mut steps = [(seqlen * 12) as i64, 1];
    let tensor = |memory: &Memory, shape: *mut i64, ndim: i32| DLTensor {
        data: memory.address() as *mut c_void,
        device: DLDevice { device_type: 2, device_id: 0 },
        ndim,
        dtype: DLDataType { code: 2, bits: 32, lanes: 1 },
        shape,
        strides: null_mut(),
        byte_offset: 0,
    };
    let (mut x_tensor, y_tensor) = (tensor(&from, shape.as_mut_ptr(), 3), tensor(&to, shape.as_mut_ptr(), 3));
    let handle = from_ref(&layer).cast();
    let download = || {
        let mut y = vec![f32::NAN; x.len()];
        to.read(Stream::DEFAULT, 0, &mut y).unwrap();
        y
    };
    // SAFETY: handles of the right kinds, tensors of this device that live.
    unsafe {
        assert_eq!(lm_forward_dlpack(handle, &x_tensor, null_mut(), &y_tensor, null_mut()), 0);
        assert_eq!(bits(&download()), bits(&expected));

        // Steps read and write one token of each sequence where it lies.
        let mut cache = Cache::new(&layer, batch, 0).unwrap();
        let mut of_step = [batch as i64, 12];
        let mut stepped = vec![0.0; x.len()];
        for t in 0..seqlen {
            let step = |memory: &Memory, shape: *mut i64, strides: *mut i64| DLTensor {
                strides,
                byte_offset: (t * 12 * 4) as u64,
                ..tensor(memory, shape, 2)
            };
            let x = step(&from, of_step.as_mut_ptr(), steps.as_mut_ptr());
            let y = step(&to, of_step.as_mut_ptr(), steps.as_mut_ptr());
            let cache = from_mut(&mut cache).cast();
            assert_eq!(lm_step_dlpack(handle, &x, cache, &y, null_mut()), 0, "{}", last_error());
        }
        stepped.copy_from_slice(&download());
        assert!(relative_error_f32(&stepped, &expected) < 1e-5);
        assert_eq!(cache.seqlen_offset(), seqlen as u64);

        for (change, word) in [
            ((1, 0), "x->device is kDLCPU (1), number 0; the layer's is kDLCUDA (2), number 0"),
            ((2, 1), "x->device is kDLCUDA (2), number 1"),
        ] {
            x_tensor.device = DLDevice { device_type: change.0, device_id: change.1 };
            assert_eq!(lm_forward_dlpack(handle, &x_tensor, null_mut(), &y_tensor, null_mut()), 3);
            assert!(last_error().contains(word), "{}", last_error());
        }
    }
}
