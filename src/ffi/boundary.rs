//! Where Rust ends and C begins: errors become codes and messages, panics too, and the caller's
//! floating-point environment is kept out.

use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::types::{lm_status, lm_status_code::LM_OK};
use crate::error::{Error, ErrorKind, Result};
use crate::simd::system::DefaultFpEnv;

/// Does the work of a function that returns a status.
pub(super) fn status(work: impl FnOnce() -> Result<()>) -> lm_status {
    match contain(work) {
        Ok(()) => LM_OK as lm_status,
        Err(error) => {
            remember(&error);
            error.kind() as lm_status
        }
    }
}

/// Does the work of a function that returns a value, and `otherwise` on failure.
pub(super) fn value<T>(otherwise: T, work: impl FnOnce() -> Result<T>) -> T {
    contain(work).unwrap_or_else(|error| {
        remember(&error);
        otherwise
    })
}

fn contain<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let _environment = DefaultFpEnv::enter();
    // What a panic leaves half-done is a cache, and that refuses use by itself.
    catch_unwind(AssertUnwindSafe(|| {
        #[cfg(test)]
        crate::fault::at(crate::fault::Point::Boundary);
        work()
    }))
    .unwrap_or_else(|payload| {
        let place = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("a panic without a message");
        let error = Error::new(ErrorKind::Internal, format!("a bug in lite-mamba: {place}"));
        // Dropping a payload of an unknown type could panic again.
        std::mem::forget(payload);
        Err(error)
    })
}

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// Makes `error` the calling thread's last one. Late in a thread's end, when its storage is gone, it is lost.
fn remember(error: &Error) {
    let message = c_string(error.message());
    let _ = LAST_ERROR.try_with(|last| last.replace(message));
}

/// The calling thread's last message, empty if there was none.
pub(super) fn last_error() -> *const c_char {
    LAST_ERROR.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// `text` for C, without the NULs it may hold (a tensor's name in a damaged file).
pub(super) fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', "")).unwrap_or_default()
}
