//! Streams with requests, and rounds that take a few tokens of all that are due through the model together.

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::{Receiver, Sender};

use crate::model::Model;
use crate::protocol::{CLOSE, ERROR, Message, OPEN, TOKENS, to_bytes, to_values};

/// Streams stepped in one round: more at once are no faster, and the first would wait for the last.
const ROUND: usize = 512;
/// Tokens of prompts in one round, so that steps do not wait for a long prompt. A prompt in pieces has the same bits.
const PROMPT: usize = 256;
/// Tokens of one request.
pub const MAX_TOKENS: usize = 4096;
/// Streams that there is room for as soon as there is one.
const FIRST_LANES: usize = 64;

/// A message to the batcher, and where its reply goes.
pub struct Request {
    /// What is asked.
    pub message: Message,
    /// Takes the reply.
    pub reply: Reply,
}

/// Where one reply goes.
pub struct Reply {
    /// To whoever writes it.
    pub writer: Sender<(Message, usize)>,
    /// What the writer is told with it.
    pub cost: usize,
}

impl Reply {
    /// Sends the reply; one that nobody waits for any more is dropped.
    pub fn send(self, message: Message) {
        let _ = self.writer.send((message, self.cost));
    }
}

/// An open stream.
pub struct Stream {
    /// The number that its client gave it.
    pub id: u64,
    /// Its lane of the model.
    pub lane: usize,
    /// Tokens that it has seen.
    pub seen: u64,
    waiting: VecDeque<Work>,
}

/// Tokens that a client waits for: the first `done` values are outputs already.
struct Work {
    values: Vec<f32>,
    done: usize,
    reply: Reply,
}

/// The streams and their model.
pub struct Batcher {
    model: Model,
    streams: HashMap<u64, Stream>,
    /// Streams with work, each once, those that have waited longest first.
    due: VecDeque<u64>,
    /// Lanes without a stream, as new.
    free: Vec<usize>,
    max_streams: usize,
}

/// The next tokens of some streams, one after the other.
struct Batch {
    streams: Vec<u64>,
    lanes: Vec<usize>,
    starts: Vec<usize>,
    values: Vec<f32>,
}

impl Batcher {
    /// Goes on with the streams of `saved`, of number and tokens seen: lane i is the i-th stream's.
    pub fn new(model: Model, max_streams: usize, saved: &[[u64; 2]]) -> Batcher {
        let stream = |(lane, &[id, seen]): (usize, &[u64; 2])| {
            (id, Stream { id, lane, seen, waiting: VecDeque::new() })
        };
        let streams = saved.iter().enumerate().map(stream).collect();
        Batcher { model, streams, due: VecDeque::new(), free: Vec::new(), max_streams }
    }

    /// The model, with the state of every lane.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The streams, in the order of their numbers.
    pub fn table(&self) -> Vec<&Stream> {
        let mut streams: Vec<_> = self.streams.values().collect();
        streams.sort_by_key(|stream| stream.id);
        streams
    }

    /// Answers requests until nobody can send any more, and all that came before.
    ///
    /// # Errors
    /// A model that fails: its states are undefined then, and must not be saved.
    pub fn run(&mut self, requests: &Receiver<Request>) -> lite_mamba::Result<()> {
        loop {
            if self.due.is_empty() {
                let Ok(request) = requests.recv() else { return Ok(()) };
                self.take(request);
            }
            requests.try_iter().for_each(|request| self.take(request));
            self.round()?;
        }
    }

    /// Answers a request, or makes its stream due.
    fn take(&mut self, Request { message: Message { kind, stream, content }, reply }: Request) {
        let answer = match kind {
            OPEN => self.open(stream),
            CLOSE => self.close(stream),
            TOKENS => match self.find_for(stream, content.len()) {
                Ok(found) => {
                    found.waiting.push_back(Work { values: to_values(&content), done: 0, reply });
                    if found.waiting.len() == 1 {
                        self.due.push_back(stream);
                    }
                    return;
                }
                Err(error) => Err(error),
            },
            _ => Err(format!("a request of kind {kind}; there are O, T, C and S")),
        };
        reply.send(match answer {
            Ok(content) => Message { kind, stream, content },
            Err(error) => Message::new(ERROR, stream, error),
        });
    }

    fn open(&mut self, id: u64) -> Result<Vec<u8>, String> {
        if !self.streams.contains_key(&id) {
            let (open, most) = (self.streams.len(), self.max_streams);
            if open >= most {
                return Err(format!("{open} streams are open, and {most} are the most; close one first"));
            }
            if self.free.is_empty() {
                let lanes = self.model.lanes();
                let more = (2 * lanes).max(FIRST_LANES).min(most);
                self.model.grow(more).map_err(|error| error.to_string())?;
                self.free.extend((lanes..more).rev());
            }
            let lane = self.free.pop().expect("more than before");
            self.streams.insert(id, Stream { id, lane, seen: 0, waiting: VecDeque::new() });
        }
        let d_model = self.model.d_model() as u32;
        Ok([&self.streams[&id].seen.to_le_bytes()[..], &d_model.to_le_bytes()].concat())
    }

    fn close(&mut self, id: u64) -> Result<Vec<u8>, String> {
        let waiting = self.find(id)?.waiting.len();
        if waiting > 0 {
            return Err(format!("stream {id} has {waiting} requests waiting; close it after their replies"));
        }
        let lane = self.streams.remove(&id).expect("found").lane;
        self.model.reset(lane).map_err(|error| error.to_string())?;
        self.free.push(lane);
        Ok(Vec::new())
    }

    /// The stream that so many bytes of tokens are for.
    fn find_for(&mut self, id: u64, bytes: usize) -> Result<&mut Stream, String> {
        let token = 4 * self.model.d_model();
        let stream = self.find(id)?;
        if bytes == 0 || !bytes.is_multiple_of(token) {
            return Err(format!("{bytes} bytes of tokens; they must be 1 to {MAX_TOKENS} times {token}"));
        }
        Ok(stream)
    }

    fn find(&mut self, id: u64) -> Result<&mut Stream, String> {
        self.streams.get_mut(&id).ok_or_else(|| format!("stream {id} is not open"))
    }

    /// One token of each stream that is due, and some of the prompts.
    fn round(&mut self) -> lite_mamba::Result<()> {
        let (mut steps, mut prompts, mut room) = (Batch::new(), Batch::new(), PROMPT);
        for id in self.due.drain(..self.due.len().min(ROUND)).collect::<Vec<_>>() {
            let stream = &self.streams[&id];
            let work = &stream.waiting[0];
            let d_model = self.model.d_model();
            match (work.values.len() - work.done) / d_model {
                1 => steps.push(stream, 1, d_model),
                _ if room == 0 => self.due.push_back(id),
                tokens => {
                    let tokens = tokens.min(room);
                    room -= tokens;
                    prompts.push(stream, tokens, d_model);
                }
            }
        }
        for batch in [steps, prompts] {
            self.run_batch(batch)?;
        }
        Ok(())
    }

    fn run_batch(&mut self, mut batch: Batch) -> lite_mamba::Result<()> {
        self.model.run(&batch.lanes, &batch.starts, &mut batch.values)?;
        let d_model = self.model.d_model();
        for (id, range) in batch.streams.into_iter().zip(batch.starts.windows(2)) {
            let stream = self.streams.get_mut(&id).expect("open while work waits");
            let (tokens, values) =
                (range[1] - range[0], &batch.values[range[0] * d_model..range[1] * d_model]);
            let work = &mut stream.waiting[0];
            work.values[work.done..][..values.len()].copy_from_slice(values);
            work.done += values.len();
            stream.seen += tokens as u64;
            if work.done == work.values.len() {
                let Work { values, reply, .. } = stream.waiting.pop_front().expect("just done");
                reply.send(Message::new(TOKENS, id, to_bytes(&values)));
            }
            if !stream.waiting.is_empty() {
                self.due.push_back(id);
            }
        }
        Ok(())
    }
}

impl Batch {
    fn new() -> Batch {
        Batch { streams: Vec::new(), lanes: Vec::new(), starts: vec![0], values: Vec::new() }
    }

    fn push(&mut self, stream: &Stream, tokens: usize, d_model: usize) {
        let work = &stream.waiting[0];
        self.streams.push(stream.id);
        self.lanes.push(stream.lane);
        self.values.extend_from_slice(&work.values[work.done..][..tokens * d_model]);
        self.starts.push(self.values.len() / d_model);
    }
}
