//! Times each stage alone at the shapes of a case, one line a stage, after the ceilings that its floor is made
//! of: the rate of multiply-adds in registers and of the vector functions in L1.
//!
//!     cargo bench --bench stages -- [threads] [rows]

use std::hint::black_box;
use std::time::Instant;

use half::{bf16, f16};
use lite_mamba::ops::Segment;
use lite_mamba::ops::conv::DepthwiseConv;
use lite_mamba::ops::linear::{Groups, Input, Linear, Output};
use lite_mamba::ops::scan::SelectiveScan;
use lite_mamba::ops::{CHANNEL_BLOCK, padded, view2, view2_mut, view3, view3_mut, view4_mut};
use lite_mamba::simd::{Isa, Kernel, Simd, Storage, math};
use lite_mamba::threads::{Workers, set_num_threads};

/// Values that are neither zero nor denormal, and the same at every run.
fn noise(len: usize, scale: f32) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * scale
    };
    (0..len).map(|_| next()).collect()
}

/// Median seconds of 31 calls after three.
fn median(mut call: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..34)
        .map(|_| {
            let begin = Instant::now();
            call();
            begin.elapsed().as_secs_f64()
        })
        .collect();
    times.drain(..3);
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Multiply-adds in registers, as many chains as it takes to hide their latency.
struct MultiplyAdds {
    rounds: usize,
}

impl Kernel<f32> for MultiplyAdds {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd<f32>>(self, s: S) -> f32 {
        let (factor, summand) = (s.splat(black_box(0.999)), s.splat(black_box(0.001)));
        let mut sums = [s.splat(black_box(1.0)); 12];
        for _ in 0..self.rounds {
            for sum in &mut sums {
                *sum = s.fma(*sum, factor, summand);
            }
        }
        let mut out = [0.0; 64];
        let total = sums.into_iter().fold(s.splat(0.0), |a, b| s.add(a, b));
        // SAFETY: no vector is longer.
        unsafe { s.store(out.as_mut_ptr(), total) };
        out[0]
    }
}

/// One vector function of every value.
struct Map<'a> {
    function: &'static str,
    values: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel<f32> for Map<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<f32>>(self, s: S) {
        assert_eq!(self.values.len(), self.out.len());
        macro_rules! all {
            ($function:expr) => {
                for (v, out) in self.values.chunks_exact(S::LANES).zip(self.out.chunks_exact_mut(S::LANES)) {
                    // SAFETY: both chunks are as long as a vector.
                    unsafe { s.store(out.as_mut_ptr(), $function(s, s.load(v.as_ptr()))) }
                }
            };
        }
        use math::{Functions, Short};
        match self.function {
            "2^v, short" => all!(|s: S, v| Short::exp2_nonpositive(s, v, s.splat(0.5))),
            "silu, short" => all!(Short::silu),
            "softplus, short" => all!(Short::softplus),
            "exp" => all!(math::exp_nonpositive),
            "2^v" => all!(|s: S, v| math::exp2_nonpositive(s, v, s.splat(0.5))),
            "silu" => all!(math::silu),
            _ => all!(math::softplus),
        }
    }
}

fn ceilings(isa: Isa) {
    let rounds = 20_000;
    let seconds = median(|| {
        black_box(isa.dispatch(MultiplyAdds { rounds }));
    });
    struct Lanes;
    impl Kernel<f32> for Lanes {
        type Output = usize;
        fn run<S: Simd<f32>>(self, _: S) -> usize {
            S::LANES
        }
    }
    let operations = 2 * 12 * rounds * isa.dispatch(Lanes);
    println!("multiply-adds in registers, one thread: {:.1} GFLOP/s", operations as f64 / seconds / 1e9);
    let values: Vec<f32> = noise(2048, 3.0).iter().map(|v| -v.abs()).collect();
    let mut out = vec![0.0; values.len()];
    let short = ["2^v, short", "silu, short", "softplus, short"];
    for function in ["exp", "2^v", "silu", "softplus"].into_iter().chain(short) {
        let seconds = median(|| {
            for _ in 0..50 {
                isa.dispatch(Map { function, values: &values, out: &mut out });
            }
            black_box(&out);
        });
        println!("{function} in L1, one thread: {:.2} G/s", 50.0 * values.len() as f64 / seconds / 1e9);
    }
}

fn linear<W: Storage<Real = f32>>(
    isa: Isa,
    workers: &Workers,
    name: &str,
    rows: usize,
    inputs: usize,
    outputs: usize,
) {
    let mut linear = Linear::<W>::zeroed("weights", isa, outputs, Groups::one(inputs)).unwrap();
    linear.set_weight(0, &noise(inputs * outputs, 0.1));
    let blocks = |columns: usize| [padded(columns) / CHANNEL_BLOCK, rows, CHANNEL_BLOCK];
    let x = noise(rows * padded(inputs), 1.0);
    let mut out = vec![0.0; rows * padded(outputs)];
    let mut room = vec![0.0; rows * linear.room()];
    let operations = 2.0 * (rows * inputs * outputs) as f64;
    for (layout, is_blocks) in [("rows to blocks", false), ("blocks to rows", true)] {
        let seconds = median(|| {
            let (x, out) = if is_blocks {
                (Input::Blocks(view3(&x, blocks(inputs))), Output::Rows(view2_mut(&mut out, [rows, outputs])))
            } else {
                (Input::Rows(view2(&x, [rows, inputs])), Output::Blocks(view3_mut(&mut out, blocks(outputs))))
            };
            linear.apply(workers, linear.prepare(workers, x, &mut room), out);
        });
        black_box(&out);
        println!(
            "{name:9} {:4} {rows:4} x {inputs:4} -> {outputs:4} {layout}: {:9.1} µs, {:6.1} GFLOP/s, {:5.1} GB/s of weights",
            format!("{:?}", W::DTYPE),
            seconds * 1e6,
            operations / seconds / 1e9,
            (inputs * outputs * size_of::<W>()) as f64 / seconds / 1e9
        );
    }
}

/// The convolutions and the scan of as many channels as go through them together.
fn channel_stages<W: Storage<Real = f32>>(isa: Isa, rows: usize) {
    let e = 32;
    let inner = [e / CHANNEL_BLOCK, rows, CHANNEL_BLOCK];
    let segments = [Segment { lane: 0, rows: 0..rows, offset: 100 }];
    let report = |what: String, seconds: f64| {
        let element = seconds * 1e9 / (rows * e) as f64;
        println!(
            "{what} of {:?}, {rows} rows of {e} channels: {:.1} µs, {element:.3} ns an element",
            W::DTYPE,
            seconds * 1e6
        );
    };
    for (taps, dilations) in [(3, &[1, 2, 4, 8][..]), (4, &[1, 2, 4]), (4, &[1])] {
        let mut conv = DepthwiseConv::<W>::zeroed(isa, e, taps, dilations).unwrap();
        for branch in 0..dilations.len() {
            conv.set_weight(branch, noise(e * taps, 1.0).into_iter());
        }
        let (x, gates) = (noise(rows * e, 1.0), vec![0.3; dilations.len()]);
        let ring = (taps - 1) * dilations.last().unwrap() + 1;
        let mut history = noise(e * ring, 1.0);
        let mut u = vec![0.0; rows * e];
        let seconds = median(|| {
            let history = view4_mut(&mut history, [inner[0], 1, ring, CHANNEL_BLOCK]);
            let u = view4_mut(&mut u, [1, inner[0], rows, CHANNEL_BLOCK]);
            conv.apply(0, 0..dilations.len(), &gates, &segments, view3(&x, inner), history, u);
        });
        report(format!("conv of {taps} taps, dilations {dilations:?}"), seconds);
    }
    let states = 16;
    let mut scan = SelectiveScan::<W>::zeroed(isa, e, states).unwrap();
    scan.set_a_log(&noise(e * states, 1.0));
    let [u, delta, z, bc] = [rows * e, rows * e, rows * e, 2 * rows * states].map(|len| noise(len, 1.0));
    let mut state = vec![0.0; states * e];
    let mut arrays = [u.clone(), delta.clone(), z.clone()];
    let seconds = median(|| {
        // In the places of what the last call left.
        for (array, values) in arrays.iter_mut().zip([&u, &delta, &z]) {
            array.copy_from_slice(values);
        }
        let [u, delta, z] = arrays.each_mut().map(|array| view3_mut(array, inner));
        let (b, c) = view2(&bc, [2 * rows, states]).split_at(ndarray::Axis(0), rows);
        let state = view4_mut(&mut state, [inner[0], 1, states, CHANNEL_BLOCK]);
        scan.apply(0, &segments, u, delta, z, b, c, state);
    });
    black_box(&arrays);
    report(format!("scan of {states} states"), seconds);
}

fn main() {
    let mut numbers = std::env::args().filter_map(|a| a.parse().ok());
    let threads = numbers.next().unwrap_or(1);
    let rows: Vec<usize> = numbers.collect();
    set_num_threads(threads).unwrap();
    let isa = Isa::current();
    println!("{} with {threads} threads", isa.name());
    ceilings(isa);
    for rows in if rows.is_empty() { vec![1, 16, 384] } else { rows } {
        let workers = Workers::for_operations(f64::INFINITY);
        for d in [256usize, 512, 768] {
            let e = 2 * d;
            let shapes = [
                ("in_proj/2", d, e),
                ("x_proj", e, d.div_ceil(16) + 32),
                ("dt_proj", d.div_ceil(16), e),
                ("out_proj", e, d),
            ];
            for (name, inputs, outputs) in shapes {
                linear::<f32>(isa, &workers, name, rows, inputs, outputs);
                linear::<bf16>(isa, &workers, name, rows, inputs, outputs);
                linear::<f16>(isa, &workers, name, rows, inputs, outputs);
            }
        }
        channel_stages::<f32>(isa, rows);
        channel_stages::<bf16>(isa, rows);
    }
}
