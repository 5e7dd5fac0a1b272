//! Times one layer of the library beside one of mamba-rs 0.7.5, their calls interleaved in one process.
//!
//!     cd benches/mamba_rs
//!     RUSTFLAGS="-C target-cpu=x86-64-v4" cargo build --release --locked
//!     target/release/mamba-rs-peer LIBRARY [--threads 1 2] [--cases F512x128 S512] [--seconds 4]
//!
//! LIBRARY is our shared library. mamba-rs chooses no instructions at run time, so it is built for the processor it
//! runs on; build it with `x86-64-v3` too and take the faster. Its matrix products are those of `gemm`, which does
//! choose at run time, here with AVX-512 among the choices.
//!
//! Both sides hold the weights that mamba-rs draws, and their outputs are compared first (largest difference over
//! largest value). Ours is `LM_VARIANT_BASELINE`: one convolution of 4 taps, 16 states, expand 2. A case is
//! `F<d_model>x<seqlen>`, one sequence from its beginning, or `S<d_model>`, one token of one stream.
//!
//! - Forward is `lm_forward` without a cache against mamba-rs's prefill of a backbone of one layer: `Single` on one
//!   thread, `Parallel` inside a pool of rayon's on more. A backbone also copies its input, norms it for the layer,
//!   adds it to the layer's output and norms that. A backbone without layers copies and norms once: twice its time is
//!   taken off the other's, and said.
//! - Step is `lm_step` against the fastest of `mamba_layer_step`, which is the bare layer and knows no threads, and of
//!   prefills of one token, less the norms' time as above. The line says which it was.
//!
//! A round times a block of calls of each side in turn, a millisecond or one call, after a call that is not timed.
//! Medians over at least 15 rounds, [quartiles], and mamba-rs's time over ours.

use std::ffi::{CStr, c_char, c_void};
use std::ptr::{null, null_mut};
use std::time::Instant;

use mamba_rs::inference::{
    MambaLayerScratch, PrefillMode, PrefillScratch, forward_mamba_backbone_prefill_mode, mamba_layer_step,
};
use mamba_rs::ops::dims::MambaDims;
use mamba_rs::{MambaConfig, MambaState, MambaWeights};
use rayon::{ThreadPool, ThreadPoolBuilder};
use safetensors::{Dtype, tensor::TensorView};

/// d_model and seqlen, which is 0 for a step.
#[rustfmt::skip]
const CASES: [(usize, usize); 8] =
    [(256, 128), (256, 1024), (512, 128), (512, 1024), (768, 2048), (256, 0), (512, 0), (768, 0)];
const ROUNDS: usize = 15;

/// One case on our side; its handles live as long as the process.
struct Ours<'a> {
    library: &'a libloading::Library,
    forward: unsafe extern "C" fn(*const c_void, *const f32, usize, usize, *mut c_void, *mut f32) -> i32,
    step: unsafe extern "C" fn(*const c_void, *const f32, *mut c_void, *mut f32) -> i32,
    layer: *mut c_void,
    cache: *mut c_void,
    seqlen: usize,
    x: Vec<f32>,
    y: Vec<f32>,
}

/// A function of the library; callers name its type as the header has it.
fn function<T: Copy>(library: &libloading::Library, name: &str) -> T {
    // SAFETY: the type is the header's.
    unsafe { *library.get(name).unwrap_or_else(|error| panic!("{error}")) }
}

fn text(library: &libloading::Library, name: &str) -> String {
    let function: unsafe extern "C" fn() -> *const c_char = function(library, name);
    // SAFETY: what these functions return is valid until the next call.
    unsafe { CStr::from_ptr(function()) }.to_string_lossy().into_owned()
}

fn check(library: &libloading::Library, status: i32) {
    assert!(status == 0, "{}", text(library, "lm_last_error"));
}

impl<'a> Ours<'a> {
    fn new(library: &'a libloading::Library, seqlen: usize, peer: &Peer) -> Self {
        type Load =
            unsafe extern "C" fn(*const u8, usize, *const c_char, *const c_void, *mut *mut c_void) -> i32;
        type Alloc = unsafe extern "C" fn(*const c_void, usize, usize, u32, *mut *mut c_void) -> i32;
        let load: Load = function(library, "lm_load_memory");
        let alloc: Alloc = function(library, "lm_alloc_cache");
        let file = peer.safetensors();
        let (mut layer, mut cache) = (null_mut(), null_mut());
        // SAFETY: as the header has it.
        unsafe {
            check(library, load(file.as_ptr(), file.len(), null(), null(), &mut layer));
            check(library, alloc(layer, 1, 0, 0, &mut cache));
        }
        let (forward, step) = (function(library, "lm_forward"), function(library, "lm_step"));
        let x = peer.normed.clone();
        Self { library, forward, step, layer, cache, seqlen, y: vec![0.0; x.len()], x }
    }

    fn call(&mut self) {
        let (x, y) = (self.x.as_ptr(), self.y.as_mut_ptr());
        // SAFETY: x and y hold the tokens that the call is told of.
        check(self.library, unsafe {
            match self.seqlen {
                0 => (self.step)(self.layer, x, self.cache, y),
                _ => (self.forward)(self.layer, x, 1, self.seqlen, null_mut(), y),
            }
        });
    }

    fn reset(&mut self) {
        let reset: unsafe extern "C" fn(*mut c_void) -> i32 = function(self.library, "lm_cache_reset");
        // SAFETY: nothing else uses the cache.
        check(self.library, unsafe { reset(self.cache) });
    }
}

/// How mamba-rs is called.
#[derive(Clone, Copy, Debug)]
enum Path {
    Prefill(PrefillMode),
    LayerStep,
}

/// One case on mamba-rs's side: a backbone of `n_layers`, 1 or 0.
struct Peer {
    config: MambaConfig,
    dims: MambaDims,
    weights: MambaWeights,
    state: MambaState,
    prefill: PrefillScratch,
    step: MambaLayerScratch,
    x: Vec<f32>,
    normed: Vec<f32>,
    y: Vec<f32>,
}

impl Peer {
    fn new(n_layers: usize, d_model: usize, seqlen: usize) -> Self {
        let config = MambaConfig { d_model, n_layers, ..Default::default() };
        let dims = MambaDims::from_config(&config, seqlen.max(1), d_model);
        let mut weights = MambaWeights::init(&config, d_model, 0);
        // No projection of the input.
        (weights.input_proj_w, weights.input_proj_b) = (vec![], vec![]);
        // Small before the norm, so that the layer's output is not small beside what it is added to.
        let value = |i: usize| ((i * 7919 % 2003) as f32 / 1001.0 - 1.0) * 0.01;
        let x: Vec<f32> = (0..dims.seq_len * d_model).map(value).collect();
        Self {
            config,
            dims,
            weights,
            state: MambaState::zeros(n_layers, dims.d_inner, config.d_state, config.d_conv),
            prefill: PrefillScratch::new(&dims),
            step: MambaLayerScratch::new(&config),
            normed: norm(&x, &config),
            y: vec![0.0; x.len()],
            x,
        }
    }

    fn call(&mut self, path: Path) {
        let Self { config, dims, weights, state, prefill, step, x, normed, y } = self;
        match path {
            Path::Prefill(mode) => {
                forward_mamba_backbone_prefill_mode(y, x, weights, state, prefill, dims, mode)
            }
            Path::LayerStep => {
                mamba_layer_step(normed, y, &weights.layers[0], &mut state.layers[0], step, config)
            }
        }
    }

    /// The layer as a file. mamba-rs holds matrices transposed.
    fn safetensors(&self) -> Vec<u8> {
        let MambaDims { d_model, d_inner: e, d_state: n, d_conv, dt_rank, xdbl_dim, .. } = self.dims;
        let layer = &self.weights.layers[0];
        let matrices = [
            ("in_proj.weight", &layer.in_proj_w, 2 * e, d_model),
            ("x_proj.weight", &layer.x_proj_w, xdbl_dim, e),
            ("dt_proj.weight", &layer.dt_proj_w, e, dt_rank),
            ("out_proj.weight", &layer.out_proj_w, d_model, e),
        ];
        let others = [
            ("conv1d.weight", &layer.conv1d_weight, vec![e, 1, d_conv]),
            ("conv1d.bias", &layer.conv1d_bias, vec![e]),
            ("dt_proj.bias", &layer.dt_proj_b, vec![e]),
            ("A_log", &layer.a_log, vec![e, n]),
            ("D", &layer.d_param, vec![e]),
        ];
        let bytes =
            |values: &mut dyn Iterator<Item = f32>| values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>();
        let mut tensors: Vec<_> =
            others.map(|(name, v, shape)| (name, bytes(&mut v.iter().copied()), shape)).into();
        tensors.extend(matrices.map(|(name, v, rows, columns)| {
            (name, bytes(&mut (0..v.len()).map(|i| v[i % columns * rows + i / columns])), vec![rows, columns])
        }));
        let view =
            |shape: &[usize], data| TensorView::new(Dtype::F32, shape.to_vec(), data).expect("its size");
        let views = tensors.iter().map(|(name, data, shape)| (*name, view(shape, data)));
        safetensors::serialize(views, None).expect("a file")
    }
}

/// mamba-rs's norm, with weights of 1.
fn norm(x: &[f32], config: &MambaConfig) -> Vec<f32> {
    let mut out = x.to_vec();
    for row in out.chunks_mut(config.d_model) {
        let mean = row.iter().map(|v| v * v).sum::<f32>() / config.d_model as f32;
        row.iter_mut().for_each(|v| *v /= (mean + config.rms_norm_eps).sqrt());
    }
    out
}

/// Largest difference over largest value, from the beginning: of a sequence, or of eight steps.
fn difference(ours: &mut Ours, peer: &mut Peer, path: Path) -> f32 {
    ours.reset();
    peer.state.reset();
    let mut largest: f32 = 0.0;
    for _ in 0..if ours.seqlen == 0 { 8 } else { 1 } {
        ours.call();
        peer.call(path);
        let expected = match path {
            Path::LayerStep => ours.y.clone(),
            Path::Prefill(_) => {
                let sum: Vec<f32> = peer.x.iter().zip(&ours.y).map(|(x, y)| x + y).collect();
                norm(&sum, &peer.config)
            }
        };
        let error = expected.iter().zip(&peer.y).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        largest = largest.max(error / expected.iter().map(|v| v.abs()).fold(0.0, f32::max));
    }
    largest
}

/// Seconds of one call, after one that is not timed.
fn seconds(repeats: usize, mut call: impl FnMut()) -> f64 {
    call();
    let begin = Instant::now();
    (0..repeats).for_each(|_| call());
    begin.elapsed().as_secs_f64() / repeats as f64
}

/// The same of mamba-rs, timed inside the pool if there is one.
fn peer_seconds(pool: Option<&ThreadPool>, repeats: usize, peer: &mut Peer, path: Path) -> f64 {
    let mut time = || seconds(repeats, || peer.call(path));
    match pool {
        Some(pool) => pool.install(time),
        None => time(),
    }
}

/// As many calls as fill a millisecond.
fn repeats(seconds: f64) -> usize {
    ((1e-3 / seconds) as usize).max(1)
}

/// Median and quartiles.
fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [2, 1, 3].map(|i| values[i * (values.len() - 1) / 4])
}

fn run(library: &libloading::Library, (d_model, seqlen): (usize, usize), threads: usize, budget: f64) {
    let mut peer = Peer::new(1, d_model, seqlen);
    let mut bare = Peer::new(0, d_model, seqlen);
    let mut ours = Ours::new(library, seqlen, &peer);
    let pool = (threads > 1).then(|| ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool"));
    let pool = pool.as_ref();

    let mode = if threads > 1 { PrefillMode::Parallel } else { PrefillMode::Single };
    let mut paths = vec![Path::Prefill(mode)];
    if seqlen == 0 {
        paths.extend([Path::LayerStep, Path::Prefill(PrefillMode::Single)]);
    }
    let error = paths.iter().map(|&path| difference(&mut ours, &mut peer, path)).fold(0.0, f32::max);
    assert!(error < 1e-5, "the two do not compute the same: {error:e}");
    if paths.len() > 1 {
        let mut trial =
            |&path: &Path| quartiles((0..25).map(|_| peer_seconds(pool, 20, &mut peer, path)).collect())[0];
        paths.sort_by_cached_key(|path| (trial(path) * 1e9) as u64);
    }
    let path = paths[0];

    let our_repeats = repeats(seconds(1, || ours.call()));
    let peer_repeats = repeats(peer_seconds(pool, 1, &mut peer, path));
    let mut times = [const { Vec::new() }; 3];
    let begin = Instant::now();
    while times[0].len() < ROUNDS || begin.elapsed().as_secs_f64() < budget {
        times[0].push(seconds(our_repeats, || ours.call()));
        times[1].push(peer_seconds(pool, peer_repeats, &mut peer, path));
        times[2].push(match path {
            Path::LayerStep => 0.0,
            Path::Prefill(_) => 2.0 * peer_seconds(pool, peer_repeats, &mut bare, path),
        });
    }
    let rounds = times[0].len();
    let [our, peer, [norms, ..]] = times.map(|times| quartiles(times).map(|seconds| seconds * 1e6));
    let peer = peer.map(|time| time - norms);
    let ratio = peer[0] / our[0];
    let show = |[median, low, high]: [f64; 3]| format!("{median:9.1} µs [{low:.1}, {high:.1}]");
    print!("{:9} threads {threads:2} | ours {} | ", name((d_model, seqlen)), show(our));
    print!("mamba-rs {} {ratio:.2} x | {path:?}, norms {norms:.1} µs taken off, ", show(peer));
    println!("{rounds} rounds, difference {error:.1e}");
}

fn name((d_model, seqlen): (usize, usize)) -> String {
    if seqlen == 0 { format!("S{d_model}") } else { format!("F{d_model}x{seqlen}") }
}

/// What follows an option, up to the next one.
fn option<'a>(words: &'a [String], name: &str) -> Vec<&'a str> {
    let rest = words.iter().map(String::as_str).skip_while(|word| *word != name).skip(1);
    rest.take_while(|word| !word.starts_with("--")).collect()
}

fn main() {
    let usage = "usage: mamba-rs-peer LIBRARY [--threads N ...] [--cases NAME ...] [--seconds S]";
    let words: Vec<String> = std::env::args().skip(1).collect();
    let known = |word: &str| !word.starts_with("--") || ["--threads", "--cases", "--seconds"].contains(&word);
    assert!(!words.is_empty() && words.iter().all(|word| known(word)), "{usage}");
    let budget = option(&words, "--seconds").first().map_or(4.0, |word| word.parse().expect(usage));
    let mut threads: Vec<usize> =
        option(&words, "--threads").iter().map(|n| n.parse().expect(usage)).collect();
    if threads.is_empty() {
        threads = vec![1, 2];
    }
    let names = option(&words, "--cases");
    // Without a directory the loader would look where the system's libraries are.
    let path = std::fs::canonicalize(&words[0]).unwrap_or_else(|error| panic!("{}: {error}", words[0]));
    // SAFETY: loading the library runs nothing that needs care.
    let library = unsafe { libloading::Library::new(path) }.unwrap_or_else(|error| panic!("{error}"));
    println!("{}", text(&library, "lm_build_info"));
    let target = if cfg!(target_feature = "avx512f") { "x86-64-v4" } else { "less than x86-64-v4" };
    let gemm = if cfg!(feature = "gemm-avx512") { "with" } else { "without" };
    println!("mamba-rs {} compiled for {target}, gemm {gemm} AVX-512", mamba_rs::VERSION);
    let set: unsafe extern "C" fn(usize) -> i32 = function(&library, "lm_set_num_threads");
    for threads in threads {
        // SAFETY: any number is allowed.
        check(&library, unsafe { set(threads) });
        for case in CASES.into_iter().filter(|&case| names.is_empty() || names.contains(&&*name(case))) {
            run(&library, case, threads, budget);
        }
    }
}
