//! A load generator.
//!
//! ```text
//! lite-mamba-load model FILE D_MODEL
//! lite-mamba-load run PORT [--streams N] [--connections N] [--seconds N] [--rate N] [--prompt N] [--keep 1]
//! ```
//!
//! `model` writes a layer of initial values to serve. `run` opens streams on a server of this machine, steps each one
//! as soon as its last reply is there, or all of them `--rate` times a second, and prints how fast that went.

use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::io::{self, BufReader, BufWriter, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Barrier;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use lite_mamba::{Config, Layer, Variant, weights};
use lite_mamba_server::protocol::{CLOSE, ERROR, Message, TOKENS, ask, connect, open, to_bytes};

const USAGE: &str = "lite-mamba-load model FILE D_MODEL
lite-mamba-load run PORT [--streams N] [--connections N] [--seconds N] [--rate N] [--prompt N] [--keep 1]";

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Failure> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["model", file, d_model] => {
            let config =
                Config { conv_dilations: vec![1, 2, 4], ..Config::new(Variant::Ptcn, d_model.parse()?) };
            Ok(weights::save(&Layer::new(&config)?, Path::new(file))?)
        }
        ["run", port, ref options @ ..] if options.len().is_multiple_of(2) => {
            let mut load = Load {
                port: port.parse()?,
                streams: 1000,
                connections: 4,
                seconds: 5.0,
                rate: 0.0,
                prompt: 0,
                keep: false,
            };
            for option in options.chunks(2) {
                match option[0] {
                    "--streams" => load.streams = option[1].parse()?,
                    "--connections" => load.connections = option[1].parse()?,
                    "--seconds" => load.seconds = option[1].parse()?,
                    "--rate" => load.rate = option[1].parse()?,
                    "--prompt" => load.prompt = option[1].parse()?,
                    "--keep" => load.keep = option[1] == "1",
                    _ => return Err(USAGE.into()),
                }
            }
            load.run()
        }
        _ => Err(USAGE.into()),
    }
}

struct Load {
    port: u16,
    streams: u64,
    connections: u64,
    seconds: f64,
    /// Steps of each stream a second; 0 is as many as there can be.
    rate: f64,
    prompt: usize,
    keep: bool,
}

/// When a stream's step was due.
type Due = (u64, Instant);

impl Load {
    fn run(&self) -> Result<(), Failure> {
        let ready = Barrier::new(self.connections as usize);
        let results = thread::scope(|scope| {
            let threads: Vec<_> = (0..self.connections)
                .map(|first| {
                    let streams = (first..self.streams).step_by(self.connections as usize).collect();
                    let ready = &ready;
                    scope.spawn(move || self.connection(streams, ready))
                })
                .collect();
            threads.into_iter().map(|t| t.join().expect("a thread panicked")).collect::<Result<Vec<_>, _>>()
        })?;
        let took = results.iter().map(|(_, took)| *took).max().unwrap_or_default().as_secs_f64();
        let mut latencies: Vec<_> = results.into_iter().flat_map(|(latencies, _)| latencies).collect();
        latencies.sort();
        let (count, streams) = (latencies.len(), self.streams);
        println!("{streams} streams, {count} steps in {took:.2} s: {:.0} a second", count as f64 / took);
        for percent in [50.0, 90.0, 99.0, 99.9] {
            let rank = (count as f64 * percent / 100.0).ceil() as usize;
            if let Some(latency) = latencies.get(rank.max(1) - 1) {
                println!("p{percent:<5} {:9.3} ms", latency.as_secs_f64() * 1e3);
            }
        }
        Ok(())
    }

    /// The latency of every step of some streams, and how long all took.
    fn connection(&self, streams: Vec<u64>, ready: &Barrier) -> Result<(Vec<Duration>, Duration), Failure> {
        let socket = connect(self.port)?;
        let opened: io::Result<Vec<_>> = streams
            .iter()
            .map(|&stream| {
                let (_, d_model) = open(&socket, stream)?;
                if self.prompt > 0 {
                    let prompt = to_bytes(&vec![0.1; self.prompt * d_model]);
                    ask(&socket, &Message::new(TOKENS, stream, prompt))?;
                }
                Ok(d_model)
            })
            .collect();
        ready.wait();
        let Some(&d_model) = opened?.first() else { return Ok(Default::default()) };

        let begin = Instant::now();
        let (again, replied) = channel();
        let (sent, under_way) = channel();
        let latencies = thread::scope(|scope| {
            let (socket, streams) = (&socket, &streams);
            scope.spawn(move || {
                if let Err(error) = self.send(socket, streams, d_model, &replied, &sent) {
                    eprintln!("sending: {error}");
                    let _ = socket.shutdown(Shutdown::Both);
                }
            });
            receive(socket, &under_way, &again)
        })?;
        let took = begin.elapsed();
        if !self.keep {
            streams.iter().try_for_each(|&s| ask(&socket, &Message::new(CLOSE, s, [])).map(drop))?;
        }
        Ok((latencies, took))
    }

    /// Sends steps as they fall due, until the time is over.
    fn send(
        &self,
        socket: &TcpStream,
        streams: &[u64],
        d_model: usize,
        replied: &Receiver<Due>,
        sent: &Sender<Due>,
    ) -> io::Result<()> {
        let (begin, length) = (Instant::now(), Duration::from_secs_f64(self.seconds));
        let mut writer = BufWriter::new(socket);
        let mut message = Message::new(TOKENS, 0, to_bytes(&vec![0.1; d_model]));
        let mut send = |writer: &mut BufWriter<_>, due: Due| {
            message.stream = due.0;
            let _ = sent.send(due); // before the reply can be there
            message.write(writer)
        };
        if self.rate > 0.0 {
            // At its time whatever the server does: latency counts from when a step was due, not from when it was sent.
            let every = 1.0 / (self.rate * streams.len() as f64);
            for (i, &stream) in streams.iter().cycle().enumerate() {
                let due = begin + Duration::from_secs_f64(i as f64 * every);
                if due > begin + length {
                    break;
                }
                if due > Instant::now() {
                    writer.flush()?;
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                }
                send(&mut writer, (stream, due))?;
            }
        } else {
            for &stream in streams {
                send(&mut writer, (stream, Instant::now()))?;
            }
            writer.flush()?;
            while let Ok(first) = replied.recv()
                && begin.elapsed() < length
            {
                for due in [first].into_iter().chain(replied.try_iter()) {
                    send(&mut writer, due)?;
                }
                writer.flush()?;
            }
        }
        writer.flush()
    }
}

/// Takes replies until the sender has ended and all are there.
fn receive(socket: &TcpStream, sent: &Receiver<Due>, again: &Sender<Due>) -> Result<Vec<Duration>, Failure> {
    let mut reader = BufReader::new(socket);
    let mut latencies = Vec::new();
    let mut under_way: HashMap<u64, VecDeque<Instant>> = HashMap::new();
    let mut count = 0;
    loop {
        if count == 0 {
            let Ok((stream, due)) = sent.recv() else { return Ok(latencies) };
            under_way.entry(stream).or_default().push_back(due);
            count += 1;
        }
        let reply = Message::read(&mut reader, usize::MAX)?.ok_or("the server has gone")?;
        for (stream, due) in sent.try_iter() {
            under_way.entry(stream).or_default().push_back(due);
            count += 1;
        }
        if reply.kind == ERROR {
            return Err(String::from_utf8_lossy(&reply.content).into_owned().into());
        }
        let due = under_way.get_mut(&reply.stream).and_then(VecDeque::pop_front).ok_or("an unasked reply")?;
        count -= 1;
        let now = Instant::now();
        latencies.push(now - due);
        let _ = again.send((reply.stream, now));
    }
}
