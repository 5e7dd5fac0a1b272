//! What no C program can bring about: panics inside the library. Everything else is in `tests/c`.

use std::ffi::CStr;
use std::ptr::{null, null_mut};

use super::boundary;
use super::config::lm_config_init;
use super::dlpack::*;
use super::inference::*;
use super::layer::*;
use super::library::lm_set_num_threads;
use super::parameters::*;
use super::streaming::*;
use super::types::*;
use crate::fault::{Point, arm};

const OK: lm_status = lm_status_code::LM_OK as lm_status;
const INTERNAL: lm_status = lm_status_code::LM_ERR_INTERNAL as lm_status;
const D_MODEL: usize = 8;
const SEQLEN: usize = 5;

fn last_error() -> String {
    // SAFETY: this thread's message, copied before its next call.
    unsafe { CStr::from_ptr(boundary::last_error()) }.to_str().unwrap().to_owned()
}

fn assert_internal(status: lm_status, function: &str) {
    assert_eq!(status, INTERNAL, "{function}");
    assert_eq!(last_error(), "a bug in lite-mamba: a test asked for this", "{function}");
}

/// Calls each function once, a panic waiting inside, and returns their names.
macro_rules! each_panics {
    ($($function:ident($($argument:expr),*);)*) => {{
        $(
            arm(Point::Boundary);
            #[allow(unused_unsafe)]
            // SAFETY: the panic comes before any argument is looked at.
            let status = unsafe { $function($($argument),*) };
            assert_internal(status, stringify!($function));
        )*
        vec![$(stringify!($function)),*]
    }};
}

#[test]
fn a_panic_becomes_a_status_and_a_message_in_every_function() {
    let mut called = each_panics! {
        lm_set_num_threads(0);
        lm_config_init(null_mut(), 0);
        lm_create(null(), null_mut());
        lm_get_config(null(), null_mut(), 0);
        lm_forward(null(), null(), 0, 0, null_mut(), null_mut());
        lm_alloc_cache(null(), 0, 0, 0, null_mut());
        lm_step(null(), null(), null_mut(), null_mut());
        lm_cache_reset(null_mut());
        lm_cache_clone(null(), null_mut());
        lm_cache_get_state(null(), null(), null_mut(), 0);
        lm_cache_set_state(null_mut(), null(), null(), 0);
        lm_cache_state_info(null(), 0, null_mut(), 0);
        lm_cache_reset_lane(null_mut(), 0);
        lm_cache_copy_lane(null_mut(), 0, null(), 0);
        lm_step_lanes(null(), null(), null(), 0, null_mut(), null_mut());
        lm_forward_varlen(null(), null(), null(), 0, null_mut(), null_mut());
        lm_cache_save(null(), null_mut(), 0, null_mut());
        lm_cache_load(null(), null(), 0, null_mut());
        lm_inference_params_create(0, 0, null_mut());
        lm_inference_params_reset(null_mut());
        lm_forward_inference(null(), null(), 0, 0, null_mut(), null_mut());
        lm_parameter_info(null(), 0, null_mut(), 0);
        lm_find_parameter(null(), null(), null_mut());
        lm_get_parameter(null(), null(), null_mut(), 0);
        lm_set_parameter(null_mut(), null(), null(), 0);
        lm_get_parameter_typed(null(), null(), 0, null_mut(), 0);
        lm_set_parameter_typed(null_mut(), null(), 0, null(), 0);
        lm_load(null(), null(), null(), null_mut());
        lm_load_memory(null(), 0, null(), null(), null_mut());
        lm_save(null(), null());
        lm_forward_dlpack(null(), null(), null_mut(), null(), null_mut());
        lm_step_dlpack(null(), null(), null_mut(), null(), null_mut());
    };
    let header = include_str!("../../include/lite_mamba.h");
    let mut declared: Vec<&str> = header
        .lines()
        .filter_map(|line| line.trim_start_matches("LM_API ").strip_prefix("lm_status ")?.split_once('('))
        .map(|(name, _)| name)
        .collect();
    called.sort_unstable();
    declared.sort_unstable();
    assert_eq!(called, declared, "this test must call every function that returns a status");
}

#[test]
fn a_panic_in_a_function_that_returns_a_value_gives_none() {
    arm(Point::Boundary);
    // SAFETY: the panic comes before the argument is looked at.
    assert_eq!(unsafe { lm_d_inner(null()) }, 0);
    assert_eq!(last_error(), "a bug in lite-mamba: a test asked for this");
}

fn create(layer_idx: i64) -> *mut lm_layer {
    // SAFETY: any bytes make an `lm_config`.
    let mut config: lm_config = unsafe { std::mem::zeroed() };
    let mut layer = null_mut();
    // SAFETY: the pointers are those of live values.
    unsafe {
        assert_eq!(lm_config_init(&mut config, size_of::<lm_config>()), OK);
        config.d_model = D_MODEL;
        config.layer_idx = layer_idx;
        assert_eq!(lm_create(&config, &mut layer), OK, "{}", last_error());
    }
    layer
}

fn alloc(layer: *const lm_layer) -> *mut lm_cache {
    let mut cache = null_mut();
    // SAFETY: a live layer, and room for the handle.
    assert_eq!(unsafe { lm_alloc_cache(layer, 1, 0, 0, &mut cache) }, OK);
    cache
}

fn input() -> [f32; SEQLEN * D_MODEL] {
    std::array::from_fn(|i| (i as f32 * 0.37).sin())
}

/// The outputs of a forward pass and a step after it.
fn outputs(layer: *const lm_layer, cache: *mut lm_cache) -> Vec<u32> {
    let x = input();
    let mut y = [0.0f32; (SEQLEN + 1) * D_MODEL];
    // SAFETY: live handles; `x` and `y` have the tokens' values.
    unsafe {
        assert_eq!(lm_forward(layer, x.as_ptr(), 1, SEQLEN, cache, y.as_mut_ptr()), OK, "{}", last_error());
        assert_eq!(lm_step(layer, x.as_ptr(), cache, y[SEQLEN * D_MODEL..].as_mut_ptr()), OK);
    }
    y.map(f32::to_bits).to_vec()
}

fn assert_refuses(status: lm_status, what: &str) {
    assert_eq!(status, INTERNAL, "{what}");
    assert!(last_error().contains("cache") && last_error().contains("reset"), "{what}: {}", last_error());
}

#[test]
fn a_cache_that_a_panic_left_undefined_refuses_use_until_it_is_reset() {
    let layer = create(-1);
    let (cache, fresh) = (alloc(layer), alloc(layer));
    let x = input();
    let mut y = [0.0f32; SEQLEN * D_MODEL];
    let mut state = [0.0f32; 2 * D_MODEL * 16];
    let name = c"ssm_state".as_ptr();
    let mut clone = null_mut();
    // SAFETY: live handles; `x`, `y` and `state` have as many values as the calls say.
    unsafe {
        for is_step in [false, true] {
            outputs(layer, cache);
            arm(Point::State);
            let status = if is_step {
                lm_step(layer, x.as_ptr(), cache, y.as_mut_ptr())
            } else {
                lm_forward(layer, x.as_ptr(), 1, SEQLEN, cache, y.as_mut_ptr())
            };
            assert_internal(status, "a call that panics inside");
            assert_refuses(lm_step(layer, x.as_ptr(), cache, y.as_mut_ptr()), "lm_step");
            assert_refuses(lm_forward(layer, x.as_ptr(), 1, SEQLEN, cache, y.as_mut_ptr()), "lm_forward");
            assert_refuses(lm_cache_get_state(cache, name, state.as_mut_ptr(), state.len()), "get_state");
            assert_refuses(lm_cache_set_state(cache, name, state.as_ptr(), state.len()), "set_state");
            assert_refuses(lm_cache_clone(cache, &mut clone), "clone");
            assert!(clone.is_null());
            let (x, y) = (x.as_ptr(), y.as_mut_ptr());
            assert_refuses(lm_step_lanes(layer, x, &0, 1, cache, y), "lm_step_lanes");
            assert_refuses(lm_forward_varlen(layer, x, [0, 1].as_ptr(), 1, cache, y), "lm_forward_varlen");
            assert_refuses(lm_cache_reset_lane(cache, 0), "reset_lane");
            assert_refuses(lm_cache_copy_lane(cache, 0, fresh, 0), "copy_lane to it");
            assert_refuses(lm_cache_copy_lane(fresh, 0, cache, 0), "copy_lane from it");
            let (mut saved, mut written) = ([0u8; 4096], 7);
            assert_refuses(lm_cache_save(cache, null_mut(), 0, &mut written), "the size of a saved cache");
            assert_refuses(lm_cache_save(cache, saved.as_mut_ptr().cast(), 4096, &mut written), "save");
            assert_eq!((saved, written), ([0; 4096], 7));
            assert_eq!(lm_cache_reset(cache), OK);
            assert_eq!(lm_cache_seqlen_offset(cache), 0);
            assert_eq!(outputs(layer, cache), outputs(layer, fresh));
            assert_eq!((lm_cache_reset(cache), lm_cache_reset(fresh)), (OK, OK));
        }
        lm_free_cache(cache);
        lm_free_cache(fresh);
        lm_destroy(layer);
    }
}

#[test]
fn inference_params_that_a_panic_left_undefined_refuse_use_until_they_are_reset() {
    let layer = create(3);
    let x = input();
    let mut y = [[0.0f32; SEQLEN * D_MODEL]; 2];
    let mut params = null_mut();
    // SAFETY: live handles; `x` and each `y` have the tokens' values.
    unsafe {
        assert_eq!(lm_inference_params_create(1, 0, &mut params), OK);
        let forward =
            |y: &mut [f32]| lm_forward_inference(layer, x.as_ptr(), 1, SEQLEN, params, y.as_mut_ptr());
        assert_eq!(forward(&mut y[0]), OK);
        arm(Point::State);
        assert_internal(forward(&mut y[1]), "a call that panics inside");
        assert_refuses(forward(&mut y[1]), "lm_forward_inference");
        assert_eq!(lm_inference_params_reset(params), OK);
        assert_eq!(forward(&mut y[1]), OK);
        assert_eq!(y[0], y[1]);
        lm_inference_params_free(params);
        lm_destroy(layer);
    }
}

#[test]
fn a_panic_without_a_cache_leaves_the_layer_usable() {
    let layer = create(-1);
    let cache = alloc(layer);
    let before = outputs(layer, cache);
    arm(Point::Boundary);
    let (x, mut y) = (input(), [0.0f32; SEQLEN * D_MODEL]);
    // SAFETY: live handles; `x` and `y` have the tokens' values.
    unsafe {
        assert_internal(lm_forward(layer, x.as_ptr(), 1, SEQLEN, null_mut(), y.as_mut_ptr()), "lm_forward");
        assert_eq!(lm_cache_reset(cache), OK);
        assert_eq!(outputs(layer, cache), before);
        lm_free_cache(cache);
        lm_destroy(layer);
    }
}
