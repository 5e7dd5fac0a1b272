//! What is allocated, counted on all threads: a step nothing, a long sequence no more than a short one.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use common::c_abi::{lm_forward_dlpack, lm_step, lm_step_dlpack};
use common::layers::random_layer;
use common::random::Random;
use lite_mamba::ffi::{DLDataType, DLDevice, DLTensor};
use lite_mamba::simd::Isa;
use lite_mamba::{Cache, Config, DType, Layer, Tokens, Variant, threads};

/// The system's allocator, and how often it is asked and how much it has given out.
struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);
static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, SeqCst);
        PEAK.fetch_max(HELD.fetch_add(layout.size(), SeqCst) + layout.size(), SeqCst);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, from: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), SeqCst);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(from, layout) }
    }
}

/// How often `call` allocates, on whatever thread.
fn allocations(call: impl FnOnce()) -> usize {
    let before = CALLS.load(SeqCst);
    call();
    CALLS.load(SeqCst) - before
}

/// By how much memory held grows at most while `call` runs.
fn peak(call: impl FnOnce()) -> usize {
    let before = HELD.load(SeqCst);
    PEAK.store(before, SeqCst);
    call();
    PEAK.load(SeqCst) - before
}

fn layer(variant: Variant, d_model: usize, dtype: DType) -> Layer {
    let conv_dilations = if variant == Variant::Baseline { vec![1] } else { vec![1, 2, 4] };
    random_layer(&Config { conv_dilations, dtype, ..Config::new(variant, d_model) }, Isa::current(), 1)
}

// One test: others beside it, and the harness when one ends, would be counted too.
#[test]
fn steps_allocate_nothing_and_memory_does_not_grow_with_the_sequence() {
    // The counters count.
    assert!(allocations(|| drop(std::hint::black_box(vec![0u8; 1000]))) == 1);
    assert!(peak(|| drop(std::hint::black_box(vec![0u8; 1000]))) == 1000);
    assert!(
        allocations(|| std::thread::spawn(|| drop(std::hint::black_box(Box::new(1)))).join().unwrap()) > 1
    );

    for variant in Variant::ALL {
        for count in [1, 3] {
            threads::set_num_threads(count).unwrap();
            for (d_model, batch) in [(8, 1), (8, 4), (384, 1), (384, 4), (384, 40)] {
                steps(variant, d_model, batch, DType::F32, DType::F32);
            }
            // Types of the layer and of the state: one that the arithmetic is not in is converted on its way.
            for (dtype, held) in [
                (DType::F64, DType::F64),
                (DType::Bf16, DType::F32),
                (DType::F16, DType::F16),
                (DType::F32, DType::Bf16),
            ] {
                steps(variant, 40, 3, dtype, held);
            }
            long_sequences(variant);
            tensors_of_others(variant);
        }
        many_streams(variant);
    }
}

/// Ten thousand streams take the bytes of their own states, and less than a tenth more.
fn many_streams(variant: Variant) {
    const STREAMS: usize = 10_000;
    let layer = layer(variant, 64, DType::F32);
    let mut cache = None;
    let grown = peak(|| cache = Some(Cache::new(&layer, STREAMS, 0).unwrap()));
    let cache = cache.unwrap();
    // The branches of all variants but STCN have one history, the longest of theirs.
    let [histories @ .., ssm] = cache.states() else { panic!("no states") };
    let lengths = histories.iter().map(|info| info.shape[2]);
    let rows = if variant == Variant::Stcn { lengths.sum() } else { lengths.max().unwrap() } + ssm.shape[2];
    let own = STREAMS * layer.dims().d_inner * rows * size_of::<f32>();
    for (what, bytes) in [("bytes()", cache.bytes()), ("allocated", grown)] {
        assert!((own..own + own / 10).contains(&bytes), "{}: {own} bytes, {what} {bytes}", variant.name());
    }
    assert!(cache.bytes() <= grown, "{}: {} of {grown} bytes", variant.name(), cache.bytes());
}

/// The description of f32 or f64 in memory.
fn tensor(data: *const c_void, bits: u8, shape: &mut [i64], strides: &mut [i64]) -> DLTensor {
    DLTensor {
        data: data.cast_mut(),
        device: DLDevice { device_type: 1, device_id: 0 },
        ndim: shape.len() as i32,
        dtype: DLDataType { code: 2, bits, lanes: 1 },
        shape: shape.as_mut_ptr(),
        strides: strides.as_mut_ptr(),
        byte_offset: 0,
    }
}

fn steps(variant: Variant, d_model: usize, batch: usize, dtype: DType, held: DType) {
    let layer = layer(variant, d_model, dtype);
    let mut cache = Cache::with_dtype(&layer, batch, held).unwrap();
    let x = Random(1).values(batch * d_model);
    let mut y = vec![0.0; x.len()];
    let mut step = || {
        let tokens = Tokens::Separate { x: &x, y: &mut y };
        layer.forward(tokens, batch, 1, Some(&mut cache)).unwrap();
        let (layer, cache) = (ptr::from_ref(&layer).cast(), ptr::from_mut(&mut cache).cast());
        // SAFETY: handles of the right kinds, and a token of every sequence in `x` and `y`.
        assert_eq!(unsafe { lm_step(layer, x.as_ptr(), cache, y.as_mut_ptr()) }, 0);
        // The token first, so that they are converted, and in place.
        let (mut shape, mut strides) = ([batch as i64, d_model as i64], [1, batch as i64]);
        let both = tensor(y.as_mut_ptr().cast(), 32, &mut shape, &mut strides);
        // SAFETY: as above.
        assert_eq!(unsafe { lm_step_dlpack(layer, &both, cache, &both, ptr::null_mut()) }, 0);
    };
    step();
    // The library's threads allocate while they start, which may take them a moment longer than that step.
    let settles = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(5));
        allocations(|| (0..50).for_each(|_| step())) == 0
    });
    assert!(
        settles,
        "{} {dtype:?} of width {d_model}, batch {batch}, held in {held:?}: steps allocate",
        variant.name()
    );
}

fn long_sequences(variant: Variant) {
    const D_MODEL: usize = 32;
    let growth = |batch: usize, seqlen: usize, cached: bool| {
        let layer = layer(variant, D_MODEL, DType::F32);
        let x = Random(1).values(batch * seqlen * D_MODEL);
        let mut y = vec![0.0; x.len()];
        let mut cache = cached.then(|| Cache::new(&layer, batch, seqlen).unwrap());
        peak(|| {
            let tokens = Tokens::Separate { x: &x, y: &mut y };
            layer.forward(tokens, batch, seqlen, cache.as_mut()).unwrap();
        })
    };
    for cached in [false, true] {
        let [short, long] = [1000, 8000].map(|seqlen| growth(1, seqlen, cached));
        let name = variant.name();
        assert!(short > 0);
        assert!(long <= short, "{name}, cached {cached}: {short} bytes for 1000 tokens, {long} for 8000");
    }
    // Nor with the batch, but for the lanes that one block of tokens can touch.
    let [few, many] = [500, 3000].map(|batch| growth(batch, 5, false));
    assert!(many <= few, "{}: {few} bytes for 500 sequences, {many} for 3000", variant.name());
}

/// Tensors that are used where they lie take no memory; others that of a block of tokens, however long they are.
fn tensors_of_others(variant: Variant) {
    const D_MODEL: usize = 32;
    const BLOCK: usize = 384;
    let name = variant.name();
    let growth = |seqlen: usize, bits: u8, wide: usize, is_backwards: bool| {
        let layer = layer(variant, D_MODEL, DType::F32);
        let x = vec![0.0f64; seqlen * wide];
        let mut y = vec![0.0f32; seqlen * D_MODEL];
        // Two sequences, in one row of tokens.
        let half = seqlen as i64 / 2;
        let mut shape = [2, half, D_MODEL as i64];
        let token = if is_backwards { -(wide as i64) } else { wide as i64 };
        let (mut of_x, mut of_y) = ([half * token, token, 1], [half * D_MODEL as i64, D_MODEL as i64, 1]);
        let first = if is_backwards { (seqlen - 1) * wide * usize::from(bits) / 8 } else { 0 };
        let mut from = tensor(x.as_ptr().cast(), bits, &mut shape, &mut of_x);
        from.byte_offset = first as u64;
        let to = tensor(y.as_mut_ptr().cast(), 32, &mut shape, &mut of_y);
        peak(|| {
            let layer = ptr::from_ref(&layer).cast();
            // SAFETY: a layer, and tensors within `x` and `y`.
            let status = unsafe { lm_forward_dlpack(layer, &from, ptr::null_mut(), &to, ptr::null_mut()) };
            assert_eq!(status, 0);
        })
    };
    let plain = growth(1000, 32, D_MODEL, false);
    assert!(growth(8000, 32, D_MODEL + 5, false) <= plain, "{name}: a range of columns is copied");
    let room = BLOCK * D_MODEL * size_of::<f32>();
    for (bits, is_backwards) in [(64, false), (32, true)] {
        let [short, long] = [1000, 8000].map(|seqlen| growth(seqlen, bits, D_MODEL + 5, is_backwards));
        assert!(short > plain, "{name}: the tokens have to be converted somewhere");
        assert!(short <= plain + room + 64, "{name}: {short} bytes for a block, {plain} without it");
        assert!(long <= short, "{name}: {short} bytes for 1000 tokens to convert, {long} for 8000");
    }
}
