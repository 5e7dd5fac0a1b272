//! Layers in safetensors files: everything that may be in one, and every error.

mod common;

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use common::golden;
use half::{bf16, f16};
use lite_mamba::{Config, DType, DtInit, Error, ErrorKind, Layer, Variant, weights};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

/// A tensor on its way into a file.
#[derive(Clone)]
struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// A file being put together.
#[derive(Clone, Default)]
struct Builder {
    metadata: HashMap<String, String>,
    tensors: HashMap<String, Tensor>,
}

impl Builder {
    /// The file that `save` writes, or would write without the alias of branch 0.
    fn of(layer: &Layer) -> Builder {
        let path = temporary("builder");
        weights::save(layer, &path).unwrap();
        let data = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();

        let (_, header) = SafeTensors::read_metadata(&data).unwrap();
        let tensors = SafeTensors::deserialize(&data).unwrap().tensors().into_iter().map(|(name, view)| {
            let (shape, bytes) = (view.shape().to_vec(), view.data().to_vec());
            (name, Tensor { dtype: view.dtype(), shape, bytes })
        });
        Builder { metadata: header.metadata().clone().unwrap(), tensors: tensors.collect() }
    }

    fn bytes(&self) -> Vec<u8> {
        let views = self
            .tensors
            .iter()
            .map(|(name, t)| (name, TensorView::new(t.dtype, t.shape.clone(), &t.bytes).unwrap()));
        safetensors::serialize(views, Some(self.metadata.clone())).unwrap()
    }

    fn load(&self) -> Result<Layer, Error> {
        weights::load_memory(&self.bytes(), None, None)
    }

    fn without(mut self, name: &str) -> Builder {
        self.tensors.remove(name).unwrap_or_else(|| panic!("no {name} to remove"));
        self
    }

    fn with(mut self, name: &str, shape: &[usize], values: &[f32]) -> Builder {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensors.insert(name.to_owned(), Tensor { dtype: Dtype::F32, shape: shape.to_vec(), bytes });
        self
    }

    fn with_metadata(mut self, key: &str, value: &str) -> Builder {
        self.metadata.insert(key.to_owned(), value.to_owned());
        self
    }

    fn without_config(mut self) -> Builder {
        self.metadata.clear();
        self
    }

    /// Every tensor's name behind `prefix`, the configuration's key followed by `suffix`.
    fn renamed(self, prefix: &str, suffix: &str) -> Builder {
        Builder {
            metadata: self.metadata.into_iter().map(|(key, value)| (key + suffix, value)).collect(),
            tensors: self.tensors.into_iter().map(|(name, t)| (format!("{prefix}{name}"), t)).collect(),
        }
    }

    /// Every tensor stored as `dtype`.
    fn stored_as(mut self, dtype: Dtype) -> Builder {
        for tensor in self.tensors.values_mut() {
            let values = tensor.bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
            tensor.bytes = match dtype {
                Dtype::F64 => values.flat_map(|v| f64::from(v).to_le_bytes()).collect(),
                Dtype::F16 => values.flat_map(|v| f16::from_f32(v).to_le_bytes()).collect(),
                Dtype::BF16 => values.flat_map(|v| bf16::from_f32(v).to_le_bytes()).collect(),
                other => panic!("{other}"),
            };
            tensor.dtype = dtype;
        }
        self
    }
}

/// A path for one test of this process.
fn temporary(name: &str) -> PathBuf {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}-{n}.safetensors", std::process::id()))
}

fn small(variant: Variant) -> Config {
    let conv_dilations = if variant == Variant::Baseline { vec![1] } else { vec![1, 3] };
    Config { d_state: 3, d_conv: 2, conv_dilations, seed: 11, ..Config::new(variant, 4) }
}

fn layer(variant: Variant) -> Layer {
    Layer::new(&small(variant)).unwrap()
}

fn parameter(layer: &Layer, name: &str) -> Vec<f32> {
    let info = layer.parameters().iter().find(|info| info.name == name).unwrap();
    let mut values = vec![0.0; info.count()];
    layer.get_parameter(name, &mut values).unwrap();
    values
}

fn parameters_as_bits(layer: &Layer) -> Vec<(String, Vec<u32>)> {
    let bits = |name| parameter(layer, name).into_iter().map(f32::to_bits).collect();
    layer.parameters().iter().map(|info| (info.name.clone(), bits(&info.name))).collect()
}

#[track_caller]
fn assert_error(result: Result<Layer, Error>, kind: ErrorKind, message: &str) {
    let error = result.expect_err("the load must fail");
    assert_eq!((error.kind(), error.message()), (kind, message));
}

#[test]
fn a_saved_layer_comes_back_to_the_bit() {
    for variant in Variant::ALL {
        for (bias, conv_bias) in [(true, false), (false, true)] {
            let config = Config {
                bias,
                conv_bias,
                expand: 0.7,
                dt_rank: Some(3),
                dt_min: 0.01,
                dt_init: DtInit::Constant,
                layer_idx: Some(5),
                use_fast_path: true,
                d_model: 10,
                seed: 0,
                ..small(variant)
            };
            let mut layer = Layer::new(&config).unwrap();
            let odd = [f32::NAN, -0.0, f32::INFINITY, 1e-45, f32::MIN, f32::from_bits(0x7fc1_2345), 1.5];
            layer.set_parameter("D", &odd).unwrap();

            let path = temporary("round-trip");
            weights::save(&layer, &path).unwrap();
            let data = fs::read(&path).unwrap();
            for loaded in [
                weights::load(&path, None, None).unwrap(),
                weights::load_memory(&data, Some(""), None).unwrap(),
            ] {
                assert_eq!(loaded.config(), layer.config());
                assert_eq!(parameters_as_bits(&loaded), parameters_as_bits(&layer));
            }
            weights::save(&layer, &path).unwrap();
            assert_eq!(fs::read(&path).unwrap(), data, "the same layer gives the same bytes");
            fs::remove_file(&path).unwrap();
        }
    }
}

#[test]
fn a_saved_file_has_every_name_of_the_state_dict() {
    for case in golden::init_cases() {
        let layer = weights::load(&case.path, Some(golden::PREFIX), None).unwrap();
        let file = Builder::of(&layer);
        let mut expected: Vec<_> = case.weights().map(|(name, t)| (name, t.shape.as_slice())).collect();
        let mut found: Vec<_> =
            file.tensors.iter().map(|(name, t)| (name.as_str(), t.shape.as_slice())).collect();
        expected.sort();
        found.sort();
        assert_eq!(found, expected, "{}", case.name);
        assert_eq!(file.metadata["format"], "pt");
    }
}

#[test]
fn golden_files_load_to_their_values_with_their_configuration() {
    for case in golden::init_cases() {
        for prefix in ["layer", "layer."] {
            let layer = weights::load(&case.path, Some(prefix), None).unwrap();
            assert_eq!(layer.config().variant.name(), case.config["variant"].as_str().unwrap());
            assert_eq!(layer.config().d_model, case.size("d_model"));
            assert_eq!(Some(layer.config().expand), case.config["expand"].as_f64());
            for (name, tensor) in case.weights() {
                let mut values = vec![0.0; tensor.values.len()];
                layer.get_parameter(name, &mut values).unwrap();
                assert_eq!(values, tensor.values, "{}: {name}", case.name);
            }
        }
    }
}

#[test]
fn only_tensors_under_the_prefix_are_the_layers() {
    let (first, second) = (layer(Variant::Stcn), layer(Variant::Baseline));
    let mut file = Builder::of(&first).renamed("backbone.0.mixer.", ".backbone.0.mixer");
    let other = Builder::of(&second).renamed("backbone.0.mixer2.", ".backbone.0.mixer2");
    file.metadata.extend(other.metadata);
    file.tensors.extend(other.tensors);
    let data = file.with("norm.weight", &[2], &[1.0, 2.0]).bytes();

    for (prefix, layer) in
        [("backbone.0.mixer", &first), ("backbone.0.mixer.", &first), ("backbone.0.mixer2", &second)]
    {
        let loaded = weights::load_memory(&data, Some(prefix), None).unwrap();
        assert_eq!(parameters_as_bits(&loaded), parameters_as_bits(layer), "{prefix}");
    }
    assert_error(
        weights::load_memory(&data, Some("backbone.1"), None),
        ErrorKind::NotFound,
        "prefix is \"backbone.1.\"; data has no tensor whose name begins so",
    );
    assert_error(
        weights::load_memory(&data, Some("backbone.0"), Some(first.config())),
        ErrorKind::NotFound,
        "tensor \"backbone.0.A_log\" is missing; the layer needs it, of shape [8, 3]; there is \
         \"backbone.0.mixer.A_log\", so the prefix may be wrong",
    );
}

#[test]
fn a_forgotten_prefix_is_guessed() {
    let data = Builder::of(&layer(Variant::Dpwc)).renamed("blocks.3.", ".blocks.3").bytes();
    assert_error(
        weights::load_memory(&data, None, None),
        ErrorKind::NotFound,
        "tensor \"in_proj.weight\" is missing; the layer needs it, of shape (2·d_inner, d_model); there is \
         \"blocks.3.in_proj.weight\", so the prefix may be wrong",
    );
}

#[test]
fn without_a_prefix_every_tensor_must_be_the_layers() {
    let file = Builder::of(&layer(Variant::Stcn)).with("norm.weight", &[1], &[1.0]);
    assert_error(
        file.load(),
        ErrorKind::Format,
        "tensor \"norm.weight\" is no parameter of this STCN layer by its configuration; a layer inside a model \
         needs its prefix",
    );
}

#[test]
fn an_unprefixed_configuration_serves_every_prefix_without_its_own() {
    let layer = layer(Variant::Dpwc);
    let data = Builder::of(&layer).renamed("a.", "").bytes();
    let loaded = weights::load_memory(&data, Some("a"), None).unwrap();
    assert_eq!(parameters_as_bits(&loaded), parameters_as_bits(&layer));
}

#[test]
fn a_missing_tensor_is_named_with_its_shape() {
    for variant in Variant::ALL {
        let layer = layer(variant);
        for info in layer.parameters() {
            let mut file = Builder::of(&layer).without(&info.name);
            if info.name.contains("conv1d_layers.0.") && !info.name.starts_with("pw_") {
                let alias = format!("conv1d.{}", info.name.rsplit('.').next().unwrap());
                file = file.without(&alias);
            }
            let result = weights::load_memory(&file.renamed("m.", "").bytes(), Some("m"), None);
            assert_error(
                result,
                ErrorKind::NotFound,
                &format!(
                    "tensor \"m.{}\" is missing; the layer needs it, of shape {:?}",
                    info.name, info.shape
                ),
            );
        }
    }
}

#[test]
fn an_unknown_tensor_is_named() {
    let ptcn = Builder::of(&layer(Variant::Ptcn));
    for name in ["in_proj.bias", "conv1d_layers.2.weight", "conv1d.gain", "pw_conv1d_layers.0.bias", "x"] {
        let data = ptcn.clone().with(name, &[1], &[1.0]).renamed("m.", "").bytes();
        assert_error(
            weights::load_memory(&data, Some("m"), None),
            ErrorKind::Format,
            &format!("tensor \"m.{name}\" is no parameter of this PTCN layer by its configuration"),
        );
    }
}

#[test]
fn a_wrong_shape_is_named_with_the_right_one() {
    let stcn = Builder::of(&layer(Variant::Stcn));
    for (name, shape, expected) in [
        ("in_proj.weight", vec![4, 16], "[16, 4]"),
        ("D", vec![2, 4], "[8]"),
        ("D", vec![0], "[8]"),
        ("conv1d_layers.1.weight", vec![8, 2], "[8, 1, 2]"),
        ("conv1d.weight", vec![8, 2, 1], "[8, 1, 2]"), // the alias too
        ("out_proj.weight", vec![], "[4, 8]"),
    ] {
        let values = vec![0.5; shape.iter().product()];
        assert_error(
            stcn.clone().with(name, &shape, &values).load(),
            ErrorKind::ShapeMismatch,
            &format!("tensor {name:?} has shape {shape:?}; by the configuration it must have {expected}"),
        );
    }
}

#[test]
fn integers_are_refused() {
    let mut file = Builder::of(&layer(Variant::Stcn));
    file.tensors.get_mut("D").unwrap().dtype = Dtype::I32;
    assert_error(
        file.load(),
        ErrorKind::Unsupported,
        "tensor \"D\" is of type I32; it must be F32, F64, F16 or BF16",
    );
}

#[test]
fn other_types_are_converted() {
    let layer = layer(Variant::Ptcn);
    for (dtype, ours, convert) in [
        (Dtype::F64, DType::F64, (|v| v) as fn(f32) -> f32),
        (Dtype::F16, DType::F16, |v| f16::from_f32(v).to_f32()),
        (Dtype::BF16, DType::Bf16, |v| bf16::from_f32(v).to_f32()),
    ] {
        let file = Builder::of(&layer).stored_as(dtype);
        // Without one in the metadata, the type is that of the tensors.
        let untold = file.clone().with_metadata("lite_mamba.config", PTCN_WITHOUT_DTYPE);
        for (file, expected) in [(file, DType::F32), (untold, ours)] {
            let loaded = file.load().unwrap();
            assert_eq!(loaded.config().dtype, expected);
            for info in layer.parameters() {
                let expected: Vec<f32> = parameter(&layer, &info.name).into_iter().map(convert).collect();
                assert_eq!(parameter(&loaded, &info.name), expected, "{dtype}: {}", info.name);
            }
        }
    }
}

const PTCN_WITHOUT_DTYPE: &str =
    r#"{"variant": "PTCN", "d_model": 4, "d_state": 3, "d_conv": 2, "conv_dilations": [1, 3]}"#;

/// One file may hold several types, as reference layers of type f16 do (`A_log` and `D` stay f32), and the
/// extremes of each come through.
#[test]
fn extremes_of_every_type() {
    let mut file = Builder::of(&layer(Variant::Baseline));
    let mut store = |name: &str, dtype, bytes: Vec<u8>| {
        let tensor = file.tensors.get_mut(name).unwrap();
        (tensor.dtype, tensor.bytes) = (dtype, bytes);
    };
    let halves = [0x0001, 0x8000, 0x7bff, 0x7c00, 0xfc00, 0x7e00, 0x3c00, 0x03ff_u16];
    store("D", Dtype::F16, halves.iter().flat_map(|h| h.to_le_bytes()).collect());
    let brains = [0x0001, 0x8000, 0x7f7f, 0x7f80, 0xff80, 0x7fc0, 0x3f80, 0x007f_u16];
    store("dt_proj.bias", Dtype::BF16, brains.iter().flat_map(|h| h.to_le_bytes()).collect());
    let doubles = [1e-45, -0.0, 1e300, f64::NEG_INFINITY, f64::NAN, 0.1, 1e-50, 1.0 + 2f64.powi(-24)];
    store("conv1d.bias", Dtype::F64, doubles.iter().flat_map(|h| h.to_le_bytes()).collect());
    let loaded = file.load().unwrap();

    #[track_caller]
    fn assert_values(found: &[f32], expected: &[f32]) {
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan()),
                "{found:?}"
            );
        }
    }
    let (infinity, nan) = (f32::INFINITY, f32::NAN);
    let tiny = 2f32.powi(-24);
    assert_values(
        &parameter(&loaded, "D"),
        &[tiny, -0.0, 65504.0, infinity, -infinity, nan, 1.0, 1023.0 * tiny],
    );
    let expected = brains.map(|bits| f32::from_bits(u32::from(bits) << 16));
    assert_values(&parameter(&loaded, "dt_proj.bias"), &expected);
    let smallest = f32::from_bits(1);
    assert_values(
        &parameter(&loaded, "conv1d.bias"),
        &[smallest, -0.0, infinity, -infinity, nan, 0.1, 0.0, 1.0],
    );
}

#[test]
fn either_name_of_branch_0_is_enough() {
    for (variant, branch) in [
        (Variant::Ptcn, "conv1d_layers.0"),
        (Variant::Stcn, "conv1d_layers.0"),
        (Variant::Dpwc, "dw_conv1d_layers.0"),
    ] {
        let layer = layer(variant);
        let file = Builder::of(&layer);
        for (weight, bias) in [(branch, branch), ("conv1d", "conv1d"), (branch, "conv1d")] {
            let file = file.clone().without(&format!("{weight}.weight")).without(&format!("{bias}.bias"));
            assert_eq!(parameters_as_bits(&file.load().unwrap()), parameters_as_bits(&layer), "{variant:?}");
        }
    }
}

#[test]
fn both_names_of_branch_0_must_agree() {
    let mut layer = layer(Variant::Dpwc);
    let mut bias = [1.0, f32::NAN, 3.0, -0.0, 5.0, 6.0, 7.0, 8.0];
    layer.set_parameter("dw_conv1d_layers.0.bias", &bias).unwrap();
    let file = Builder::of(&layer);

    bias[1] = f32::from_bits(0xffc0_0001); // another NaN is as good
    file.clone().with("conv1d.bias", &[8], &bias).load().unwrap();

    bias[3] = 0.0;
    assert_error(
        file.clone().with("conv1d.bias", &[8], &bias).load(),
        ErrorKind::Format,
        "tensors \"dw_conv1d_layers.0.bias\" and \"conv1d.bias\" are one parameter and must agree; they have -0 and \
         0 at one place",
    );

    // The names may differ in type as long as the values are the same.
    let mut mixed = file.clone();
    let wide = file.stored_as(Dtype::F64).tensors["conv1d.weight"].clone();
    mixed.tensors.insert("conv1d.weight".to_owned(), wide);
    mixed.load().unwrap();
}

#[test]
fn a_given_configuration_wins_and_is_checked_against_the_shapes() {
    let layer = layer(Variant::Ptcn);
    let given = Config { layer_idx: Some(9), dt_min: 0.5, dt_max: 0.75, ..layer.config().clone() };
    // Not even a broken configuration in the file matters.
    for file in [Builder::of(&layer), Builder::of(&layer).with_metadata("lite_mamba.config", "{")] {
        let loaded = weights::load_memory(&file.bytes(), None, Some(&given)).unwrap();
        assert_eq!(loaded.config(), &given);
        assert_eq!(parameters_as_bits(&loaded), parameters_as_bits(&layer));
    }

    let data = Builder::of(&layer).bytes();
    let load = |config: Config| weights::load_memory(&data, None, Some(&config));
    assert_error(
        load(Config { d_state: 4, ..given.clone() }),
        ErrorKind::ShapeMismatch,
        "tensor \"A_log\" has shape [8, 3]; by the configuration it must have [8, 4]",
    );
    assert_error(
        load(Config { bias: true, ..given.clone() }),
        ErrorKind::NotFound,
        "tensor \"in_proj.bias\" is missing; the layer needs it, of shape [16]",
    );
    assert_error(
        load(Config { variant: Variant::Stcn, ..given.clone() }),
        ErrorKind::Format,
        "tensor \"conv_gates\" is no parameter of this STCN layer by its configuration; a layer inside a model \
         needs its prefix",
    );
    assert_error(
        load(Config { d_conv: 0, ..given.clone() }),
        ErrorKind::InvalidConfig,
        "d_conv is 0; it must be at least 1",
    );
    // A layer as large as no machine: its shapes are compared, nothing is allocated.
    assert_error(
        load(Config { d_model: 1 << 38, ..given }),
        ErrorKind::ShapeMismatch,
        "tensor \"A_log\" has shape [8, 3]; by the configuration it must have [549755813888, 3]",
    );
}

#[test]
fn a_given_type_wins() {
    let layer = layer(Variant::Ptcn);
    let data = Builder::of(&layer).stored_as(Dtype::F16).bytes();
    let loaded = weights::load_memory(&data, None, Some(layer.config())).unwrap();
    assert_eq!(loaded.config().dtype, DType::F32);
}

#[test]
fn a_layers_own_configuration_comes_before_the_files() {
    let layer = layer(Variant::Stcn);
    let file = Builder::of(&layer).renamed("a.", ".a").with_metadata("lite_mamba.config", "{");
    let loaded = weights::load_memory(&file.bytes(), Some("a."), None).unwrap();
    assert_eq!(parameters_as_bits(&loaded), parameters_as_bits(&layer));
}

#[test]
fn a_broken_configuration_in_the_file_is_the_files_fault() {
    let file = Builder::of(&layer(Variant::Ptcn));
    for (json, message) in [
        ("[1]", "metadata \"lite_mamba.config\" is not a JSON object"),
        (
            r#"{"variant": "PTCN", "d_model": "4"}"#,
            "metadata \"lite_mamba.config\": d_model is \"4\"; it must be a whole number",
        ),
        (
            r#"{"variant": "PTCN", "d_model": 0}"#,
            "metadata \"lite_mamba.config\": d_model is 0; it must be at least 1",
        ),
        (
            r#"{"variant": "Baseline", "d_model": 4, "conv_dilations": [2]}"#,
            "metadata \"lite_mamba.config\": conv_dilations is [2]; the Baseline variant takes exactly one branch \
             of dilation 1",
        ),
    ] {
        assert_error(
            file.clone().with_metadata("lite_mamba.config", json).load(),
            ErrorKind::Format,
            message,
        );
    }
    let huge = r#"{"variant": "PTCN", "d_model": 99999999999999}"#;
    let error = file.with_metadata("lite_mamba.config", huge).load().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
}

#[test]
fn a_baseline_layer_needs_no_configuration() {
    for (d_model, expand) in [(4, 2.0), (10, 0.7), (7, 1.5), (49, 0.0205), (3, 5.9)] {
        for (bias, conv_bias) in [(false, true), (true, false)] {
            let config =
                Config { d_model, expand, bias, conv_bias, dt_rank: Some(2), ..small(Variant::Baseline) };
            let layer = Layer::new(&config).unwrap();
            let loaded = Builder::of(&layer).without_config().load().unwrap();
            assert_eq!(loaded.dims(), layer.dims());
            assert_eq!((loaded.config().bias, loaded.config().conv_bias), (bias, conv_bias));
            assert_eq!(loaded.config().variant, Variant::Baseline);
            assert_eq!(parameters_as_bits(&loaded), parameters_as_bits(&layer));
        }
    }
}

#[test]
fn other_variants_need_a_configuration() {
    for (variant, name) in [
        (Variant::Ptcn, "conv1d_layers.0.bias"),
        (Variant::Stcn, "conv1d_layers.0.bias"),
        (Variant::Dpwc, "conv_gates"),
    ] {
        assert_error(
            Builder::of(&layer(variant)).without_config().load(),
            ErrorKind::InvalidConfig,
            &format!(
                "config is missing, and so is the file's (lite_mamba.config in its metadata); only a Baseline layer \
                 loads without, and tensor {name:?} belongs to another variant"
            ),
        );
    }
}

#[test]
fn a_baseline_layer_without_configuration_and_with_mistakes() {
    let file = Builder::of(&layer(Variant::Baseline)).without_config();
    for name in ["in_proj.weight", "conv1d.weight", "A_log", "dt_proj.weight", "x_proj.weight"] {
        let error = file.clone().without(name).load().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.message().starts_with(&format!("tensor {name:?} is missing")), "{error}");
    }
    assert_error(
        file.clone().with("A_log", &[24], &[0.0; 24]).load(),
        ErrorKind::ShapeMismatch,
        "tensor \"A_log\" has shape [24]; it must have shape (d_inner, d_state)",
    );
    assert_error(
        file.clone().with("in_proj.weight", &[17, 4], &[0.0; 68]).load(),
        ErrorKind::ShapeMismatch,
        "tensor \"in_proj.weight\" has shape [17, 4]; by the configuration it must have [16, 4]",
    );
    // Sides of 0 and of any length, which need no data.
    for (name, shape) in [
        ("in_proj.weight", vec![0, 4]),
        ("in_proj.weight", vec![8, 0]),
        ("in_proj.weight", vec![0, 0]),
        ("in_proj.weight", vec![1 << 60, 0]),
        ("in_proj.weight", vec![0, 1 << 62]),
        ("conv1d.weight", vec![8, 1, 0]),
        ("A_log", vec![0, 1 << 62]),
        ("dt_proj.weight", vec![0, 1 << 62]),
    ] {
        let error = file.clone().with(name, &shape, &[]).load().unwrap_err();
        assert_ne!(error.kind(), ErrorKind::Internal, "{error}");
    }
}

#[test]
fn a_file_cut_short_anywhere_is_an_error_that_names_the_tensor() {
    let data = Builder::of(&layer(Variant::Ptcn)).bytes();
    let (header_len, header) = SafeTensors::read_metadata(&data).unwrap();
    let data_start = 8 + header_len;
    let names = header.offset_keys();
    let path = temporary("cut");

    for len in 0..data.len() {
        let error =
            weights::load_memory(&data[..len], None, None).expect_err("a file cut short must not load");
        assert_eq!(error.kind(), ErrorKind::Format, "{error}");
        assert!(error.message().contains("cut short"), "{error}");
        if len >= data_start {
            let cut = names.iter().find(|name| header.info(name).unwrap().data_offsets.1 > len - data_start);
            assert!(error.message().starts_with(&format!("tensor {:?}", cut.unwrap())), "{error}");
        }
        if len % 97 == 0 {
            fs::write(&path, &data[..len]).unwrap();
            let of_file = weights::load(&path, None, None).unwrap_err();
            let message = error.message().replace("of data", &format!("of {path:?}"));
            assert_eq!(of_file.message(), message.replace("data is cut", &format!("{path:?} is cut")));
        }
    }
    fs::remove_file(&path).unwrap();
}

#[test]
fn a_file_too_long_is_an_error() {
    let mut data = Builder::of(&layer(Variant::Ptcn)).bytes();
    let len = data.len();
    data.push(0);
    assert_error(
        weights::load_memory(&data, None, None),
        ErrorKind::Format,
        &format!("data is {} bytes long; its last tensor ends at byte {len}", len + 1),
    );
}

/// Whatever stands in the header, a load gives a layer or an error of the file.
#[test]
fn a_header_with_any_bit_flipped_never_panics() {
    let data = Builder::of(&layer(Variant::Baseline)).bytes();
    let (header_len, _) = SafeTensors::read_metadata(&data).unwrap();
    for bit in 0..(8 + header_len) * 8 {
        let mut broken = data.clone();
        broken[bit / 8] ^= 1 << (bit % 8);
        if let Err(error) = weights::load_memory(&broken, None, None) {
            let expected = [
                ErrorKind::Format,
                ErrorKind::NotFound,
                ErrorKind::ShapeMismatch,
                ErrorKind::Unsupported,
                ErrorKind::InvalidConfig,
            ];
            assert!(expected.contains(&error.kind()), "bit {bit}: {error}");
        }
    }
}

#[test]
fn hostile_headers_are_errors() {
    let with_header = |header: &str| {
        let mut data = (header.len() as u64).to_le_bytes().to_vec();
        data.extend(header.as_bytes());
        data
    };
    let tensor = |shape: &str, offsets: &str| {
        with_header(&format!(r#"{{"D":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#))
    };
    for data in [
        u64::MAX.to_le_bytes().to_vec(),
        (i64::MAX as u64).to_le_bytes().to_vec(),
        100_000_001u64.to_le_bytes().to_vec(),
        100_000_000u64.to_le_bytes().to_vec(),
        0u64.to_le_bytes().to_vec(),
        with_header(""),
        with_header("[]"),
        with_header("null"),
        with_header("{\"a\""),
        with_header("\u{0}\u{0}\u{0}\u{0}"),
        with_header(&"[".repeat(1_000_000)),
        with_header(&"{\"a\":".repeat(1_000_000)),
        with_header(r#"{"__metadata__": {"lite_mamba.config": 3}}"#),
        [2u64.to_le_bytes().as_slice(), b"\xff\xfe"].concat(),
        tensor("[1]", "[4,8]"),
        tensor("[1]", "[4,0]"),
        tensor("[1]", "[0,8]"),
        tensor("[1]", "[-4,0]"),
        tensor("[-1]", "[0,4]"),
        tensor("[1]", "[0,18446744073709551615]"),
        tensor("[4611686018427387903]", "[0,18446744073709551612]"),
        tensor("[4294967296,4294967296]", "[0,0]"),
        tensor("[4611686018427387904]", "[0,0]"),
    ] {
        let error = weights::load_memory(&data, None, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Format, "{error}");
    }
    // No tensors at all: a safetensors file, but no layer.
    let error = weights::load_memory(&with_header("{}"), None, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

/// Names cross the C boundary inside messages, where a NUL would end them.
#[test]
fn names_in_messages_are_escaped() {
    let error = Builder::of(&layer(Variant::Stcn)).with("a\0\n\"b", &[1], &[1.0]).load().unwrap_err();
    assert!(error.message().starts_with(r#"tensor "a\0\n\"b" is no parameter"#), "{error}");
}

#[test]
fn unreadable_and_unwritable_paths_are_io_errors() {
    let missing = temporary("missing").join("layer.safetensors");
    let error = weights::load(&missing, None, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.message().starts_with(&format!("cannot open {missing:?} for reading: ")), "{error}");

    let layer = layer(Variant::Stcn);
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    assert_eq!(weights::load(&directory, None, None).unwrap_err().kind(), ErrorKind::Io);
    for path in [missing, directory, PathBuf::new()] {
        let error = weights::save(&layer, &path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.message().starts_with(&format!("cannot write {path:?}: ")), "{error}");
    }
}
