//! One layer in each storage type with every instruction set, or those of them that are named, in turns: a step, and a
//! forward of `seqlen` tokens, of a PTCN of one branch.
//!
//!     cargo bench --bench types -- [threads] [d_model] [seqlen] [types and instruction sets]

use std::time::Instant;

use lite_mamba::simd::Isa;
use lite_mamba::tensor::DType;
use lite_mamba::threads::set_num_threads;
use lite_mamba::{Cache, Config, Layer, Tokens, Variant};

/// A layer, its tokens, and the seconds that its calls took.
struct Runner {
    layer: Layer,
    cache: Option<Cache>,
    x: Vec<f32>,
    y: Vec<f32>,
    seconds: Vec<f64>,
}

impl Runner {
    /// For steps where `seqlen` is 1.
    fn new(isa: Isa, dtype: DType, d_model: usize, seqlen: usize) -> Runner {
        let config = Config { dtype, conv_dilations: vec![1], ..Config::new(Variant::Ptcn, d_model) };
        let layer = Layer::with_isa(&config, isa).expect("a valid configuration");
        let cache = (seqlen == 1).then(|| Cache::new(&layer, 1, 0).expect("a small cache"));
        let x: Vec<f32> = (0..seqlen * d_model).map(|i| (i as f32 * 0.7).sin()).collect();
        let y = vec![0.0; x.len()];
        Runner { layer, cache, x, y, seconds: Vec::new() }
    }

    fn call(&mut self) {
        let seqlen = self.x.len() / self.layer.config().d_model;
        let tokens = Tokens::Separate { x: &self.x, y: &mut self.y };
        self.layer.forward(tokens, 1, seqlen, self.cache.as_mut()).expect("a valid call");
    }

    /// The fastest call and the median one.
    fn result(&mut self) -> (f64, f64) {
        self.seconds.sort_by(f64::total_cmp);
        (self.seconds[0], self.seconds[self.seconds.len() / 2])
    }
}

fn compare(all: &[(Isa, DType)], d_model: usize, seqlen: usize, rounds: usize) {
    let mut runners: Vec<_> =
        all.iter().map(|&(isa, dtype)| (isa, dtype, Runner::new(isa, dtype, d_model, seqlen))).collect();
    for _ in 0..rounds {
        for (_, _, runner) in &mut runners {
            // Its weights come back into the cache that they fit in.
            runner.call();
            let begin = Instant::now();
            runner.call();
            runner.seconds.push(begin.elapsed().as_secs_f64());
        }
    }
    let base = runners[0].2.result();
    for (isa, dtype, runner) in &mut runners {
        let (least, median) = runner.result();
        println!(
            "{:10} {:4} {seqlen:5} tokens: {:9.1} µs at least, {:9.1} median; {:5.2} and {:5.2} x as fast as the first",
            isa.name(),
            format!("{dtype:?}"),
            least * 1e6,
            median * 1e6,
            base.0 / least,
            base.1 / median
        );
    }
}

fn main() {
    let mut numbers = std::env::args().filter_map(|argument| argument.parse().ok());
    let threads = numbers.next().unwrap_or(1);
    let d_model = numbers.next().unwrap_or(768);
    let seqlen = numbers.next().unwrap_or(2048);
    set_num_threads(threads).expect("a number of threads");
    let names: Vec<String> = std::env::args().skip(1).collect();
    let named = |name: String| names.contains(&name);
    let (mut isas, mut types) = (Isa::available(), vec![DType::F32, DType::F64, DType::Bf16, DType::F16]);
    if isas.iter().any(|isa| named(isa.name().into())) {
        isas.retain(|isa| named(isa.name().into()));
    }
    if types.iter().any(|dtype| named(format!("{dtype:?}"))) {
        types.retain(|dtype| named(format!("{dtype:?}")));
    }
    let all: Vec<_> = isas.iter().flat_map(|&isa| types.iter().map(move |&dtype| (isa, dtype))).collect();
    println!("d_model {d_model}, {threads} threads");
    compare(&all, d_model, 1, 300);
    compare(&all, d_model, seqlen, 15);
}
