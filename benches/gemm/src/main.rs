//! The four products of a layer through our packed weights and through the crate gemm with AVX-512, in turns, on one thread.
//!
//!     cargo run --release --manifest-path benches/gemm/Cargo.toml
//!
//! gemm packs the weights at every call: that is what it offers, and what weights that never change save us.

use std::hint::black_box;
use std::time::Instant;

use lite_mamba::ops::linear::{Groups, Input, Linear, Output};
use lite_mamba::ops::{CHANNEL_BLOCK, view2, view2_mut, view3, view3_mut};
use lite_mamba::simd::Isa;
use lite_mamba::threads::Workers;
use ndarray::Axis;

fn noise(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i * 7919 % 2003) as f32 / 1001.0 - 1.0).collect()
}

/// One product of (rows, inputs) by the transpose of (outputs, inputs).
struct Product {
    rows: usize,
    inputs: usize,
    outputs: usize,
    /// From rows to blocks of channels; the other way round otherwise.
    inward: bool,
    x: Vec<f32>,
    weight: Vec<f32>,
    packed: Linear<f32>,
    out: Vec<f32>,
}

impl Product {
    fn new(rows: usize, inputs: usize, outputs: usize, inward: bool) -> Self {
        let weight = noise(inputs * outputs);
        let mut packed = Linear::zeroed("weights", Isa::current(), outputs, Groups::one(inputs)).unwrap();
        packed.set_weight(0, &weight);
        Product {
            rows,
            inputs,
            outputs,
            inward,
            x: noise(rows * inputs),
            weight,
            packed,
            out: vec![0.0; rows * outputs],
        }
    }

    /// As in a layer: blocks of rows, tokens in rows outside and in blocks of channels inside, and what stays within a
    /// channel afterwards a panel of weights at a time. Both layouts have the same number of values.
    fn ours(&mut self) {
        let Product { inputs, outputs, .. } = *self;
        for start in (0..self.rows).step_by(384) {
            let rows = (self.rows - start).min(384);
            let (x, out) = (&self.x[start * inputs..], &mut self.out[start * outputs..]);
            let blocks = |columns: usize| [columns / CHANNEL_BLOCK, rows, CHANNEL_BLOCK];
            if self.inward {
                let x = Input::Rows(view2(x, [rows, inputs]));
                let panel = self.packed.panel_blocks();
                let mut out = view3_mut(out, blocks(outputs));
                for (i, out) in out.axis_chunks_iter_mut(Axis(0), panel).enumerate() {
                    self.packed.apply_columns(i * panel * CHANNEL_BLOCK, x, Output::Blocks(out));
                }
            } else {
                let x = Input::Blocks(view3(x, blocks(inputs)));
                self.packed.apply(&Workers::caller(), x, Output::Rows(view2_mut(out, [rows, outputs])));
            }
        }
    }

    fn gemm(&mut self) {
        let (m, n, k) = (self.rows, self.outputs, self.inputs);
        // SAFETY: the arrays are as large as their sizes and strides say.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                self.out.as_mut_ptr(),
                1,
                n as isize,
                false,
                self.x.as_ptr(),
                1,
                k as isize,
                self.weight.as_ptr(),
                k as isize,
                1,
                0.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    }
}

fn seconds(call: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    call();
    begin.elapsed().as_secs_f64()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    println!("{} on one thread, ms, medians of 25 in turns", Isa::current().name());
    for (name, rows, d) in [
        ("C1", 256, 512),
        ("C2", 1024, 256),
        ("C3", 2048, 768),
        ("C4", 4096, 256),
        ("16 rows", 16, 512),
        ("a step", 1, 512),
    ] {
        let (e, r) = (2 * d, d / 16);
        let shapes = [(d, 2 * e, true), (e, r + 32, false), (r, e, true), (e, d, false)];
        let mut products =
            shapes.map(|(inputs, outputs, inward)| Product::new(rows, inputs, outputs, inward));
        let (mut ours, mut gemm) = (Vec::new(), Vec::new());
        for _ in 0..25 {
            products.iter_mut().for_each(Product::ours);
            ours.push(seconds(|| products.iter_mut().for_each(Product::ours)));
            products.iter_mut().for_each(Product::gemm);
            gemm.push(seconds(|| products.iter_mut().for_each(Product::gemm)));
        }
        black_box(&products.each_ref().map(|product| product.out[0]));
        let operations: f64 = shapes.iter().map(|(k, n, _)| 2.0 * (rows * k * n) as f64).sum();
        let (ours, gemm) = (median(ours), median(gemm));
        let rate = |seconds: f64| operations / seconds / 1e9;
        println!(
            "{name:8} ours {:8.3} = {:5.1} GFLOP/s, gemm {:8.3} = {:5.1} GFLOP/s, {:.2} x",
            ours * 1e3,
            rate(ours),
            gemm * 1e3,
            rate(gemm),
            gemm / ours
        );
    }
}
