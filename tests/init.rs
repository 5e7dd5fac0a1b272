//! Seeded initial values against those that PyTorch gave (`tests/golden/init`).

mod common;

use common::golden;
use lite_mamba::{Config, Layer, weights};

#[test]
fn initial_values_are_those_of_pytorch() {
    for case in golden::init_cases() {
        let seed = case.seed.expect("init cases state their seed");
        // The file's values are read by name only; its configuration makes the layer under test.
        let stated = weights::load(&case.path, Some(golden::PREFIX), None).unwrap();
        let layer = Layer::new(&Config { seed, ..stated.config().clone() }).unwrap();

        for (name, expected) in case.weights() {
            let mut values = vec![f32::NAN; expected.values.len()];
            layer.get_parameter(name, &mut values).unwrap();
            for (i, (&value, &expected)) in values.iter().zip(&expected.values).enumerate() {
                assert!(
                    agrees(name, value, expected),
                    "{}: {name}[{i}] is {value:e} ({:#010x}), PyTorch gave {expected:e} ({:#010x})",
                    case.name,
                    value.to_bits(),
                    expected.to_bits()
                );
            }
        }
    }
}

/// Identical bits, but for what went through logarithms: PyTorch's vectorised functions differ from correctly
/// rounded ones in the last bits, and softplus⁻¹ adds two nearly opposite numbers.
fn agrees(name: &str, value: f32, expected: f32) -> bool {
    let ulps = i64::from(value.to_bits() as i32).abs_diff(i64::from(expected.to_bits() as i32));
    match name {
        "A_log" => ulps <= 2,
        "dt_proj.bias" => ulps <= 2 || (value - expected).abs() <= 2.5e-7,
        _ => ulps == 0,
    }
}

#[test]
fn another_seed_gives_other_values() {
    let config = Config::new(lite_mamba::Variant::Ptcn, 8);
    let in_proj = |seed| {
        let mut values = [0.0; 32 * 8];
        Layer::new(&Config { seed, ..config.clone() })
            .unwrap()
            .get_parameter("in_proj.weight", &mut values)
            .unwrap();
        values
    };
    assert_eq!(in_proj(3), in_proj(3 + (1 << 32)));
    assert_ne!(in_proj(3), in_proj(4));
}
