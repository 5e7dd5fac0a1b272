//! LIBRARY

use std::cell::RefCell;
use std::ffi::{CString, c_char};

use super::boundary::{self, c_string};
use super::types::lm_status;
use crate::error::Result;
use crate::simd::Isa;
use crate::threads;

/// The version of the binary interface. It rises when a program compiled before can no longer use the
/// library.
pub const LM_ABI_VERSION: u32 = 1;

/// The library's version, as LM_VERSION: "major.minor.patch". A static string.
///
/// Any thread, any time.
#[unsafe(no_mangle)]
pub extern "C" fn lm_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// The binary interface's version, as LM_ABI_VERSION. A program whose LM_ABI_VERSION differs must not use
/// the library.
///
/// Any thread, any time.
#[unsafe(no_mangle)]
pub extern "C" fn lm_abi_version() -> u32 {
    LM_ABI_VERSION
}

/// One line for a log or a bug report: the version, the instruction set in use, the number of threads, and
/// whether CUDA was built and can be used, or why not. Valid until the calling thread's next call of this
/// function.
///
/// Any thread, any time.
#[unsafe(no_mangle)]
pub extern "C" fn lm_build_info() -> *const c_char {
    thread_local! {
        static BUILD_INFO: RefCell<CString> = RefCell::default();
    }
    boundary::value(c"".as_ptr(), || {
        let info = c_string(&format!(
            "lite-mamba {}; instruction set {}; threads {}; CUDA {}",
            env!("CARGO_PKG_VERSION"),
            Isa::current().name(),
            threads::num_threads(),
            match cuda_devices() {
                None => "not built".into(),
                Some(Ok(count)) => format!("on {count} devices"),
                Some(Err(error)) => format!("not usable: {error}"),
            },
        ));
        let pointer = BUILD_INFO.try_with(|kept| {
            kept.replace(info);
            kept.borrow().as_ptr()
        });
        Ok(pointer.unwrap_or(c"".as_ptr()))
    })
}

/// The calling thread's last message, "" if no call of it has failed yet; never NULL. It says what the last
/// failure was, whether or not other calls have succeeded since. Valid until the calling thread's next call
/// into this library.
///
/// Any thread, any time.
#[unsafe(no_mangle)]
pub extern "C" fn lm_last_error() -> *const c_char {
    boundary::last_error()
}

/// The name of a status code, "LM_ERR_IO" for LM_ERR_IO; "unknown status" for any other number. A static
/// string.
///
/// Any thread, any time.
#[unsafe(no_mangle)]
pub extern "C" fn lm_status_name(status: lm_status) -> *const c_char {
    let name = match status {
        0 => c"LM_OK",
        1 => c"LM_ERR_NULL_POINTER",
        2 => c"LM_ERR_INVALID_CONFIG",
        3 => c"LM_ERR_INVALID_ARGUMENT",
        4 => c"LM_ERR_SHAPE_MISMATCH",
        5 => c"LM_ERR_UNSUPPORTED",
        6 => c"LM_ERR_NOT_FOUND",
        7 => c"LM_ERR_IO",
        8 => c"LM_ERR_FORMAT",
        9 => c"LM_ERR_OUT_OF_MEMORY",
        10 => c"LM_ERR_BUFFER_TOO_SMALL",
        11 => c"LM_ERR_CUDA",
        12 => c"LM_ERR_INTERNAL",
        _ => c"unknown status",
    };
    name.as_ptr()
}

/// Sets how many threads a call may compute on, 4096 at most; 0, the default, is one per core. It changes no
/// bit of any result, and holds for calls that start afterwards.
///
/// LM_ERR_INVALID_ARGUMENT for more than 4096.
/// Any thread, any time.
#[unsafe(no_mangle)]
pub extern "C" fn lm_set_num_threads(n: usize) -> lm_status {
    boundary::status(|| threads::set_num_threads(n))
}

/// Whether layers on LM_DEVICE_CUDA can be created here. If not, lm_build_info says why.
///
/// Any thread, any time.
#[unsafe(no_mangle)]
pub extern "C" fn lm_cuda_available() -> bool {
    boundary::value(false, || Ok(matches!(cuda_devices(), Some(Ok(_)))))
}

/// How many devices CUDA has here, or why none; `None` where it was not built.
fn cuda_devices() -> Option<Result<u32>> {
    #[cfg(feature = "cuda")]
    return Some(crate::cuda::available());
    #[cfg(not(feature = "cuda"))]
    None
}
