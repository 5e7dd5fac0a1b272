//! Many streams in one process: lanes of one cache stepped together, beside a cache for each stream stepped one by one.
//!
//!     cargo bench --bench lanes [-- THREADS [STREAMS [D_MODEL]]]
//!
//! Both go over all streams in turns; a step of a stream one by one is a call, as a server without batches would do.

use std::time::Instant;

use lite_mamba::{Cache, Config, Layer, Tokens, Variant, threads};

/// Turns, of which the first two do not count.
const TURNS: usize = 17;

/// Memory that is this process's, in bytes; 0 where the system does not say.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').nth(1)?.parse::<usize>().ok());
    4096 * pages.unwrap_or(0)
}

fn main() {
    let mut numbers = std::env::args().filter_map(|argument| argument.parse().ok());
    let threads = numbers.next().unwrap_or(1);
    let streams = numbers.next().unwrap_or(10_000);
    let d_model = numbers.next().unwrap_or(64);
    threads::set_num_threads(threads).expect("a number of threads");
    let config = Config { conv_dilations: vec![1, 2, 4], ..Config::new(Variant::Ptcn, d_model) };
    let layer = Layer::new(&config).expect("a valid configuration");
    let rows = 13 + config.d_state;
    let own = rows * layer.dims().d_inner * size_of::<f32>();
    println!("{streams} streams of d_model {d_model}, {threads} threads, {}", layer.isa().name());

    let cache = |batch| {
        let mut cache = Cache::new(&layer, batch, 0).expect("memory");
        let mut x = vec![0.1; batch * d_model];
        layer.forward(Tokens::InPlace(&mut x), batch, 1, Some(&mut cache)).expect("a valid call");
        cache
    };
    drop(cache(streams)); // whatever else a first call takes
    let before = resident();
    let mut lanes = cache(streams);
    let (grown, bytes) = (resident() - before, lanes.bytes());
    let of_own = |bytes: usize| bytes as f64 / (streams * own) as f64;
    println!(
        "a stream's own state {own} bytes; of that, Cache::bytes {:.4}, resident {:.4}",
        of_own(bytes),
        of_own(grown)
    );
    let before = resident();
    let mut each: Vec<_> = (0..streams).map(|_| cache(1)).collect();
    println!("with a cache for each, resident {:.4}", of_own(resident() - before));

    let all: Vec<_> = (0..streams).collect();
    let x: Vec<f32> = (0..streams * d_model).map(|i| (i as f32 * 0.7).sin()).collect();
    let mut one_by_one = |y: &mut [f32]| {
        for ((x, y), cache) in x.chunks(d_model).zip(y.chunks_mut(d_model)).zip(&mut each) {
            layer.forward(Tokens::Separate { x, y }, 1, 1, Some(cache)).expect("a valid call");
        }
    };
    let mut batched = |round: usize, y: &mut [f32]| {
        let tokens = x.chunks(round * d_model).zip(y.chunks_mut(round * d_model));
        for ((x, y), due) in tokens.zip(all.chunks(round)) {
            layer.step_lanes(Tokens::Separate { x, y }, due, &mut lanes).expect("a valid call");
        }
    };
    let (mut y, mut expected) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    one_by_one(&mut expected);
    batched(512, &mut y);
    assert!(y == expected, "the outputs differ");

    let rounds = [1, 8, 64, 512, 4096, streams];
    let mut seconds = vec![Vec::new(); 1 + rounds.len()];
    for _ in 0..TURNS {
        let mut time = |which: usize, call: &mut dyn FnMut(&mut [f32])| {
            let begin = Instant::now();
            call(&mut y);
            seconds[which].push(begin.elapsed().as_secs_f64());
        };
        time(0, &mut one_by_one);
        for (i, &round) in rounds.iter().enumerate() {
            time(1 + i, &mut |y| batched(round, y));
        }
    }
    let names =
        ["one by one".to_owned()].into_iter().chain(rounds.map(|round| format!("lanes, {round} a call")));
    let mut alone = 0.0;
    for (name, mut seconds) in names.zip(seconds) {
        seconds.drain(..2);
        seconds.sort_by(f64::total_cmp);
        let [low, median, high] = [1, 2, 3].map(|quarter| seconds[seconds.len() * quarter / 4]);
        if alone == 0.0 {
            alone = median;
        }
        println!(
            "{name:20} {:8.0} steps a second ({:.0} to {:.0}), {:5.2} µs each, {:.2} x",
            streams as f64 / median,
            streams as f64 / high,
            streams as f64 / low,
            median * 1e6 / streams as f64,
            alone / median
        );
    }
}
