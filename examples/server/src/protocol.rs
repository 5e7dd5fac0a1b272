//! What goes over the wire, in both directions, all of it little-endian:
//!
//! ```text
//! u32 length of what follows | u8 kind | u64 stream | content
//! ```
//!
//! | kind | content of a request | content of its reply, which has the same kind and stream |
//! |---|---|---|
//! | `O` open, or go on | | u64 tokens that the stream has seen, u32 d_model |
//! | `T` tokens | n · d_model f32, one token or a prompt | n · d_model f32, the outputs |
//! | `C` close | | |
//! | `S` save all and stop; of any stream | | |
//! | `E` error | | a sentence, UTF-8 |
//!
//! Clients choose the numbers of their streams. A client may send on without waiting: the replies of a stream come in
//! the order of its requests, those of different streams as they are ready.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};

/// Opens a stream, or asks where it is.
pub const OPEN: u8 = b'O';
/// Tokens of a stream, or its outputs.
pub const TOKENS: u8 = b'T';
/// Forgets a stream.
pub const CLOSE: u8 = b'C';
/// Saves all streams and stops the server.
pub const STOP: u8 = b'S';
/// What was wrong with a request.
pub const ERROR: u8 = b'E';

/// Bytes of kind and stream.
pub const HEAD: usize = 9;

/// A request or a reply.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// What it is; [`OPEN`] and so on.
    pub kind: u8,
    /// Of which stream.
    pub stream: u64,
    /// What it says.
    pub content: Vec<u8>,
}

impl Message {
    /// A message.
    pub fn new(kind: u8, stream: u64, content: impl Into<Vec<u8>>) -> Message {
        Message { kind, stream, content: content.into() }
    }

    /// The next message, unless there are no more. `most` is how long one may be.
    ///
    /// # Errors
    /// Those of the socket, and `InvalidData` for a length that cannot be: what follows makes no sense then.
    pub fn read(from: &mut impl Read, most: usize) -> io::Result<Option<Message>> {
        let mut read = || {
            let mut length = [0; 4];
            from.read_exact(&mut length)?;
            let length = u32::from_le_bytes(length) as usize;
            if !(HEAD..=most).contains(&length) {
                let error = format!("a message of {length} bytes; it must have {HEAD} to {most}");
                return Err(io::Error::new(ErrorKind::InvalidData, error));
            }
            let (mut kind, mut stream, mut content) = ([0], [0; 8], vec![0; length - HEAD]);
            from.read_exact(&mut kind)?;
            from.read_exact(&mut stream)?;
            from.read_exact(&mut content)?;
            Ok(Message { kind: kind[0], stream: u64::from_le_bytes(stream), content })
        };
        match read() {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
            message => message.map(Some),
        }
    }

    /// Writes the message; whoever calls flushes.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        to.write_all(&((HEAD + self.content.len()) as u32).to_le_bytes())?;
        to.write_all(&[self.kind])?;
        to.write_all(&self.stream.to_le_bytes())?;
        to.write_all(&self.content)
    }
}

/// f32 as bytes.
pub fn to_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Bytes as f32; what does not make a whole one at the end is left out.
pub fn to_values(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Connects to a server on this machine.
///
/// # Errors
/// Those of the socket.
pub fn connect(port: u16) -> io::Result<TcpStream> {
    let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    socket.set_nodelay(true)?; // a token must not wait for the next one
    Ok(socket)
}

/// Sends a request and waits for its reply, on a connection with no other request under way.
///
/// # Errors
/// Those of the socket, and what the server says is wrong.
pub fn ask(mut socket: &TcpStream, request: &Message) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    request.write(&mut bytes)?;
    socket.write_all(&bytes)?;
    match Message::read(&mut socket, usize::MAX)? {
        Some(reply) if reply.kind == ERROR => {
            Err(io::Error::other(String::from_utf8_lossy(&reply.content).into_owned()))
        }
        Some(reply) => Ok(reply.content),
        None => Err(ErrorKind::UnexpectedEof.into()),
    }
}

/// Opens a stream or goes on with it: the tokens that it has seen, and d_model.
///
/// # Errors
/// As [`ask`].
pub fn open(socket: &TcpStream, stream: u64) -> io::Result<(u64, usize)> {
    let reply = ask(socket, &Message::new(OPEN, stream, []))?;
    match (reply.first_chunk(), reply.last_chunk()) {
        (Some(seen), Some(d_model)) => Ok((u64::from_le_bytes(*seen), u32::from_le_bytes(*d_model) as usize)),
        _ => Err(ErrorKind::InvalidData.into()),
    }
}
