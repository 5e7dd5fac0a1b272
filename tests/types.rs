//! Layers of every storage type, with every instruction set: bf16 and f16 within the reference's own error in
//! that type, f64 within rounding of the float64 oracle.

mod common;

use common::golden::{self, TypedGolden};
use common::layers::{bits, chunked, forward, layer};
use common::{relative_error, widen};
use half::{bf16, f16};
use lite_mamba::simd::Isa;
use lite_mamba::tensor::Element;
use lite_mamba::{Cache, DType};

/// Our error may be so many times the reference's own, of the same call in the same type.
const REFERENCE: f64 = 1.2;
/// What an f64 layer may be off by.
const F64: f64 = 1e-12;

/// Holds a type against the reference; where that has no error at all, `epsilon` is allowed.
fn is_as_exact_as_the_reference<T: Element + Into<f64>>(ending: &str, nearest: fn(f32) -> T, epsilon: T) {
    let mut wrong = Vec::new();
    for TypedGolden { case, outputs } in golden::typed_cases() {
        let (batch, seqlen) = case.batch_and_seqlen();
        let rounded = case.rounded(|v| nearest(v).into() as f32);
        let exact = rounded.oracle().forward(&widen(&rounded.tensor("x").values), batch, seqlen).y;
        let own = |call: &str| {
            let output = outputs.get(&format!("{call}.{ending}"))?;
            Some(relative_error(&widen(&output.values), &exact))
        };
        let x: Vec<T> = case.tensor("x").values.iter().map(|&v| nearest(v)).collect();
        for isa in Isa::available() {
            // The weights are given as they are in the file: rounding them is the layer's affair.
            let layer = layer(&case, T::DTYPE, isa);
            let mut cache = Cache::new(&layer, batch, seqlen).unwrap();
            let stepped = chunked(&layer, &x, batch, &vec![1; seqlen], &mut cache);
            let y = forward(&layer, &x, batch, None);
            assert!(
                bits(&stepped) == bits(&y),
                "{} with {}: steps and forward differ",
                case.name,
                isa.name()
            );
            for (call, y) in [("forward", y), ("step", stepped)] {
                let own = own(call).or_else(|| own("forward")).expect("the reference's output");
                let error = relative_error(&widen(&y), &exact);
                println!(
                    "{:40} {call:7} {ending:4} {:10} {error:.2e} {:.2}",
                    case.name,
                    isa.name(),
                    error / own
                );
                if error > if own == 0.0 { epsilon.into() } else { REFERENCE * own } {
                    wrong.push(format!("{} with {}: {call} {error:.2e}, {own:.2e}", case.name, isa.name()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "our error and the reference's own:\n{}", wrong.join("\n"));
}

#[test]
fn bf16_is_as_exact_as_the_reference() {
    is_as_exact_as_the_reference("bf16", bf16::from_f32, bf16::EPSILON);
}

#[test]
fn f16_is_as_exact_as_the_reference() {
    is_as_exact_as_the_reference("f16", f16::from_f32, f16::EPSILON);
}

/// PyTorch rounds the same way: `tests/golden/README.md`.
fn parameters_are_the_nearest(dtype: DType, nearest: fn(f32) -> f32) {
    for case in golden::cases() {
        let layer = layer(&case, dtype, Isa::current());
        for (name, tensor) in case.rounded(nearest).weights() {
            let mut values = vec![f32::NAN; tensor.values.len()];
            layer.get_parameter(name, &mut values).unwrap();
            assert!(bits(&values) == bits(&tensor.values), "{}: {name} in {dtype:?}", case.name);
        }
    }
}

#[test]
fn parameters_are_rounded_to_the_nearest() {
    parameters_are_the_nearest(DType::Bf16, |v| bf16::from_f32(v).to_f32());
    parameters_are_the_nearest(DType::F16, |v| f16::from_f32(v).to_f32());
    parameters_are_the_nearest(DType::F64, |v| v);
}

#[test]
fn f64_is_the_oracle_in_one_call_chunks_and_steps() {
    for case in golden::cases() {
        let (batch, seqlen) = case.batch_and_seqlen();
        let x = widen(&case.tensor("x").values);
        let exact = case.oracle().forward(&x, batch, seqlen).y;
        for isa in Isa::available() {
            let what = format!("{} with {}", case.name, isa.name());
            let layer = layer(&case, DType::F64, isa);
            let y = forward(&layer, &x, batch, None);
            let error = relative_error(&y, &exact);
            assert!(error <= F64, "{what}: forward is off by {error:e}");

            for chunks in [vec![1; seqlen], vec![seqlen / 3, 1, seqlen - seqlen / 3 - 1], vec![seqlen - 1, 1]]
            {
                let mut cache = Cache::new(&layer, batch, seqlen).unwrap();
                let chunked = chunked(&layer, &x, batch, &chunks, &mut cache);
                assert!(bits(&chunked) == bits(&y), "{what}: chunks of {chunks:?}");
            }
        }
    }
}
