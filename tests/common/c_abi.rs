//! Some of the C ABI, as C sees it: handles are pointers to a `Layer` and a `Cache`.

use std::ffi::{CStr, c_char, c_void};

use lite_mamba::ffi::DLTensor;

unsafe extern "C" {
    pub fn lm_step(layer: *const c_void, x: *const f32, cache: *mut c_void, y: *mut f32) -> i32;
    pub fn lm_forward_dlpack(
        layer: *const c_void,
        x: *const DLTensor,
        cache: *mut c_void,
        y: *const DLTensor,
        stream: *mut c_void,
    ) -> i32;
    pub fn lm_step_dlpack(
        layer: *const c_void,
        x: *const DLTensor,
        cache: *mut c_void,
        y: *const DLTensor,
        stream: *mut c_void,
    ) -> i32;
    fn lm_last_error() -> *const c_char;
    fn lm_build_info() -> *const c_char;
    pub fn lm_cuda_available() -> bool;
}

/// The calling thread's last message.
pub fn last_error() -> String {
    // SAFETY: a string of the library, copied before the thread's next call.
    unsafe { CStr::from_ptr(lm_last_error()) }.to_str().unwrap().to_owned()
}

/// What the library says of itself.
pub fn build_info() -> String {
    // SAFETY: as above.
    unsafe { CStr::from_ptr(lm_build_info()) }.to_str().unwrap().to_owned()
}
