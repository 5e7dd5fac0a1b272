//! The layer against the reference's numbers and the float64 oracle, with every instruction set.

mod common;

use common::layers::{bits, chunked, forward, layer, state};
use common::{golden, relative_error, relative_error_f32, widen};
use lite_mamba::simd::Isa;
use lite_mamba::{Cache, DType};

/// Our error may be twice that of PyTorch's f32 on the same case, or this, whichever is larger.
const FLOOR: f64 = 2e-6;
/// Exported states agree with the reference's to this.
const STATES: f64 = 1e-5;

#[test]
fn forward_step_and_states_are_the_references() {
    for case in golden::cases() {
        let (batch, seqlen) = case.batch_and_seqlen();
        let x = &case.tensor("x").values;
        let reference = &case.tensor("y").values;
        let exact = case.oracle().forward(&widen(x), batch, seqlen).y;
        let allowed = FLOOR.max(2.0 * relative_error(&widen(reference), &exact));
        for isa in Isa::available() {
            let what = format!("{} with {}", case.name, isa.name());
            let layer = layer(&case, DType::F32, isa);
            let y = forward(&layer, x, batch, None);
            let error = relative_error(&widen(&y), &exact);
            assert!(error <= allowed, "{what}: forward is off by {error:e}; {allowed:e} is allowed");

            let mut cache = Cache::new(&layer, batch, seqlen).unwrap();
            let stepped = chunked(&layer, x, batch, &vec![1; seqlen], &mut cache);
            assert_eq!(bits(&stepped), bits(&y), "{what}: steps and forward differ");
            assert_eq!(cache.seqlen_offset(), seqlen as u64);

            for info in cache.states() {
                let expected = case.tensor(&info.name);
                assert_eq!(info.shape, expected.shape, "{what}: {}", info.name);
                let error = relative_error_f32(&state(&cache, &info.name), &expected.values);
                assert!(error <= STATES, "{what}: {} is off by {error:e}", info.name);
            }
        }
    }
}
