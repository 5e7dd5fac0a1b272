//! The server as a process: every output has the bits of a direct forward, whatever happens around its stream.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use lite_mamba::{Layer, Tokens, weights};
use lite_mamba_server::protocol::{
    CLOSE, ERROR, Message, OPEN, STOP, TOKENS, ask, connect, open, to_bytes, to_values,
};

/// Three layers of three kinds.
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../co2/co2.safetensors");
const LAYERS: &str = "layers.0,layers.1,layers.2";
const D_MODEL: usize = 16;

/// An empty directory that is removed again.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn state(&self) -> PathBuf {
        self.0.join("streams")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn command(model: &str, layers: &str, state: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lite-mamba-server"));
    command.args([model, state.to_str().unwrap(), "--port", "0", "--layers", layers]).args(options);
    command.stdout(Stdio::piped());
    command
}

struct Server {
    process: Child,
    output: BufReader<std::process::ChildStdout>,
    port: u16,
    first_line: String,
}

impl Server {
    fn start(state: &Path, options: &[&str]) -> Server {
        let mut process = command(MODEL, LAYERS, state, options).spawn().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut first_line = String::new();
        output.read_line(&mut first_line).unwrap();
        let port = first_line.trim().rsplit(':').next().unwrap().parse().unwrap();
        Server { process, output, port, first_line }
    }

    fn connect(&self) -> TcpStream {
        let socket = connect(self.port).unwrap();
        // So that a reply that never comes fails the test.
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        socket
    }

    fn signal(&self, name: &str) {
        let process = self.process.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &process]).status().unwrap().success());
    }

    /// What it says at its end, which must be a good one.
    fn ended(mut self) -> String {
        let status = (0..1200).find_map(|_| {
            thread::sleep(Duration::from_millis(50));
            self.process.try_wait().unwrap()
        });
        assert!(status.expect("it does not end").success());
        let mut said = String::new();
        self.output.read_to_string(&mut said).unwrap();
        said
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The inputs of a stream from a token on.
fn inputs(stream: u64, from: usize, tokens: usize) -> Vec<f32> {
    let value = |i: usize| ((i as u64 * 7919 + stream * 104_729) % 2003) as f32 / 1001.0 - 1.0;
    (from * D_MODEL..(from + tokens) * D_MODEL).map(value).collect()
}

struct Direct(Vec<Layer>);

impl Direct {
    fn load() -> Direct {
        let load = |prefix| weights::load(Path::new(MODEL), Some(prefix), None).unwrap();
        Direct(LAYERS.split(',').map(load).collect())
    }

    /// The outputs of a stream's first tokens, in one call of each layer.
    fn forward(&self, stream: u64, tokens: usize) -> Vec<f32> {
        let mut h = inputs(stream, 0, tokens);
        let mut y = vec![0.0; h.len()];
        for layer in &self.0 {
            layer.forward(Tokens::Separate { x: &h, y: &mut y }, 1, tokens, None).unwrap();
            h.iter_mut().zip(&y).for_each(|(h, y)| *h += y);
        }
        h
    }

    /// Whether these are the outputs of a stream's tokens, to the bit.
    fn check(&self, stream: u64, outputs: &[f32]) {
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let expected = self.forward(stream, outputs.len() / D_MODEL);
        assert!(bits(outputs) == bits(&expected), "stream {stream} of {} tokens", outputs.len() / D_MODEL);
    }
}

fn tokens(stream: u64, from: usize, tokens: usize) -> Message {
    Message::new(TOKENS, stream, to_bytes(&inputs(stream, from, tokens)))
}

/// Sends requests of many streams without waiting, and puts outputs behind those that there are. Ends early when the
/// server does.
fn drive(socket: &TcpStream, requests: &[Message], outputs: &mut HashMap<u64, Vec<f32>>) {
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut bytes = Vec::new();
            requests.iter().for_each(|request| request.write(&mut bytes).unwrap());
            let mut socket = socket;
            let _ = socket.write_all(&bytes);
        });
        let mut reader = BufReader::new(socket);
        for _ in requests {
            let Ok(Some(reply)) = Message::read(&mut reader, usize::MAX) else { break };
            assert_eq!(reply.kind, TOKENS, "{}", String::from_utf8_lossy(&reply.content));
            outputs.entry(reply.stream).or_default().extend(to_values(&reply.content));
        }
    });
}

fn error(socket: &TcpStream, request: &Message) -> String {
    ask(socket, request).unwrap_err().to_string()
}

#[test]
fn hundreds_of_streams_over_restarts() {
    let scratch = Scratch::new("restarts");
    let direct = Direct::load();
    let mut outputs = HashMap::new();

    // Prompts of 1 to 600 tokens and steps, in four connections; lanes grow from 64 to 256, some are used twice.
    let server = Server::start(&scratch.state(), &[]);
    assert!(server.first_line.starts_with("0 streams, listening on 127.0.0.1:"), "{}", server.first_line);
    let opened: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|first| {
                let socket = server.connect();
                scope.spawn(move || {
                    let mut outputs = HashMap::new();
                    let streams: Vec<u64> = (first..220).step_by(4).collect();
                    for &stream in &streams {
                        assert_eq!(open(&socket, stream).unwrap(), (0, D_MODEL));
                        let prompt = if stream % 50 == 7 { 600 } else { 1 + stream as usize % 9 };
                        drive(&socket, &[tokens(stream, 0, prompt)], &mut outputs);
                    }
                    let seen: HashMap<_, _> = outputs
                        .iter()
                        .map(|(&s, outputs): (_, &Vec<_>)| (s, outputs.len() / D_MODEL))
                        .collect();
                    // Steps of all, and pieces of some beside them.
                    let steps = (0..12).flat_map(|t| streams.iter().map(move |&s| (t, s)));
                    let requests: Vec<_> = steps
                        .map(|(t, s)| {
                            let length = if s % 10 == 0 { 3 } else { 1 };
                            tokens(s, seen[&s] + t * length, length)
                        })
                        .collect();
                    drive(&socket, &requests, &mut outputs);
                    for &stream in streams.iter().filter(|&stream| stream % 5 == 1) {
                        ask(&socket, &Message::new(CLOSE, stream, [])).unwrap();
                        let new = stream + 1000;
                        assert_eq!(open(&socket, new).unwrap(), (0, D_MODEL));
                        drive(&socket, &[tokens(new, 0, 5)], &mut outputs);
                    }
                    outputs
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    opened.into_iter().for_each(|some| outputs.extend(some));
    assert_eq!(outputs.len(), 220 + 44);
    outputs.iter().for_each(|(&stream, outputs)| direct.check(stream, outputs));
    outputs.retain(|stream, _| stream % 5 != 1 || *stream >= 1000);
    server.signal("TERM");
    let said = server.ended();
    assert!(said.starts_with("220 streams saved, "), "{said}");

    // In the middle of what comes after: what has been answered has been seen, and nothing else.
    let server = Server::start(&scratch.state(), &["--max-streams", "220"]);
    assert!(server.first_line.starts_with("220 streams, "), "{}", server.first_line);
    let socket = server.connect();
    let before: HashMap<_, _> = outputs.iter().map(|(&s, outputs)| (s, outputs.len() / D_MODEL)).collect();
    let mut streams: Vec<_> = before.keys().copied().collect();
    streams.sort();
    let steps = (0..2000).flat_map(|t| streams.iter().map(move |&s| (t, s)));
    let requests: Vec<_> = steps.map(|(t, s)| tokens(s, before[&s] + t, 1)).collect();
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(100));
            server.signal("INT");
        });
        drive(&socket, &requests, &mut outputs);
    });
    server.ended();
    let answered: usize = outputs.iter().map(|(s, outputs)| outputs.len() / D_MODEL - before[s]).sum();
    assert!((1..requests.len()).contains(&answered), "{answered} of {}", requests.len());

    let server = Server::start(&scratch.state(), &[]);
    let socket = server.connect();
    let mut requests = Vec::new();
    for (&stream, outputs) in &outputs {
        let seen = outputs.len() / D_MODEL;
        assert_eq!(open(&socket, stream).unwrap(), (seen as u64, D_MODEL));
        requests.extend([tokens(stream, seen, 1), tokens(stream, seen + 1, 4), tokens(stream, seen + 5, 1)]);
    }
    drive(&socket, &requests, &mut outputs);
    outputs.iter().for_each(|(&stream, outputs)| direct.check(stream, outputs));
    ask(&socket, &Message::new(STOP, 0, [])).unwrap();
    server.ended();

    // Nothing has come since: the file has the same bytes again.
    let saved = fs::read(scratch.state()).unwrap();
    let server = Server::start(&scratch.state(), &[]);
    server.signal("TERM");
    server.ended();
    assert!(saved == fs::read(scratch.state()).unwrap());
}

#[test]
fn a_bad_request_is_an_error_and_no_end() {
    let scratch = Scratch::new("requests");
    let server = Server::start(&scratch.state(), &["--max-streams", "70"]);
    let socket = server.connect();
    let mut outputs = HashMap::new();
    open(&socket, 1).unwrap();
    drive(&socket, &[tokens(1, 0, 3)], &mut outputs);

    let bad = "they must be 1 to 4096 times 64";
    for (kind, stream, content, said) in [
        (b'X', 1, vec![], "a request of kind 88; there are O, T, C and S".to_owned()),
        (TOKENS, 2, vec![0; 64], "stream 2 is not open".to_owned()),
        (CLOSE, 2, vec![], "stream 2 is not open".to_owned()),
        (TOKENS, 1, vec![], format!("0 bytes of tokens; {bad}")),
        (TOKENS, 1, vec![0; 63], format!("63 bytes of tokens; {bad}")),
        (TOKENS, 1, vec![0; 66], format!("66 bytes of tokens; {bad}")),
    ] {
        assert_eq!(error(&socket, &Message::new(kind, stream, content)), said);
    }
    for stream in 2..=70 {
        open(&socket, stream).unwrap();
    }
    let said = error(&socket, &Message::new(OPEN, 71, []));
    assert_eq!(said, "70 streams are open, and 70 are the most; close one first");
    open(&socket, 70).unwrap();
    ask(&socket, &Message::new(CLOSE, 70, [])).unwrap();
    open(&socket, 71).unwrap();

    // A close that overtakes tokens: the replies are the error, then the tokens.
    let mut both = Vec::new();
    tokens(2, 0, 900).write(&mut both).unwrap();
    Message::new(CLOSE, 2, []).write(&mut both).unwrap();
    (&socket).write_all(&both).unwrap();
    let replies = [(); 2].map(|()| Message::read(&mut &socket, usize::MAX).unwrap().unwrap());
    assert_eq!(replies.each_ref().map(|reply| reply.kind), [ERROR, TOKENS]);
    let said = "stream 2 has 1 requests waiting; close it after their replies";
    assert_eq!(String::from_utf8_lossy(&replies[0].content), said);

    // Lengths that cannot be: said, and the connection ends, as nobody knows where the next message begins.
    for length in [8u32, 9 + 4096 * 64 + 1, u32::MAX] {
        let other = server.connect();
        (&other).write_all(&length.to_le_bytes()).unwrap();
        let reply = Message::read(&mut &other, usize::MAX).unwrap().unwrap();
        let said = format!("a message of {length} bytes; it must have 9 to 262153");
        assert_eq!((reply.kind, reply.content), (ERROR, said.into_bytes()));
        assert!(Message::read(&mut &other, usize::MAX).unwrap().is_none());
    }
    // Cut short, and a client that goes before its reply.
    for bytes in [&[20, 0, 0][..], &[20, 0, 0, 0, TOKENS, 1], &both] {
        let other = server.connect();
        (&other).write_all(bytes).unwrap();
        other.shutdown(Shutdown::Both).unwrap();
    }
    // More connections than there may be.
    let others: Vec<_> = (0..256).map(|_| server.connect()).collect();
    let refused = others.iter().filter(|other| {
        other.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        matches!(Message::read(&mut &**other, usize::MAX), Ok(Some(reply)) if reply.kind == ERROR)
    });
    assert!(refused.count() > 0);
    drop(others);

    drive(&socket, &[tokens(1, 3, 1), tokens(1, 4, 2)], &mut outputs);
    Direct::load().check(1, &outputs[&1]);
    ask(&socket, &Message::new(STOP, 0, [])).unwrap();
    assert!(server.ended().starts_with("70 streams saved"));
}

#[test]
fn a_bad_file_is_never_begun_with_nor_replaced() {
    let scratch = Scratch::new("files");
    let server = Server::start(&scratch.state(), &[]);
    let socket = server.connect();
    let mut outputs = HashMap::new();
    for stream in 0..3 {
        open(&socket, stream).unwrap();
        drive(&socket, &[tokens(stream, 0, 20)], &mut outputs);
    }
    ask(&socket, &Message::new(STOP, 0, [])).unwrap();
    server.ended();
    let good = fs::read(scratch.state()).unwrap();

    let fails = |model: &str, layers: &str, options: &[&str], said: &str| {
        let before = fs::read(scratch.state()).ok();
        let out = command(model, layers, &scratch.state(), options).stderr(Stdio::piped()).output().unwrap();
        let error = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && error.contains(said), "{said}: {error}");
        assert!(before == fs::read(scratch.state()).ok(), "{said}: the file was replaced");
    };
    let damaged = "holds no streams, is cut short or was altered";
    for length in [0, 7, 8, 20, 95, good.len() - 1] {
        fs::write(scratch.state(), &good[..length]).unwrap();
        fails(MODEL, LAYERS, &[], damaged);
    }
    // Every byte of the table, and some of the caches, whose error is the library's.
    for (place, said) in
        (8..8 + 72).map(|place| (place, damaged)).chain([(120, "checksum"), (good.len() - 1, "checksum")])
    {
        let mut altered = good.clone();
        altered[place] ^= 1;
        fs::write(scratch.state(), &altered).unwrap();
        fails(MODEL, LAYERS, &[], said);
    }
    let last = good.len() - 8 - good[88..].len() / 3;
    fs::write(scratch.state(), &good[..last]).unwrap();
    fails(MODEL, LAYERS, &[], damaged);

    fs::write(scratch.state(), &good).unwrap();
    fails(MODEL, "layers.0,layers.1", &[], "holds the streams of another model");
    fails(MODEL, LAYERS, &["--max-streams", "2"], "holds 3 streams, and 2 are the most");
    fails(MODEL, "layers.3", &[], "layers.3");
    fails("no-model", LAYERS, &[], "cannot read \"no-model\"");
    fails(MODEL, LAYERS, &["--unknown", "1"], "lite-mamba-server MODEL STATE");
    fails(MODEL, LAYERS, &["--port"], "lite-mamba-server MODEL STATE");
    fs::remove_file(scratch.state()).unwrap();
    fs::create_dir(scratch.0.join("streams.new")).unwrap();
    fails(MODEL, LAYERS, &[], "cannot write");
    fs::remove_dir(scratch.0.join("streams.new")).unwrap();

    fs::write(scratch.state(), &good).unwrap();
    let server = Server::start(&scratch.state(), &[]);
    let socket = server.connect();
    for stream in 0..3 {
        drive(&socket, &[tokens(stream, 20, 1)], &mut outputs);
        Direct::load().check(stream, &outputs[&stream]);
    }
}

#[test]
fn who_stalls_keeps_nobody_waiting() {
    let scratch = Scratch::new("stalls");
    let server = Server::start(&scratch.state(), &[]);
    let half = server.connect();
    (&half).write_all(&[20, 0, 0, 0, TOKENS]).unwrap();
    let silent = server.connect();
    open(&silent, 1).unwrap();
    // More replies than the sockets hold, of which none is taken.
    let mut request = Vec::new();
    tokens(1, 0, 4096).write(&mut request).unwrap();
    let socket = server.connect();
    let mut outputs = HashMap::new();
    open(&socket, 2).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| while (&silent).write_all(&request).is_ok() {});
        for token in 0..1000 {
            drive(&socket, &[tokens(2, token, 1)], &mut outputs);
        }
        server.signal("TERM");
        server.ended();
    });
    Direct::load().check(2, &outputs[&2]);
}

#[test]
fn the_load_generator_measures() {
    let scratch = Scratch::new("load");
    let load = |arguments: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_lite-mamba-load")).args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
        (out.status.success(), said)
    };
    let server = Server::start(&scratch.state(), &[]);
    let port = server.port.to_string();
    for options in ["--seconds 0.3", "--seconds 0.5 --rate 4 --connections 3 --prompt 5 --keep 1"] {
        let options = options.split(' ');
        let (good, said) =
            load(&["run", &port, "--streams", "100"].into_iter().chain(options).collect::<Vec<_>>());
        assert!(good && said.starts_with("100 streams, "), "{said}");
        assert_eq!(said.matches(" ms").count(), 4, "{said}");
    }
    ask(&server.connect(), &Message::new(STOP, 0, [])).unwrap();
    // Closed by the first run, kept by the second.
    assert!(server.ended().starts_with("100 streams saved"));
    let (good, said) = load(&["run", &port, "--streams", "1"]);
    assert!(!good && said.contains("refused"), "{said}");

    let file = scratch.0.join("model.safetensors");
    assert!(load(&["model", file.to_str().unwrap(), "64"]).0);
    assert_eq!(weights::load(&file, None, None).unwrap().dims().d_model, 64);
    assert!(!load(&["model", file.to_str().unwrap(), "0"]).0);
    assert!(load(&[]).1.contains("lite-mamba-load run PORT"));
}
