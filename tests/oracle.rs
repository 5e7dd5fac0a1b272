//! Proves the float64 oracle of `tests/common/oracle.rs` against the reference package's numbers.
//! Nothing of the library under test takes part.

mod common;

use common::golden::{self, Golden, TypedGolden};
use common::oracle::Variant;
use common::{relative_error, widen};
use half::{bf16, f16};

/// The reference computes in f32, the oracle in f64: what may lie between them is f32 rounding.
/// Measured: 3.5e-7 at most on `y` and `y_step`, 2.2e-7 on the convolution states, 8.2e-7 on
/// `ssm_state`, where the inputs are four times as large and δ passes 100.
const TOLERANCE: f64 = 2e-6;

/// Runs one case; gives the error of each tensor that the reference left.
fn errors(golden: &Golden) -> Vec<(String, f64)> {
    let (batch, seqlen) = golden.batch_and_seqlen();
    let output = golden.oracle().forward(&widen(&golden.tensor("x").values), batch, seqlen);

    let mut ours = vec![("y".to_string(), &output.y), ("ssm_state".to_string(), &output.ssm_state)];
    if golden.tensors.contains_key("y_step") {
        ours.push(("y_step".to_string(), &output.y));
    }
    for (i, state) in output.conv_states.iter().enumerate() {
        ours.push((format!("conv_state.{i}"), state));
    }
    ours.into_iter()
        .map(|(name, ours)| {
            // The reference is what is measured here, the oracle is the yardstick.
            let error = relative_error(&widen(&golden.tensor(&name).values), ours);
            (name, error)
        })
        .collect()
}

#[test]
fn oracle_agrees_with_the_reference() {
    let mut wrong = Vec::new();
    for golden in golden::cases() {
        for (tensor, error) in errors(&golden) {
            // Shown by `cargo test --test oracle -- --nocapture`.
            println!("{:40} {tensor:14} {error:.2e}", golden.name);
            if error >= TOLERANCE {
                wrong.push(format!("{} {tensor}: {error:.2e}", golden.name));
            }
        }
    }
    assert!(wrong.is_empty(), "not within {TOLERANCE:e}:\n{}", wrong.join("\n"));
}

/// `tests/types.rs` holds our errors against the reference's own, which must be such as rounding makes.
fn reference_is_within(tolerance: f64, ending: &str, round: impl Fn(f32) -> f32) {
    let mut wrong = Vec::new();
    for TypedGolden { case, outputs } in golden::typed_cases() {
        let (batch, seqlen) = case.batch_and_seqlen();
        let rounded = case.rounded(&round);
        let exact = rounded.oracle().forward(&widen(&rounded.tensor("x").values), batch, seqlen).y;
        for (name, output) in outputs.iter().filter(|(name, _)| name.ends_with(ending)) {
            let error = relative_error(&widen(&output.values), &exact);
            println!("{:40} {name:14} {error:.2e}", case.name);
            if error >= tolerance {
                wrong.push(format!("{} {name}: {error:.2e}", case.name));
            }
        }
    }
    assert!(wrong.is_empty(), "not within {tolerance:e}:\n{}", wrong.join("\n"));
}

/// Measured: 2.1e-2 at most, where the inputs are four times as large; 6e-3 is usual.
#[test]
fn oracle_agrees_with_the_reference_in_bf16() {
    reference_is_within(2.5e-2, ".bf16", |v| bf16::from_f32(v).to_f32());
}

/// Measured: 2.8e-3 at most, where the inputs are four times as large; 8e-4 is usual.
#[test]
fn oracle_agrees_with_the_reference_in_f16() {
    reference_is_within(3.5e-3, ".f16", |v| f16::from_f32(v).to_f32());
}

#[test]
fn golden_files_cover_what_they_promise() {
    let cases = golden::cases();
    for variant in [Variant::Ptcn, Variant::Stcn, Variant::Dpwc, Variant::Baseline] {
        let of_variant: Vec<_> = cases.iter().filter(|g| g.variant() == variant).collect();
        for seqlen in [1, 2, 131, 1134] {
            assert!(
                of_variant.iter().any(|g| g.batch_and_seqlen().1 == seqlen),
                "{variant:?} of length {seqlen}"
            );
        }
    }
    for (key, sizes) in [("d_state", &[1, 5, 16, 17, 64][..]), ("d_conv", &[1, 2, 3, 4, 9][..])] {
        for &size in sizes {
            assert!(cases.iter().any(|g| g.size(key) == size), "{key} = {size}");
        }
    }
}

/// The metric itself: a test that cannot fail proves nothing.
#[test]
fn relative_error_notices() {
    assert_eq!(relative_error(&[], &[]), 0.0);
    assert_eq!(relative_error(&[1.0, -4.0], &[1.0, -4.0]), 0.0);
    assert_eq!(relative_error(&[1.0, -3.0], &[1.0, -4.0]), 0.25);
    assert_eq!(relative_error(&[0.5, 0.0], &[0.0, 0.0]), 0.5);
    assert_eq!(relative_error(&[f64::NAN], &[1.0]), f64::INFINITY);
    assert_eq!(relative_error(&[1.0], &[f64::NAN]), f64::INFINITY);
    assert_eq!(relative_error(&[f64::INFINITY], &[f64::NEG_INFINITY]), f64::INFINITY);
    assert_eq!(relative_error(&[f64::INFINITY, 1.0], &[f64::INFINITY, 1.0]), 0.0);
}
