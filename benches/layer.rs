//! Whole layers: forward over the shapes of `RESULTS.md`, and one step of the stream, with one thread and
//! with one per core. `cargo bench --bench layer -- C2` runs one of them.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lite_mamba::{Cache, Config, Layer, Tokens, Variant, threads};

struct Case {
    name: &'static str,
    variant: Variant,
    batch: usize,
    seqlen: usize,
    d_model: usize,
    d_conv: usize,
    dilations: &'static [usize],
}

#[rustfmt::skip]
const FORWARD: [Case; 6] = [
    Case { name: "C1", variant: Variant::Ptcn, batch: 2, seqlen: 128, d_model: 512, d_conv: 3, dilations: &[1, 2, 4, 8] },
    Case { name: "C2", variant: Variant::Ptcn, batch: 1, seqlen: 1024, d_model: 256, d_conv: 4, dilations: &[1, 2, 4] },
    Case { name: "C3", variant: Variant::Ptcn, batch: 1, seqlen: 2048, d_model: 768, d_conv: 4, dilations: &[1] },
    Case { name: "C4", variant: Variant::Ptcn, batch: 8, seqlen: 512, d_model: 256, d_conv: 4, dilations: &[1, 2, 4, 8, 16] },
    Case { name: "C1-STCN", variant: Variant::Stcn, batch: 2, seqlen: 128, d_model: 512, d_conv: 3, dilations: &[1, 2, 4, 8] },
    Case { name: "C1-DPWC", variant: Variant::Dpwc, batch: 2, seqlen: 128, d_model: 512, d_conv: 3, dilations: &[1, 2, 4, 8] },
];

#[rustfmt::skip]
const STEP: [Case; 4] = [
    Case { name: "S256", variant: Variant::Ptcn, batch: 1, seqlen: 1, d_model: 256, d_conv: 4, dilations: &[1, 2, 4] },
    Case { name: "S512", variant: Variant::Ptcn, batch: 1, seqlen: 1, d_model: 512, d_conv: 3, dilations: &[1, 2, 4, 8] },
    Case { name: "S768", variant: Variant::Ptcn, batch: 1, seqlen: 1, d_model: 768, d_conv: 4, dilations: &[1] },
    Case { name: "S512x16", variant: Variant::Ptcn, batch: 16, seqlen: 1, d_model: 512, d_conv: 3, dilations: &[1, 2, 4, 8] },
];

fn forward(criterion: &mut Criterion) {
    for case in &FORWARD {
        run(criterion, case, false);
    }
}

fn step(criterion: &mut Criterion) {
    for case in &STEP {
        run(criterion, case, true);
    }
}

fn run(criterion: &mut Criterion, case: &Case, cached: bool) {
    let Case { batch, seqlen, d_model, .. } = *case;
    let config = Config {
        d_conv: case.d_conv,
        conv_dilations: case.dilations.to_vec(),
        ..Config::new(case.variant, d_model)
    };
    let layer = Layer::new(&config).expect("a valid configuration");
    let mut cache = cached.then(|| Cache::new(&layer, batch, 0).expect("a small cache"));
    let x: Vec<f32> = (0..batch * seqlen * d_model).map(|i| (i as f32 * 0.7).sin()).collect();
    let mut y = vec![0.0; x.len()];

    let mut group = criterion.benchmark_group(case.name);
    group.throughput(Throughput::Elements((batch * seqlen) as u64));
    group.sample_size(15).measurement_time(Duration::from_secs(if cached { 2 } else { 5 }));
    for (label, count) in [("1 thread", 1), ("all cores", 0)] {
        threads::set_num_threads(count).expect("a number of threads");
        group.bench_function(BenchmarkId::from_parameter(label), |bencher| {
            bencher.iter(|| {
                let tokens = Tokens::Separate { x: black_box(&x), y: black_box(&mut y) };
                layer.forward(tokens, batch, seqlen, cache.as_mut()).expect("a valid call");
            });
        });
    }
}

criterion_group!(benches, forward, step);
criterion_main!(benches);
