//! The one error type: a status, and a sentence that names the argument.

use std::borrow::Cow;
use std::fmt;

/// What kind of failure an [`Error`] is. The numbers are those of `lm_status` and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
#[allow(missing_docs)] // the names say it; `lm_status` documents each
pub enum ErrorKind {
    NullPointer = 1,
    InvalidConfig = 2,
    InvalidArgument = 3,
    ShapeMismatch = 4,
    Unsupported = 5,
    NotFound = 6,
    Io = 7,
    Format = 8,
    OutOfMemory = 9,
    BufferTooSmall = 10,
    Cuda = 11,
    Internal = 12,
}

/// A failure: its [`ErrorKind`] and one sentence saying which argument, what it was, and what it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: Cow<'static, str>,
}

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `kind` saying `message`.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Error { kind, message: message.into() }
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The sentence, without a full stop.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// `Err(Error)` of a kind with a formatted message.
macro_rules! fail {
    ($kind:ident, $($message:tt)*) => {
        return Err($crate::error::Error::new($crate::error::ErrorKind::$kind, format!($($message)*)))
    };
}
pub(crate) use fail;
