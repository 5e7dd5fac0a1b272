//! Threads change no bit: neither how many the library uses, nor how many the caller has.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
#[cfg(target_os = "linux")]
use std::time::Duration;

use common::layers::{bits, chunked, converted, forward, random_layer, state_bits};
use common::random::Random;
use half::{bf16, f16};
use lite_mamba::simd::Isa;
use lite_mamba::tensor::Element;
use lite_mamba::{Cache, Config, DType, ErrorKind, Layer, Variant, threads};

/// The number of threads is the process's; one test at a time may set it.
fn setting() -> MutexGuard<'static, ()> {
    static SETTING: Mutex<()> = Mutex::new(());
    SETTING.lock().unwrap_or_else(PoisonError::into_inner)
}

const D_MODEL: usize = 72;
/// (batch, seqlen): in the first a forward is large enough to be shared, in the second a step as well.
const SHAPES: [(usize, usize); 2] = [(3, 130), (32, 5)];

/// A layer whose sizes no number of threads divides: eight blocks of channels and a rest, and fewer columns
/// in the small products than there are threads.
fn layer(variant: Variant, dtype: DType, isa: Isa) -> Layer {
    let config = Config {
        d_state: 7,
        conv_dilations: if variant == Variant::Baseline { vec![1] } else { vec![1, 4, 9] },
        expand: 1.9,
        dtype,
        ..Config::new(variant, D_MODEL)
    };
    random_layer(&config, isa, 1)
}

/// The bits that every kind of call gives: without a cache, with one in chunks and steps, and the states.
fn results<T: Element>(layer: &Layer) -> Vec<Vec<u64>> {
    let mut results = Vec::new();
    for (batch, seqlen) in SHAPES {
        let x: Vec<T> = converted(&Random(2).values(batch * seqlen * D_MODEL));
        let whole = bits(&forward(layer, &x, batch, None));
        for chunks in [vec![seqlen / 2, 1, seqlen - seqlen / 2 - 1], vec![1; seqlen]] {
            let mut cache = Cache::new(layer, batch, 0).unwrap();
            assert!(bits(&chunked(layer, &x, batch, &chunks, &mut cache)) == whole);
            results.extend(state_bits(&cache));
        }
        results.push(whole);
    }
    results
}

/// Waits until so many threads of the library are there, by their names; false if they never come.
#[cfg(target_os = "linux")]
fn threads_appear(count: usize) -> bool {
    let found = || {
        let tasks = std::fs::read_dir("/proc/self/task").expect("a list of threads");
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|name| name.starts_with("lite-mamba")).count()
    };
    (0..1000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        found() >= count
    })
}

fn any_number_gives_the_same_bits<T: Element>() {
    let _setting = setting();
    for variant in Variant::ALL {
        for isa in Isa::available() {
            let layer = layer(variant, T::DTYPE, isa);
            threads::set_num_threads(1).unwrap();
            let alone = results::<T>(&layer);
            for count in [2, 3, 5, 8, 70] {
                threads::set_num_threads(count).unwrap();
                assert_eq!(threads::num_threads(), count);
                let what = format!("{} in {:?} with {count} threads", variant.name(), T::DTYPE);
                assert!(results::<T>(&layer) == alone, "{what}");
                // Otherwise nothing was tested.
                #[cfg(target_os = "linux")]
                assert!(threads_appear(count - 1), "no call was shared");
            }
        }
    }
    threads::set_num_threads(0).unwrap();
    assert_eq!(threads::num_threads(), std::thread::available_parallelism().map_or(1, |n| n.get()));
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    any_number_gives_the_same_bits::<f32>();
}

#[test]
fn any_number_of_threads_gives_the_same_bits_in_f64() {
    any_number_gives_the_same_bits::<f64>();
}

#[test]
fn any_number_of_threads_gives_the_same_bits_in_bf16() {
    any_number_gives_the_same_bits::<bf16>();
}

#[test]
fn any_number_of_threads_gives_the_same_bits_in_f16() {
    any_number_gives_the_same_bits::<f16>();
}

/// A caller with threads of its own: one layer for all of them, a cache for each.
#[test]
fn many_callers_share_a_layer() {
    let _setting = setting();
    for variant in Variant::ALL {
        let layer = layer(variant, DType::F32, Isa::current());
        threads::set_num_threads(1).unwrap();
        let alone = results::<f32>(&layer);
        threads::set_num_threads(3).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..3 {
                        assert!(results::<f32>(&layer) == alone, "{}", variant.name());
                    }
                });
            }
        });
    }
}

#[test]
fn the_number_may_change_while_others_compute() {
    let _setting = setting();
    let layer = layer(Variant::Ptcn, DType::F32, Isa::current());
    threads::set_num_threads(1).unwrap();
    let alone = results::<f32>(&layer);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random(3);
            while !done.load(Ordering::Relaxed) {
                threads::set_num_threads(random.below(6)).unwrap();
                std::thread::yield_now();
            }
        });
        let callers: Vec<_> =
            (0..4).map(|_| scope.spawn(|| (0..10).all(|_| results::<f32>(&layer) == alone))).collect();
        let same = callers.into_iter().all(|caller| caller.join().is_ok_and(|same| same));
        done.store(true, Ordering::Relaxed);
        assert!(same);
    });
}

#[test]
fn an_absurd_number_is_an_error_and_changes_nothing() {
    let _setting = setting();
    threads::set_num_threads(2).unwrap();
    for n in [4097, usize::MAX] {
        let error = threads::set_num_threads(n).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.message().contains(&n.to_string()), "{error}");
    }
    assert_eq!(threads::num_threads(), 2);
}
