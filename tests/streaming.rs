//! Whole sequences, chunks and steps are one path: over random layers and the lengths where blocks of
//! tokens end, every way of cutting a call into calls gives the same bits, with every instruction set.

mod common;

use common::layers::{
    bits, chunked, forward, forward_in_place, oracle, random_layer, state, state_bits, tokens,
};
use common::oracle::OracleLayer;
use common::random::Random;
use common::{relative_error, widen};
use lite_mamba::simd::Isa;
use lite_mamba::{Cache, Config, ErrorKind, InferenceParams, Layer, Tokens, Variant};
use proptest::collection::vec;
use proptest::prelude::*;

/// A layer, a batch of sequences, and a way to cut them.
#[derive(Clone, Debug)]
struct Case {
    config: Config,
    batch: usize,
    seqlen: usize,
    cuts: Vec<usize>,
    /// Of what is added to the weights, and of the input.
    seed: u64,
}

prop_compose! {
    fn configs()(
        variant in prop::sample::select(Variant::ALL.to_vec()),
        d_model in 1..=24usize,
        d_state in 1..=20usize,
        d_conv in 1..=6usize,
        dilations in vec(1..=9usize, 1..=5),
        expand in prop_oneof![Just(2.0), 0.3..3.0f64],
        dt_rank in prop::option::of(1..=6usize),
        conv_bias in any::<bool>(),
        bias in any::<bool>(),
        seed in any::<u64>(),
    ) -> Config {
        Config {
            d_state,
            d_conv,
            conv_dilations: if variant == Variant::Baseline { vec![1] } else { dilations },
            expand: expand.max(1.01 / d_model as f64), // one channel at least
            dt_rank,
            conv_bias,
            bias,
            seed,
            ..Config::new(variant, d_model)
        }
    }
}

prop_compose! {
    fn cases()(
        config in configs(),
        batch in 1..=5usize,
        seqlen in 0..=70usize,
        // Where to cut, and whether the token after the cut is a chunk of its own.
        cuts in vec((0..=70usize, any::<bool>()), 0..8),
        seed in any::<u64>(),
    ) -> Case {
        let both = |(cut, single): (usize, bool)| [cut, cut + usize::from(single)];
        let cuts = cuts.into_iter().flat_map(both).map(|cut| cut.min(seqlen)).collect();
        Case { config, batch, seqlen, cuts, seed }
    }
}

impl Case {
    fn layers(&self) -> impl Iterator<Item = Layer> {
        Isa::available().into_iter().map(|isa| random_layer(&self.config, isa, self.seed))
    }

    fn x(&self) -> Vec<f32> {
        Random(!self.seed).values(self.batch * self.seqlen * self.config.d_model)
    }

    /// The lengths between the cuts; cuts at one place give chunks of no tokens.
    fn chunks(&self) -> Vec<usize> {
        let mut cuts = self.cuts.clone();
        cuts.extend([0, self.seqlen]);
        cuts.sort_unstable();
        cuts.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }
}

fn new_cache(layer: &Layer, batch: usize) -> Cache {
    Cache::new(layer, batch, 0).expect("a small cache")
}

/// How far f32 may be from `exact`, in parts of its largest value.
///
/// Normally 2e-6. But where the terms of a sum cancel, as they can in a layer of few channels and outputs,
/// rounding is large beside the little that remains, for any f32 program. Rounding errors act like changes
/// of the weights by some units in their last place; so weights changed at random by two of them show
/// how sensitive the layer is, and the largest effect of four such changes is allowed as well.
fn allowed_error(oracle: &OracleLayer, x: &[f64], batch: usize, exact: &[f64], seed: u64) -> f64 {
    const CHANGE: f64 = 2.0 * f32::EPSILON as f64;
    let mut random = Random(seed);
    let mut allowed: f64 = 2e-6;
    for _ in 0..4 {
        let mut changed = oracle.clone();
        for (name, (_, values)) in &mut changed.params {
            for value in values {
                // What counts of A_log is its exponential.
                let size = if name == "A_log" { 1.0 } else { value.abs() };
                *value += size * if random.below(2) == 0 { CHANGE } else { -CHANGE };
            }
        }
        let y = changed.forward(x, batch, x.len() / batch / oracle.d_model).y;
        allowed = allowed.max(relative_error(&y, exact));
    }
    allowed
}

/// Infinities, and NaN: the usual one, with either sign and payloads, and one that signals.
const POISON: [f32; 6] = [
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    f32::from_bits(0xffc0_0000),
    f32::from_bits(0x7fd5_5555),
    f32::from_bits(0xff80_0001),
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn chunks_are_the_whole_to_the_bit_and_the_oracle_in_value(case in cases()) {
        let (x, batch) = (case.x(), case.batch);
        for layer in case.layers() {
            let oracle = oracle(&layer);
            let exact = oracle.forward(&widen(&x), batch, case.seqlen);
            let whole = forward(&layer, &x, batch, None);
            let error = relative_error(&widen(&whole), &exact.y);
            let allowed = allowed_error(&oracle, &widen(&x), batch, &exact.y, case.seed);
            prop_assert!(error <= allowed, "off by {error:e}; {allowed:e} is allowed with {}", layer.isa().name());

            let mut cache = new_cache(&layer, batch);
            prop_assert_eq!(bits(&forward(&layer, &x, batch, Some(&mut cache))), bits(&whole));
            let states = state_bits(&cache);
            for (i, exact) in exact.conv_states.iter().enumerate() {
                let error = relative_error(&widen(&state::<f32>(&cache, &format!("conv_state.{i}"))), exact);
                prop_assert!(error < 1e-4, "conv_state.{i} is off by {error:e}");
            }

            for chunks in [case.chunks(), vec![1; case.seqlen]] {
                let mut cache = new_cache(&layer, batch);
                prop_assert_eq!(bits(&chunked(&layer, &x, batch, &chunks, &mut cache)), bits(&whole));
                prop_assert_eq!(state_bits(&cache), states.clone());
                prop_assert_eq!(cache.seqlen_offset(), case.seqlen as u64);
            }
        }
    }

    #[test]
    fn a_state_goes_on_from_wherever_it_was_moved_to(case in cases()) {
        let (x, batch, d_model) = (case.x(), case.batch, case.config.d_model);
        let cut = case.cuts.first().copied().unwrap_or(case.seqlen / 2);
        let [before, after] = [0..cut, cut..case.seqlen].map(|range| tokens(&x, batch, d_model, range));
        for layer in case.layers() {
            let mut cache = new_cache(&layer, batch);
            forward(&layer, &before, batch, Some(&mut cache));

            let mut moved = new_cache(&layer, batch);
            if case.seed % 2 == 0 {
                // What was there before does not shine through, and the ring may stand anywhere.
                forward(&layer, &tokens(&x, batch, d_model, 0..case.seqlen / 3), batch, Some(&mut moved));
            }
            for info in cache.states().to_vec() {
                moved.set_state(&info.name, &state::<f32>(&cache, &info.name)).unwrap();
            }
            prop_assert_eq!(state_bits(&moved), state_bits(&cache));

            let mut copy = cache.try_clone().unwrap();
            let expected = forward(&layer, &after, batch, Some(&mut cache));
            prop_assert_eq!(copy.seqlen_offset(), cut as u64, "the copy is the original's own");
            prop_assert_eq!(bits(&forward(&layer, &after, batch, Some(&mut copy))), bits(&expected));
            prop_assert_eq!(state_bits(&copy), state_bits(&cache));
            prop_assert_eq!(bits(&forward(&layer, &after, batch, Some(&mut moved))), bits(&expected));
            prop_assert_eq!(state_bits(&moved), state_bits(&cache));

            cache.reset();
            let mut fresh = new_cache(&layer, batch);
            prop_assert_eq!(state_bits(&cache), state_bits(&fresh));
            prop_assert_eq!(cache.seqlen_offset(), 0);
            let again = forward(&layer, &after, batch, Some(&mut cache));
            prop_assert_eq!(bits(&again), bits(&forward(&layer, &after, batch, Some(&mut fresh))));
        }
    }

    #[test]
    fn a_lane_alone_is_the_lane_in_a_batch(case in cases()) {
        let (x, batch) = (case.x(), case.batch);
        let len = x.len() / batch;
        for layer in case.layers() {
            let mut cache = new_cache(&layer, batch);
            let together = forward(&layer, &x, batch, Some(&mut cache));
            for lane in 0..batch {
                let x = &x[lane * len..][..len];
                let together = &together[lane * len..][..len];
                let mut own = new_cache(&layer, 1);
                prop_assert_eq!(bits(&forward(&layer, x, 1, None)), bits(together));
                prop_assert_eq!(bits(&forward(&layer, x, 1, Some(&mut own))), bits(together));
                for (all, own) in state_bits(&cache).iter().zip(state_bits(&own)) {
                    prop_assert_eq!(&all[lane * own.len()..][..own.len()], &own[..]);
                }
            }
        }
    }

    /// Lanes stepped in subsets and in any order, copied and reset, are each the stream that it has become.
    #[test]
    fn lanes_go_their_own_ways(
        case in cases(),
        rounds in prop::collection::vec((any::<u64>(), 0..5usize, 0..5usize, 0..8u8), 1..12),
    ) {
        let (batch, d_model) = (case.batch, case.config.d_model);
        let mut random = Random(case.config.seed);
        for layer in case.layers() {
            let mut cache = new_cache(&layer, batch);
            let mut alone: Vec<Cache> = (0..batch).map(|_| new_cache(&layer, 1)).collect();
            for &(due, a, b, action) in &rounds {
                let (a, b) = (a % batch, b % batch);
                let mut lanes: Vec<usize> = (0..batch).filter(|lane| due >> lane & 1 == 1).collect();
                let turn = a % lanes.len().max(1);
                lanes.rotate_left(turn);
                let x = random.values(lanes.len() * d_model);
                let mut y = vec![f32::NAN; x.len()];
                layer.step_lanes(Tokens::Separate { x: &x, y: &mut y }, &lanes, &mut cache).unwrap();
                for ((&lane, x), y) in lanes.iter().zip(x.chunks(d_model)).zip(y.chunks(d_model)) {
                    prop_assert_eq!(bits(&forward(&layer, x, 1, Some(&mut alone[lane]))), bits(y));
                }
                match action {
                    0 => {
                        cache.reset_lane(a).unwrap();
                        alone[a].reset();
                    }
                    1 => {
                        cache.copy_lane_within(a, b).unwrap();
                        alone[a] = alone[b].try_clone().unwrap();
                    }
                    2 => {
                        let mut moved = new_cache(&layer, batch + 1);
                        moved.copy_lane(batch, &cache, b).unwrap();
                        cache.copy_lane(a, &moved, batch).unwrap();
                        alone[a] = alone[b].try_clone().unwrap();
                    }
                    _ => {}
                }
            }
            let all = state_bits(&cache);
            for (lane, own) in alone.iter().enumerate() {
                for (all, own) in all.iter().zip(state_bits(own)) {
                    prop_assert_eq!(&all[lane * own.len()..][..own.len()], &own[..]);
                }
            }
        }
    }

    #[test]
    fn in_place_is_the_same(case in cases()) {
        let (x, batch) = (case.x(), case.batch);
        for layer in case.layers() {
            let y = bits(&forward(&layer, &x, batch, None));
            prop_assert_eq!(bits(&forward_in_place(&layer, &x, batch, None)), y.clone());
            let mut cache = new_cache(&layer, batch);
            prop_assert_eq!(bits(&forward_in_place(&layer, &x, batch, Some(&mut cache))), y);
        }
    }

    /// One value that is not a number, or an infinity, in one token of one lane.
    #[test]
    fn poison_stays_in_its_lane_and_behind_its_token(
        case in cases().prop_filter("a token to poison", |case| case.seqlen > 0),
        poison in prop::sample::select(POISON.to_vec()),
        at in any::<prop::sample::Index>(),
    ) {
        let (clean, batch, d_model) = (case.x(), case.batch, case.config.d_model);
        let at = at.index(clean.len());
        let mut x = clean.clone();
        x[at] = poison;
        // The tokens that it can reach: its own and the later ones of its lane.
        let lane = at / (case.seqlen * d_model);
        let reached = at / d_model * d_model..(lane + 1) * case.seqlen * d_model;
        for layer in case.layers() {
            let expected = forward(&layer, &clean, batch, None);
            let exact = oracle(&layer).forward(&widen(&x), batch, case.seqlen).y;
            let y = forward(&layer, &x, batch, None);
            let mut cache = new_cache(&layer, batch);
            let streamed = chunked(&layer, &x, batch, &case.chunks(), &mut cache);
            for (i, value) in y.iter().enumerate() {
                if !reached.contains(&i) {
                    prop_assert_eq!(value.to_bits(), expected[i].to_bits());
                } else if exact[i].is_nan() {
                    prop_assert!(value.is_nan(), "{value} at {i}, where IEEE 754 says NaN");
                }
                // A NaN's payload may differ from call to call, but nothing else.
                prop_assert!(streamed[i].to_bits() == value.to_bits() || (streamed[i].is_nan() && value.is_nan()));
            }
            if poison.is_nan() {
                prop_assert!(y[reached.clone()].iter().all(|v| v.is_nan()), "a NaN was lost");
            }
        }
    }
}

/// A layer for the tests of lengths: channels that fill no whole block, several branches.
fn odd_layer(variant: Variant, isa: Isa) -> Layer {
    let config = Config {
        d_state: 5,
        conv_dilations: if variant == Variant::Baseline { vec![1] } else { vec![1, 3, 8] },
        expand: 1.5,
        bias: true,
        ..Config::new(variant, 14)
    };
    random_layer(&config, isa, 3)
}

/// Calls are computed in blocks of some hundred tokens, which may end inside a sequence or hold many.
#[test]
fn lengths_where_blocks_end() {
    let sizes =
        [(1, 191), (1, 192), (1, 193), (1, 383), (1, 384), (1, 385), (2, 96), (2, 257), (3, 400), (1, 777)];
    let many_short =
        [(191, 1), (193, 1), (384, 1), (385, 1), (500, 1), (97, 2), (400, 2), (129, 3), (300, 3), (65, 7)];
    for variant in Variant::ALL {
        for isa in Isa::available() {
            let layer = odd_layer(variant, isa);
            for (batch, seqlen) in sizes.into_iter().chain(many_short) {
                let what = format!("{} of {batch} x {seqlen} with {}", variant.name(), isa.name());
                let x = Random(17).values(batch * seqlen * 14);
                let whole = forward(&layer, &x, batch, None);
                let exact = oracle(&layer).forward(&widen(&x), batch, seqlen).y;
                let error = relative_error(&widen(&whole), &exact);
                assert!(error < 2e-6, "{what}: off by {error:e}");

                let mut stepped = new_cache(&layer, batch);
                let steps = chunked(&layer, &x, batch, &vec![1; seqlen], &mut stepped);
                assert_eq!(bits(&steps), bits(&whole), "{what}: steps");
                let first = seqlen / 3;
                for chunks in [vec![seqlen], vec![first, seqlen - first], vec![seqlen - 1, 1]] {
                    let mut cache = new_cache(&layer, batch);
                    let y = chunked(&layer, &x, batch, &chunks, &mut cache);
                    assert_eq!(bits(&y), bits(&whole), "{what}: chunks of {chunks:?}");
                    assert_eq!(state_bits(&cache), state_bits(&stepped), "{what}: chunks of {chunks:?}");
                }
                for lane in [0, batch / 2, batch - 1] {
                    let range = lane * seqlen * 14..(lane + 1) * seqlen * 14;
                    let alone = forward(&layer, &x[range.clone()], 1, None);
                    assert_eq!(bits(&alone), bits(&whole[range]), "{what}: lane {lane} alone");
                }
            }
        }
    }
}

/// A layer keeps its scratch memory from call to call; what one call leaves there is not seen by the next.
#[test]
fn calls_leave_nothing_behind() {
    for variant in Variant::ALL {
        for isa in Isa::available() {
            let layer = odd_layer(variant, isa);
            let x = Random(5).values(7 * 30 * 14);
            let expected = bits(&forward(&odd_layer(variant, isa), &x, 7, None));
            let poison = vec![f32::NAN; 300 * 14];
            for batch in [1, 300, 20] {
                forward(&layer, &poison, batch, None);
                forward(&layer, &poison, batch, Some(&mut new_cache(&layer, batch)));
                assert_eq!(bits(&forward(&layer, &x, 7, None)), expected, "{}", variant.name());
                assert_eq!(bits(&forward(&layer, &x, 7, Some(&mut new_cache(&layer, 7)))), expected);
            }
        }
    }
}

#[test]
fn calls_without_tokens_do_nothing() {
    for variant in Variant::ALL {
        let layer = odd_layer(variant, Isa::current());
        let mut none = new_cache(&layer, 0);
        assert!(forward::<f32>(&layer, &[], 0, Some(&mut none)).is_empty());
        layer.forward(Tokens::<f32>::InPlace(&mut []), 0, 9, None).unwrap();

        let x = Random(6).values(2 * 11 * 14);
        let mut cache = new_cache(&layer, 2);
        forward(&layer, &x, 2, Some(&mut cache));
        let states = state_bits(&cache);
        layer.forward(Tokens::Separate { x: &[0.0f32; 0], y: &mut [] }, 2, 0, Some(&mut cache)).unwrap();
        assert_eq!(state_bits(&cache), states);
        assert_eq!(cache.seqlen_offset(), 11);
    }
}

#[test]
fn calls_that_fail_change_nothing() {
    let layer = odd_layer(Variant::Ptcn, Isa::current());
    let x = Random(6).values(2 * 11 * 14);
    let mut cache = new_cache(&layer, 2);
    forward(&layer, &x, 2, Some(&mut cache));
    let states = state_bits(&cache);

    let mut y = vec![7.0; x.len()];
    let mut fails = |layer: &Layer, x: &[f32], y: &mut [f32], batch, seqlen, kind, word: &str| {
        let error = layer.forward(Tokens::Separate { x, y }, batch, seqlen, Some(&mut cache)).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().contains(word), "{error} should speak of {word}");
    };
    let len = x.len();
    fails(&layer, &x[1..], &mut y, 2, 11, ErrorKind::ShapeMismatch, "x");
    fails(&layer, &x, &mut y[1..], 2, 11, ErrorKind::ShapeMismatch, "y");
    fails(&layer, &x, &mut y, 2, 12, ErrorKind::ShapeMismatch, "seqlen");
    fails(&layer, &x, &mut y, 1, 22, ErrorKind::ShapeMismatch, "batch");
    fails(&layer, &x, &mut y, usize::MAX / 2, 11, ErrorKind::OutOfMemory, "batch");
    fails(&odd_layer(Variant::Stcn, Isa::current()), &x, &mut y, 2, 11, ErrorKind::ShapeMismatch, "cache");
    let mut other = layer.config().clone();
    other.conv_dilations = vec![3, 1, 8];
    let other = random_layer(&other, Isa::current(), 3);
    fails(&other, &x, &mut y, 2, 11, ErrorKind::ShapeMismatch, "cache");

    assert_eq!(y, vec![7.0; len]);
    for (name, count, kind) in [
        ("conv_state.3", 2, ErrorKind::NotFound),
        ("ssm_state", 2 * 21 * 5 - 1, ErrorKind::ShapeMismatch),
        ("conv_state.1", 2 * 21 * 10 + 1, ErrorKind::ShapeMismatch),
    ] {
        let mut values = vec![9.0; count];
        assert_eq!(cache.get_state(name, &mut values).unwrap_err().kind(), kind);
        assert_eq!(values, vec![9.0; count]);
        assert_eq!(cache.set_state(name, &values).unwrap_err().kind(), kind);
    }
    assert_eq!(state_bits(&cache), states);
    assert_eq!(cache.seqlen_offset(), 11);
}

/// A layer of the same shape goes on from another one's cache: the weights are not part of the state.
#[test]
fn a_cache_works_with_any_layer_of_its_shape() {
    let layers = [1, 2].map(|seed| {
        let config = Config { seed, ..Config::new(Variant::Stcn, 6) };
        random_layer(&config, Isa::current(), seed)
    });
    let mut cache = new_cache(&layers[0], 1);
    let x = Random(8).values(10 * 6);
    forward(&layers[0], &x, 1, Some(&mut cache));
    forward(&layers[1], &x, 1, Some(&mut cache));
    assert_eq!(cache.seqlen_offset(), 20);
}

#[test]
fn inference_params_keep_one_cache_for_each_layer() {
    let layers = [4, 9].map(|layer_idx| {
        let config = Config { layer_idx: Some(layer_idx), seed: layer_idx, ..Config::new(Variant::Ptcn, 8) };
        random_layer(&config, Isa::current(), layer_idx)
    });
    let model = |x: &[f32], params: Option<&mut InferenceParams>| -> Vec<f32> {
        let Some(params) = params else {
            return forward(&layers[1], &forward(&layers[0], x, 2, None), 2, None);
        };
        let h = forward(&layers[0], x, 2, Some(params.cache_for(&layers[0]).unwrap()));
        forward(&layers[1], &h, 2, Some(params.cache_for(&layers[1]).unwrap()))
    };
    let x = Random(9).values(2 * 12 * 8);
    let whole = model(&x, None);
    let mut params = InferenceParams::new(2, 0);
    assert!(params.cache(4).is_none() && params.batch() == 2);
    for _ in 0..2 {
        for range in [0..7, 7..8, 8..12] {
            let y = model(&tokens(&x, 2, 8, range.clone()), Some(&mut params));
            assert_eq!(bits(&y), bits(&tokens(&whole, 2, 8, range)));
        }
        assert_eq!(params.cache(4).unwrap().seqlen_offset(), 12);
        assert_eq!(params.cache(9).unwrap().seqlen_offset(), 12);
        params.reset();
        assert_eq!(params.cache(9).unwrap().seqlen_offset(), 0);
    }

    let twin = random_layer(layers[0].config(), Isa::current(), 1);
    assert_eq!(params.cache_for(&twin).unwrap_err().kind(), ErrorKind::InvalidArgument);
    let nameless = random_layer(&Config::new(Variant::Ptcn, 8), Isa::current(), 1);
    assert_eq!(params.cache_for(&nameless).unwrap_err().kind(), ErrorKind::InvalidArgument);
}
