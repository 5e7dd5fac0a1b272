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

#[cfg(test)]
mod tests {
    use std::ffi::CStr;
    use std::panic::panic_any;
    use std::thread;

    use super::super::library::{lm_build_info, lm_last_error, lm_status_name};
    use super::*;

    fn message() -> String {
        // SAFETY: NUL-terminated, and copied before this thread's next call.
        unsafe { CStr::from_ptr(lm_last_error()) }.to_str().unwrap().to_owned()
    }

    #[test]
    fn every_kind_of_error_has_its_code_and_the_code_its_name() {
        use ErrorKind::*;
        let kinds = [
            NullPointer,
            InvalidConfig,
            InvalidArgument,
            ShapeMismatch,
            Unsupported,
            NotFound,
            Io,
            Format,
            OutOfMemory,
            BufferTooSmall,
            Cuda,
            Internal,
        ];
        for (kind, code) in kinds.into_iter().zip(1..) {
            assert_eq!(status(|| Err(Error::new(kind, format!("message {code}")))), code);
            assert_eq!(message(), format!("message {code}"));
            // SAFETY: a static string.
            let name = unsafe { CStr::from_ptr(lm_status_name(code)) }.to_str().unwrap();
            let words = name.strip_prefix("LM_ERR_").unwrap().replace('_', "");
            assert_eq!(words, format!("{kind:?}").to_uppercase());
        }
    }

    #[test]
    fn a_panic_may_carry_anything() {
        struct PanicsAgain;
        impl Drop for PanicsAgain {
            fn drop(&mut self) {
                panic!("a second panic, out of the first one's payload");
            }
        }
        let internal = ErrorKind::Internal as lm_status;
        let number = 7;
        assert_eq!(status(|| panic!("text")), internal);
        assert_eq!(message(), "a bug in lite-mamba: text");
        assert_eq!(status(|| panic!("number {number}")), internal);
        assert_eq!(message(), "a bug in lite-mamba: number 7");
        assert_eq!(status(|| panic_any(number)), internal);
        assert_eq!(message(), "a bug in lite-mamba: a panic without a message");
        assert_eq!(status(|| panic_any(PanicsAgain)), internal);
        assert_eq!(status(|| panic!("a NUL \0inside")), internal);
        assert_eq!(message(), "a bug in lite-mamba: a NUL inside");
        assert_eq!(value(3, || panic!("text")), 3);
    }

    #[test]
    fn calls_at_the_very_end_of_a_thread_do_no_harm() {
        struct CallsAtTheEnd;
        impl Drop for CallsAtTheEnd {
            fn drop(&mut self) {
                assert_eq!(status(|| Err(Error::new(ErrorKind::Io, "late"))), ErrorKind::Io as lm_status);
                assert!(!lm_last_error().is_null() && !lm_build_info().is_null());
            }
        }
        // Whichever order a thread's storage ends in, one of these comes after the messages'.
        thread_local! {
            static FIRST: CallsAtTheEnd = const { CallsAtTheEnd };
            static LAST: CallsAtTheEnd = const { CallsAtTheEnd };
        }
        let thread = thread::spawn(|| {
            FIRST.with(|_| ());
            assert_eq!(status(|| Err(Error::new(ErrorKind::Io, "early"))), ErrorKind::Io as lm_status);
            lm_build_info();
            LAST.with(|_| ());
        });
        thread.join().unwrap();
    }
}
