//! Whole layers on a GPU: forward and the step in a captured graph, over the shapes of `RESULTS.md`.
//! `cargo bench --features cuda --bench cuda -- [CASE …] [--once | --steps]`: with `--once` each forward and step runs twice and
//! nothing is timed, for a profiler to look at; with `--steps` there are steps only.

use std::ptr::null_mut;
use std::time::Instant;

use cudarc::driver::sys;
use lite_mamba::cuda::{self, Calls, DeviceTokens, Engine, Memory, State, Storage, Stream};
use lite_mamba::{Config, Math, Variant, initial_values};

struct Case {
    name: &'static str,
    batch: usize,
    seqlen: usize,
    d_model: usize,
    d_conv: usize,
    dilations: &'static [usize],
}

#[rustfmt::skip]
const CASES: [Case; 5] = [
    Case { name: "G1", batch: 2, seqlen: 128, d_model: 512, d_conv: 3, dilations: &[1, 2, 4, 8] },
    Case { name: "G2", batch: 8, seqlen: 2048, d_model: 1024, d_conv: 4, dilations: &[1, 2, 4, 8] },
    Case { name: "G4", batch: 1, seqlen: 8192, d_model: 768, d_conv: 4, dilations: &[1, 2, 4, 8] },
    Case { name: "G4-1", batch: 1, seqlen: 8192, d_model: 768, d_conv: 4, dilations: &[1] },
    Case { name: "G5", batch: 32, seqlen: 512, d_model: 256, d_conv: 4, dilations: &[1, 2, 4, 8, 16] },
];

const ROUNDS: usize = 15;
/// Steps of a graph, so that launching it is not what is measured.
const CAPTURED: usize = 10;

fn check(status: sys::CUresult) {
    assert_eq!(status, sys::CUresult::CUDA_SUCCESS);
}

/// Median microseconds of `work`, `times` of it between two events.
fn microseconds(stream: Stream, times: usize, mut work: impl FnMut()) -> f64 {
    let mut events = [null_mut(); 2];
    // SAFETY: pointers to locals; a context is current.
    events.iter_mut().for_each(|event| check(unsafe { sys::cuEventCreate(event, 0) }));
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let mut milliseconds = 0.0;
            // SAFETY: events and stream are of the current context.
            unsafe {
                check(sys::cuEventRecord(events[0], stream.handle()));
                (0..times).for_each(|_| work());
                check(sys::cuEventRecord(events[1], stream.handle()));
                check(sys::cuStreamSynchronize(stream.handle()));
                check(sys::cuEventElapsedTime_v2(&mut milliseconds, events[0], events[1]));
            }
            f64::from(milliseconds) * 1e3 / times as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}

fn memory_in_use() -> usize {
    let (mut free, mut total) = (0, 0);
    // SAFETY: pointers to locals; a context is current.
    check(unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) });
    total - free
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let once = arguments.iter().any(|argument| argument == "--once");
    let steps_only = arguments.iter().any(|argument| argument == "--steps");
    let wanted = |name: &str| {
        let names: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
        names.is_empty() || names.iter().any(|wanted| *wanted == name)
    };
    if let Err(error) = cuda::available() {
        println!("not measured: {error}");
        return;
    }
    println!(
        "{:5} {:5} | forward us  of lowest memory | step in a graph us at batch 1, 8, 32 | enqueueing a step, host us",
        "", ""
    );
    for case in CASES.iter().filter(|case| wanted(case.name)) {
        for (label, storage, math) in [
            ("f32", Storage::F32, Math::Default),
            ("tf32", Storage::F32, Math::Tf32),
            ("bf16", Storage::Bf16, Math::Default),
        ] {
            measure(case, label, storage, math, [once, steps_only]);
        }
    }
}

fn measure(case: &Case, label: &str, storage: Storage, math: Math, [once, steps_only]: [bool; 2]) {
    let Case { batch, seqlen, d_model, .. } = *case;
    let config = Config {
        d_conv: case.d_conv,
        conv_dilations: case.dilations.to_vec(),
        dtype: storage.dtype(),
        math,
        ..Config::new(Variant::Ptcn, d_model)
    };
    let dims = config.dims().expect("a valid configuration");
    let gpu = cuda::Gpu::get(0).expect("a GPU");
    let _current = gpu.enter().expect("a context");
    let mut handle = null_mut();
    // SAFETY: the pointer is to a local; a context is current.
    check(unsafe { sys::cuStreamCreate(&mut handle, 1) });
    // SAFETY: just made, destroyed below.
    let stream = unsafe { Stream::of(handle.cast()) };
    let rows = batch * seqlen;
    let made = || {
        let mut engine = Engine::new(&config, &dims).expect("a GPU with room");
        for (name, values) in initial_values(&config, &dims).expect("values") {
            engine.parameters_mut().set(&name, &values).expect("a parameter");
        }
        let x = random(gpu, storage, rows.max(32) * d_model);
        let y = Memory::zeroed(gpu, "y", x.bytes()).expect("memory");
        (engine, x, y)
    };
    type Made = (Engine, Memory, Memory);
    let enqueue = |(engine, x, y): &Made, batch: usize, seqlen: usize, state: Option<&State>| {
        let tokens = |memory: &Memory| DeviceTokens {
            address: memory.address(),
            dtype: storage.dtype(),
            strides: [(seqlen * d_model) as i64, d_model as i64, 1],
        };
        // SAFETY: x and y have room for these tokens.
        unsafe { engine.enqueue([tokens(x), tokens(y)], Calls::uniform(batch, seqlen), state, stream) }
            .expect("a valid call");
    };
    // The code of kernels is loaded when it is first used, and stays in memory: a layer before this one sees to that.
    if !steps_only {
        enqueue(&made(), batch, seqlen, None);
    }
    let before = memory_in_use();
    let made = made();
    let enqueue = |batch, seqlen, state: Option<&State>| enqueue(&made, batch, seqlen, state);
    for _ in 0..if steps_only { 0 } else { 2 } {
        enqueue(batch, seqlen, None);
    }
    gpu.synchronize().expect("no failure");
    let e = dims.d_inner;
    let weights = 3 * d_model * e + e * (dims.dt_rank + 2 * dims.d_state) + e * dims.dt_rank;
    let lowest = storage.size() * (weights + rows * (2 * d_model + 2 * e));
    let used = memory_in_use() - before + 2 * storage.size() * rows * d_model - 2 * made.1.bytes();
    let forward = if once || steps_only {
        0.0
    } else {
        microseconds(stream, if rows > 1000 { 5 } else { 20 }, || enqueue(batch, seqlen, None))
    };

    let mut steps = Vec::new();
    let mut host = Vec::new();
    for batch in [1, 8, 32] {
        let state = made.0.new_state(batch).expect("memory");
        (0..2).for_each(|_| enqueue(batch, 1, Some(&state)));
        gpu.synchronize().expect("no failure");
        if once {
            continue;
        }
        let started = Instant::now();
        const STEPS: usize = 50; // fewer than the driver's queue holds
        (0..STEPS).for_each(|_| enqueue(batch, 1, Some(&state)));
        host.push(started.elapsed().as_secs_f64() * 1e6 / STEPS as f64);
        gpu.synchronize().expect("no failure");
        let (mut graph, mut executable) = (null_mut(), null_mut());
        // SAFETY: handles made and used in order; what is captured outlives the graph.
        unsafe {
            let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
            check(sys::cuStreamBeginCapture_v2(handle, mode));
            (0..CAPTURED).for_each(|_| enqueue(batch, 1, Some(&state)));
            check(sys::cuStreamEndCapture(handle, &mut graph));
            check(sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0));
            let graphs = microseconds(stream, 20, || check(sys::cuGraphLaunch(executable, handle)));
            steps.push(graphs / CAPTURED as f64);
            check(sys::cuGraphExecDestroy(executable));
            check(sys::cuGraphDestroy(graph));
        }
    }
    println!(
        "{:5} {label:5} | {forward:9.1}  {:9.2} ({} MB) | {steps:.1?} | {host:.1?}",
        case.name,
        used as f64 / lowest as f64,
        used >> 20
    );
    // SAFETY: nothing uses the stream any more.
    check(unsafe { sys::cuStreamDestroy_v2(handle) });
}

/// Values around ±1, as they are stored.
fn random(gpu: &'static cuda::Gpu, storage: Storage, count: usize) -> Memory {
    let mut seed = 1_u32;
    let mut next = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let memory = Memory::zeroed(gpu, "x", count * storage.size()).expect("memory");
    if storage == Storage::F32 {
        let values: Vec<f32> = (0..count).map(|_| next()).collect();
        memory.write(Stream::DEFAULT, &values).expect("room");
    } else {
        let values: Vec<u16> = (0..count).map(|_| half::bf16::from_f32(next()).to_bits()).collect();
        memory.write(Stream::DEFAULT, &values).expect("room");
    }
    gpu.synchronize().expect("no failure");
    memory
}
