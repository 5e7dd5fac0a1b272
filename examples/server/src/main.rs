//! The server: sockets and threads. Every connection has a thread that reads and one that writes; one thread has the
//! model.
//!
//! ```text
//! lite-mamba-server MODEL STATE [--layers PREFIX,…] [--port N] [--max-streams N]
//! ```

use std::error::Error;
use std::io::{self, BufReader, BufWriter, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use lite_mamba_server::batcher::{Batcher, MAX_TOKENS, Reply, Request};
use lite_mamba_server::model::Model;
use lite_mamba_server::protocol::{ERROR, HEAD, Message, STOP};
use lite_mamba_server::state;

/// Connections at one time.
const MAX_CONNECTIONS: usize = 256;
/// Requests of one connection whose replies are not written yet, a long one counting as many; then it is not read until
/// some are.
const PIPELINE: usize = 1024;
/// Bytes of a long request that count as another one.
const PIECE: usize = 4096;
/// How long a client may take none of its replies.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often who waits for a client looks whether it is time to stop.
const TICK: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "lite-mamba-server MODEL STATE [--layers PREFIX,…] [--port N] [--max-streams N]";
    let (Some(model), Some(state)) = (arguments.next(), arguments.next()) else { return Err(usage.into()) };
    let (mut layers, mut port) = (Vec::new(), 7070);
    let mut max_streams = 100_000;
    while let Some(option) = arguments.next() {
        let value = arguments.next().ok_or(usage)?;
        match &option[..] {
            "--layers" => layers = value.split(',').map(str::to_owned).collect(),
            "--port" => port = value.parse()?,
            "--max-streams" => max_streams = value.parse()?,
            _ => return Err(usage.into()),
        }
    }
    let state = Path::new(&state);
    let mut batcher = state::load(Model::load(Path::new(&model), &layers)?, max_streams, state)?;
    save(&batcher, state)?; // what cannot be written is better known now than at the end

    // There is no password: only this machine can connect.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    let stop = Arc::new(Stop { flag: AtomicBool::new(false), address: listener.local_addr()? });
    let signalled = Arc::clone(&stop);
    ctrlc::set_handler(move || signalled.stop())?;
    println!("{} streams, listening on {}", batcher.table().len(), stop.address);

    serve(&listener, &mut batcher, &stop)?;
    save(&batcher, state)?;
    println!("{} streams saved, {} bytes of state", batcher.table().len(), batcher.model().bytes());
    Ok(())
}

fn save(batcher: &Batcher, path: &Path) -> Result<(), String> {
    state::save(batcher, path).map_err(|error| format!("cannot write {path:?}: {error}"))
}

/// Takes connections until it is to stop, then reads no more requests, and answers those that were read.
fn serve(listener: &TcpListener, batcher: &mut Batcher, stop: &Stop) -> Result<(), Box<dyn Error>> {
    let (requests, taken) = sync_channel(PIPELINE);
    let most = HEAD + 4 * batcher.model().d_model() * MAX_TOKENS;
    let answered = thread::scope(|scope| {
        let batcher = scope.spawn(move || {
            let result = batcher.run(&taken);
            stop.stop(); // where the model failed
            result
        });
        let mut connections: Vec<ScopedJoinHandle<'_, ()>> = Vec::new();
        for socket in listener.incoming() {
            if stop.flag.load(SeqCst) {
                break;
            }
            connections.retain(|thread| !thread.is_finished());
            let socket = match socket {
                Ok(socket) if connections.len() < MAX_CONNECTIONS => socket,
                Ok(mut socket) => {
                    let error = format!("there are {MAX_CONNECTIONS} connections, the most");
                    let _ = Message::new(ERROR, 0, error).write(&mut socket);
                    continue;
                }
                Err(error) => {
                    eprintln!("a connection failed: {error}");
                    thread::sleep(Duration::from_millis(10)); // too many open files, say
                    continue;
                }
            };
            let requests = requests.clone();
            connections.push(scope.spawn(move || connection(&socket, &requests, most, stop)));
        }
        drop(requests);
        batcher.join()
    });
    answered.map_err(|_| "the batcher panicked")??;
    Ok(())
}

/// Passes requests on while their replies are written.
fn connection(mut socket: &TcpStream, requests: &SyncSender<Request>, most: usize, stop: &Stop) {
    let _ = socket.set_read_timeout(Some(TICK));
    let (writer, replies) = channel();
    let (slot, slots) = sync_channel(PIPELINE);
    thread::scope(|scope| {
        scope.spawn(move || {
            if write(socket, &replies, &slots).is_err() {
                let _ = socket.shutdown(Shutdown::Both);
            }
        });
        let mut reader = BufReader::new(UntilStop { socket, stop });
        loop {
            let message = match Message::read(&mut reader, most) {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(error) => {
                    let _ = writer.send((Message::new(ERROR, 0, error.to_string()), 0));
                    break;
                }
            };
            let cost = (1 + message.content.len() / PIECE).min(PIPELINE);
            if (0..cost).any(|_| slot.send(()).is_err()) {
                break; // the client takes no more replies
            }
            let reply = Reply { writer: writer.clone(), cost };
            if message.kind == STOP {
                reply.send(Message::new(STOP, message.stream, []));
                stop.stop();
            } else if requests.send(Request { message, reply }).is_err() {
                break;
            }
        }
        // The writer ends with the last request's reply, when nobody has a sender of its channel any more.
        drop(writer);
    });
    // Closed with something unread, a socket would take back replies that are still on their way.
    let _ = socket.shutdown(Shutdown::Write);
    let (end, mut unread) = (Instant::now() + PATIENCE, [0; 4096]);
    while matches!(socket.read(&mut unread), Ok(1..)) && Instant::now() < end {}
}

/// What a client sends, until it is time to stop.
struct UntilStop<'a> {
    socket: &'a TcpStream,
    stop: &'a Stop,
}

impl Read for UntilStop<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.stop.flag.load(SeqCst) {
            match self.socket.read(buffer) {
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                read => return read,
            }
        }
        Ok(0)
    }
}

fn write(socket: &TcpStream, replies: &Receiver<(Message, usize)>, slots: &Receiver<()>) -> io::Result<()> {
    socket.set_nodelay(true)?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let mut writer = BufWriter::new(socket);
    while let Ok(reply) = replies.recv() {
        for (message, cost) in [reply].into_iter().chain(replies.try_iter()) {
            message.write(&mut writer)?;
            slots.try_iter().take(cost).for_each(drop);
        }
        writer.flush()?;
    }
    Ok(())
}

/// Tells all threads to come to an end.
struct Stop {
    flag: AtomicBool,
    address: SocketAddr,
}

impl Stop {
    fn stop(&self) {
        if !self.flag.swap(true, SeqCst) {
            let _ = TcpStream::connect(self.address); // wakes the one that waits for connections
        }
    }
}
