//! Streams that are stepped, run in chunks, packed with others, moved between caches, saved and loaded, in any order,
//! give the bits of the plain sequential run.

mod common;

use common::layers::random_layer;
use common::random::Random;
use half::{bf16, f16};
use lite_mamba::simd::Isa;
use lite_mamba::{Cache, Config, DType, Element, Layer, Tokens, Variant};
use proptest::collection::vec;
use proptest::prelude::*;

/// Tokens of each stream.
const SEQLEN: usize = 48;
const STREAMS: usize = 5;
/// Sequences of each of the two caches.
const BATCHES: [usize; 2] = [3, 4];

/// Something done to one of the two caches.
#[derive(Clone, Debug)]
enum Operation {
    Step,
    StepLanes(Vec<bool>),
    Chunk(usize),
    Packed(Vec<usize>),
    Begin { lane: usize, stream: usize },
    CopyFromOther { lane: usize, from: usize },
    CopyWithin { lane: usize, from: usize },
    Clone,
    SaveAndLoad,
    MoveStates,
}
use Operation::*;

fn operations() -> impl Strategy<Value = Vec<(usize, Operation)>> {
    let lane = 0..12usize;
    let operation = prop_oneof![
        4 => Just(Step),
        4 => vec(any::<bool>(), 4).prop_map(StepLanes),
        4 => (0..20usize).prop_map(Chunk),
        4 => vec(prop_oneof![Just(0), 1..4usize, 4..30usize], 4).prop_map(Packed),
        2 => (lane.clone(), 0..STREAMS).prop_map(|(lane, stream)| Begin { lane, stream }),
        2 => (lane.clone(), lane.clone()).prop_map(|(lane, from)| CopyFromOther { lane, from }),
        1 => (lane.clone(), lane).prop_map(|(lane, from)| CopyWithin { lane, from }),
        1 => Just(Clone),
        2 => Just(SaveAndLoad),
        1 => Just(MoveStates),
    ];
    vec((0..2usize, operation), 1..40)
}

prop_compose! {
    fn configs()(
        variant in prop::sample::select(Variant::ALL.to_vec()),
        d_model in 1..=20usize,
        d_state in 1..=18usize,
        d_conv in 1..=5usize,
        dilations in vec(1..=9usize, 1..=4),
    ) -> Config {
        Config {
            d_state,
            d_conv,
            conv_dilations: if variant == Variant::Baseline { vec![1] } else { dilations },
            ..Config::new(variant, d_model)
        }
    }
}

/// One cache, and which token of which stream each of its sequences is at.
struct Place {
    cache: Cache,
    at: Vec<(usize, usize)>,
}

/// The tokens of all streams, and what the sequential run makes of them.
struct Streams<'a, T> {
    layer: &'a Layer,
    x: Vec<Vec<T>>,
    y: Vec<Vec<u64>>,
}

fn bits<T: Element>(values: &[T]) -> Vec<u64> {
    values.iter().map(|value| value.to_f64().to_bits()).collect()
}

impl<'a, T: Element> Streams<'a, T> {
    fn new(layer: &'a Layer, seed: u64) -> Self {
        let d_model = layer.dims().d_model;
        let mut random = Random(seed);
        let x: Vec<Vec<T>> = (0..STREAMS)
            .map(|_| (0..SEQLEN * d_model).map(|_| T::from_f64(random.uniform(-2.0, 2.0))).collect())
            .collect();
        let whole = |x: &Vec<T>| {
            let mut y = vec![T::default(); x.len()];
            layer.forward(Tokens::Separate { x, y: &mut y }, 1, SEQLEN, None).unwrap();
            bits(&y)
        };
        let y = x.iter().map(whole).collect();
        Streams { layer, x, y }
    }

    /// The next tokens of a sequence, which must then give the outputs that the sequential run gave.
    fn next(&self, (stream, token): (usize, usize), count: usize) -> (&[T], &[u64]) {
        let d_model = self.layer.dims().d_model;
        let range = token * d_model..(token + count) * d_model;
        (&self.x[stream][range.clone()], &self.y[stream][range])
    }

    /// Takes so many tokens of each of the listed sequences through `call`, one sequence after the other.
    fn run(
        &self,
        place: &mut Place,
        lanes: &[(usize, usize)],
        call: impl FnOnce(&mut [T], &mut Cache),
    ) -> Result<(), TestCaseError> {
        let (mut both, mut expected) = (Vec::new(), Vec::new());
        for &(lane, count) in lanes {
            let (x, y) = self.next(place.at[lane], count);
            both.extend_from_slice(x);
            expected.extend_from_slice(y);
            place.at[lane].1 += count;
        }
        call(&mut both, &mut place.cache);
        prop_assert_eq!(bits(&both), expected);
        Ok(())
    }

    fn apply(
        &self,
        places: &mut [Place; 2],
        which: usize,
        operation: Operation,
    ) -> Result<(), TestCaseError> {
        let layer = self.layer;
        let [first, second] = places;
        let (place, other) = if which == 0 { (first, second) } else { (second, first) };
        let batch = place.cache.batch();
        let left = |place: &Place, lane: usize| SEQLEN - place.at[lane].1;
        let shortest = (0..batch).map(|lane| left(place, lane)).min().unwrap_or(0);
        match operation {
            Step | Chunk(_) => {
                let count = if let Chunk(count) = operation { count } else { 1 }.min(shortest);
                let lanes: Vec<_> = (0..batch).map(|lane| (lane, count)).collect();
                self.run(place, &lanes, |both, cache| {
                    layer.forward(Tokens::InPlace(both), batch, count, Some(cache)).unwrap();
                })?;
            }
            StepLanes(due) => {
                // In falling order, for a change.
                let due = (0..batch).rev().filter(|&lane| due[lane] && left(place, lane) > 0);
                let lanes: Vec<_> = due.map(|lane| (lane, 1)).collect();
                let numbers: Vec<_> = lanes.iter().map(|&(lane, _)| lane).collect();
                self.run(place, &lanes, |both, cache| {
                    layer.step_lanes(Tokens::InPlace(both), &numbers, cache).unwrap();
                })?;
            }
            Packed(lengths) => {
                let lanes: Vec<_> =
                    (0..batch).map(|lane| (lane, lengths[lane].min(left(place, lane)))).collect();
                let mut starts = vec![0];
                starts.extend(lanes.iter().scan(0, |sum, &(_, count)| {
                    *sum += count;
                    Some(*sum)
                }));
                self.run(place, &lanes, |both, cache| {
                    layer.forward_varlen(Tokens::InPlace(both), &starts, Some(cache)).unwrap();
                })?;
            }
            Begin { lane, stream } => {
                place.cache.reset_lane(lane % batch).unwrap();
                place.at[lane % batch] = (stream, 0);
            }
            CopyFromOther { lane, from } => {
                let (lane, from) = (lane % batch, from % other.cache.batch());
                place.cache.copy_lane(lane, &other.cache, from).unwrap();
                place.at[lane] = other.at[from];
            }
            CopyWithin { lane, from } => {
                place.cache.copy_lane_within(lane % batch, from % batch).unwrap();
                place.at[lane % batch] = place.at[from % batch];
            }
            Clone => place.cache = place.cache.try_clone().unwrap(),
            SaveAndLoad => {
                let mut saved = vec![0; place.cache.saved_len().unwrap()];
                place.cache.save(&mut saved).unwrap();
                place.cache = Cache::load(layer, &saved).unwrap();
                let mut again = vec![0; saved.len()];
                place.cache.save(&mut again).unwrap();
                prop_assert_eq!(saved, again);
            }
            MoveStates => {
                let mut moved = place.cache.try_clone().unwrap();
                for info in place.cache.states() {
                    let mut values = vec![0.0f64; info.shape.iter().product()];
                    place.cache.get_state(&info.name, &mut values).unwrap();
                    moved.set_state(&info.name, &values).unwrap();
                }
                place.cache = moved;
            }
        }
        Ok(())
    }
}

fn check<T: Element>(
    config: &Config,
    dtype: DType,
    held: DType,
    operations: &[(usize, Operation)],
    seed: u64,
) -> Result<(), TestCaseError> {
    for isa in Isa::available() {
        let layer = random_layer(&Config { dtype, ..config.clone() }, isa, seed);
        let streams = Streams::<T>::new(&layer, seed);
        let mut places = BATCHES.map(|batch| Place {
            cache: Cache::with_dtype(&layer, batch, held).unwrap(),
            at: (0..batch).map(|lane| ((seed as usize + lane) % STREAMS, 0)).collect(),
        });
        for (which, operation) in operations {
            streams.apply(&mut places, *which, operation.clone())?;
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_operations_gives_the_bits_of_the_sequential_run(
        config in configs(),
        operations in operations(),
        seed in any::<u64>(),
    ) {
        check::<f32>(&config, DType::F32, DType::F32, &operations, seed)?;
        check::<f64>(&config, DType::F64, DType::F64, &operations, seed)?;
        // A wider state holds every value of a narrower one.
        check::<f32>(&config, DType::F32, DType::F64, &operations, seed)?;
        check::<bf16>(&config, DType::Bf16, DType::F32, &operations, seed)?;
        check::<f16>(&config, DType::F16, DType::F32, &operations, seed)?;
    }
}

/// Sequences that lie across the blocks of rows that go through the stages together, and many within one.
#[test]
fn packed_sequences_are_forwards_of_their_own() {
    let lengths: [Vec<usize>; 5] = [
        vec![0, 500, 0, 0, 3, 400, 1, 1, 0, 700, 0],
        vec![1; 800],
        (0..60).map(|i| i % 23).collect(),
        vec![384, 384, 0, 1],
        vec![383, 0, 2, 383],
    ];
    for variant in Variant::ALL {
        let conv_dilations = if variant == Variant::Baseline { vec![1] } else { vec![1, 5] };
        let config = Config { conv_dilations, d_state: 3, ..Config::new(variant, 9) };
        let layer = random_layer(&config, Isa::current(), 11);
        for lengths in &lengths {
            let starts: Vec<usize> = std::iter::once(0)
                .chain(lengths.iter().scan(0, |sum, length| {
                    *sum += length;
                    Some(*sum)
                }))
                .collect();
            let x = Random(5).values(starts[lengths.len()] * 9);
            for held in [None, Some(DType::F32), Some(DType::F64), Some(DType::Bf16)] {
                let cache = |batch| held.map(|held| Cache::with_dtype(&layer, batch, held).unwrap());
                let mut packed = cache(lengths.len());
                // Twice, so that every sequence goes on from somewhere.
                let mut alone: Vec<_> = lengths.iter().map(|_| cache(1)).collect();
                for _ in 0..2 {
                    let mut y = x.clone();
                    layer.forward_varlen(Tokens::InPlace(&mut y), &starts, packed.as_mut()).unwrap();
                    for (i, cache) in alone.iter_mut().enumerate() {
                        let mut both = x[starts[i] * 9..starts[i + 1] * 9].to_vec();
                        layer.forward(Tokens::InPlace(&mut both), 1, lengths[i], cache.as_mut()).unwrap();
                        assert_eq!(
                            bits(&y[starts[i] * 9..starts[i + 1] * 9]),
                            bits(&both),
                            "{i} of {lengths:?}"
                        );
                    }
                }
                let Some(packed) = packed else { continue };
                for info in packed.states() {
                    let mut all = vec![0.0f32; info.shape.iter().product()];
                    packed.get_state(&info.name, &mut all).unwrap();
                    let mut one = vec![0.0f32; all.len() / lengths.len()];
                    for (alone, of_packed) in alone.iter().zip(all.chunks(one.len())) {
                        alone.as_ref().unwrap().get_state(&info.name, &mut one).unwrap();
                        assert_eq!(bits(of_packed), bits(&one), "{}", info.name);
                    }
                }
            }
        }
    }
}

#[test]
fn other_starts_of_sequences_are_refused() {
    let layer = Layer::new(&Config::new(Variant::Ptcn, 2)).unwrap();
    let cases: [(&[usize], &str); 4] = [
        (&[], "cu_seqlens is empty"),
        (&[1, 2], "cu_seqlens[0] is 1; it must be 0"),
        (&[0, 2, 1], "cu_seqlens[2] is 1; it must be at least 2, the one before it"),
        (&[0, 5, usize::MAX], "cu_seqlens[num_seqs] · d_model"),
    ];
    for (starts, message) in cases {
        let mut both = [1.0f32; 4];
        let error = layer.forward_varlen(Tokens::InPlace(&mut both), starts, None).unwrap_err();
        assert!(error.message().contains(message), "{error}");
        assert_eq!(both, [1.0; 4]);
    }
    let mut cache = Cache::new(&layer, 3, 0).unwrap();
    let mut both = [1.0f32; 4];
    let error = layer.forward_varlen(Tokens::InPlace(&mut both), &[0, 1, 2], Some(&mut cache)).unwrap_err();
    assert_eq!(error.kind(), lite_mamba::ErrorKind::ShapeMismatch, "{error}");
    layer.forward_varlen(Tokens::<f32>::InPlace(&mut []), &[0], None).unwrap();
}
