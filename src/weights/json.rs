//! The configuration as JSON, as it stands in the metadata of a file.

use serde_json::{Map, Value, json};

use crate::error::{Result, fail};
use crate::layer::{Config, DtInit, Variant};
use crate::tensor::DType;

const DT_INITS: [(&str, DtInit); 2] = [("random", DtInit::Random), ("constant", DtInit::Constant)];

const DTYPES: [(&str, DType); 4] =
    [("float32", DType::F32), ("float64", DType::F64), ("bfloat16", DType::Bf16), ("float16", DType::F16)];

/// The arguments of the reference's constructor, and `variant`.
pub(super) fn from_config(config: &Config) -> String {
    // The reference's cache wants `expand` as an integer where it is one.
    let expand = if config.expand.fract() == 0.0 && config.expand < 1e15 {
        json!(config.expand as u64)
    } else {
        json!(config.expand)
    };
    json!({
        "variant": config.variant.name(),
        "d_model": config.d_model,
        "d_state": config.d_state,
        "d_conv": config.d_conv,
        "conv_dilations": config.conv_dilations,
        "expand": expand,
        "dt_rank": config.dt_rank.map_or(json!("auto"), |rank| json!(rank)),
        "dt_min": config.dt_min,
        "dt_max": config.dt_max,
        "dt_init": name_of(&DT_INITS, config.dt_init),
        "dt_scale": config.dt_scale,
        "dt_init_floor": config.dt_init_floor,
        "conv_bias": config.conv_bias,
        "bias": config.bias,
        "use_fast_path": config.use_fast_path,
        "layer_idx": config.layer_idx,
        "dtype": name_of(&DTYPES, config.dtype),
    })
    .to_string()
}

/// The configuration in `text`, and the type if it states one. Missing keys and nulls mean the reference's
/// defaults, unknown keys nothing. `key` is what messages call the text.
pub(super) fn to_config(key: &str, text: &str) -> Result<(Config, Option<DType>)> {
    let object = match serde_json::from_str(text) {
        Ok(Value::Object(object)) => object,
        Ok(_) => fail!(Format, "metadata {key:?} is not a JSON object"),
        Err(error) => fail!(Format, "metadata {key:?} is not JSON: {error}"),
    };
    let fields = Fields { key, object };

    let variants = Variant::ALL.map(|variant| (variant.name(), variant));
    let variant = fields.required("variant", fields.one_of("variant", &variants)?)?;
    let d_model = fields.required("d_model", fields.size("d_model")?)?;
    let default = Config::new(variant, d_model);
    let config = Config {
        d_state: fields.size("d_state")?.unwrap_or(default.d_state),
        d_conv: fields.size("d_conv")?.unwrap_or(default.d_conv),
        conv_dilations: fields.sizes("conv_dilations")?.unwrap_or(default.conv_dilations),
        expand: fields.number("expand")?.unwrap_or(default.expand),
        dt_rank: fields.dt_rank()?,
        dt_min: fields.number("dt_min")?.unwrap_or(default.dt_min),
        dt_max: fields.number("dt_max")?.unwrap_or(default.dt_max),
        dt_init: fields.one_of("dt_init", &DT_INITS)?.unwrap_or(default.dt_init),
        dt_scale: fields.number("dt_scale")?.unwrap_or(default.dt_scale),
        dt_init_floor: fields.number("dt_init_floor")?.unwrap_or(default.dt_init_floor),
        conv_bias: fields.flag("conv_bias")?.unwrap_or(default.conv_bias),
        bias: fields.flag("bias")?.unwrap_or(default.bias),
        use_fast_path: fields.flag("use_fast_path")?.unwrap_or(default.use_fast_path),
        layer_idx: fields.read("layer_idx", "null or a whole number", Value::as_u64)?,
        ..Config::new(variant, d_model)
    };
    Ok((config, fields.dtype()?))
}

struct Fields<'a> {
    key: &'a str,
    object: Map<String, Value>,
}

impl Fields<'_> {
    /// What `read` makes of a field; `None` for one that is missing or null, an error where it makes nothing.
    fn read<T>(&self, name: &str, expected: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>> {
        match self.object.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match read(value) {
                None => fail!(Format, "metadata {:?}: {name} is {value}; it must be {expected}", self.key),
                some => Ok(some),
            },
        }
    }

    fn required<T>(&self, name: &str, value: Option<T>) -> Result<T> {
        match value {
            Some(value) => Ok(value),
            None => fail!(Format, "metadata {:?} has no {name}; it must state one", self.key),
        }
    }

    fn size(&self, name: &str) -> Result<Option<usize>> {
        self.read(name, "a whole number", as_size)
    }

    fn sizes(&self, name: &str) -> Result<Option<Vec<usize>>> {
        self.read(name, "a list of whole numbers", |value| value.as_array()?.iter().map(as_size).collect())
    }

    fn number(&self, name: &str) -> Result<Option<f64>> {
        self.read(name, "a number", Value::as_f64)
    }

    fn flag(&self, name: &str) -> Result<Option<bool>> {
        self.read(name, "true or false", Value::as_bool)
    }

    fn dt_rank(&self) -> Result<Option<usize>> {
        let rank = self.read("dt_rank", "\"auto\" or a whole number", |value| match value.as_str() {
            Some(text) => (text == "auto").then_some(None),
            None => as_size(value).map(Some),
        })?;
        Ok(rank.flatten())
    }

    /// `float32` and the like, also as PyTorch prints it: `torch.float32`.
    fn dtype(&self) -> Result<Option<DType>> {
        self.read("dtype", &list(&DTYPES), |value| {
            let name = value.as_str()?;
            find(&DTYPES, name.strip_prefix("torch.").unwrap_or(name))
        })
    }

    fn one_of<T: Copy>(&self, name: &str, choices: &[(&str, T)]) -> Result<Option<T>> {
        self.read(name, &list(choices), |value| find(choices, value.as_str()?))
    }
}

fn as_size(value: &Value) -> Option<usize> {
    usize::try_from(value.as_u64()?).ok()
}

fn find<T: Copy>(choices: &[(&str, T)], name: &str) -> Option<T> {
    choices.iter().find(|choice| choice.0 == name).map(|choice| choice.1)
}

fn name_of<'a, T: PartialEq>(choices: &[(&'a str, T)], value: T) -> Option<&'a str> {
    choices.iter().find(|choice| choice.1 == value).map(|choice| choice.0)
}

fn list<T>(choices: &[(&str, T)]) -> String {
    let names: Vec<String> = choices.iter().map(|choice| format!("{:?}", choice.0)).collect();
    names.join(" or ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn every_field_comes_back() {
        let config = Config {
            d_state: 5,
            d_conv: 3,
            conv_dilations: vec![4, 1, 1],
            expand: 0.1 + 0.2, // 17 digits
            dt_rank: Some(7),
            dt_min: 1e-5 / 3.0,
            dt_max: 1.0 / 7.0,
            dt_init: DtInit::Constant,
            dt_scale: -1e-310,
            dt_init_floor: 0.0,
            conv_bias: false,
            bias: true,
            use_fast_path: true,
            layer_idx: Some(i64::MAX as u64),
            dtype: DType::Bf16,
            ..Config::new(Variant::Dpwc, 10)
        };
        let (found, dtype) = to_config("k", &from_config(&config)).unwrap();
        assert_eq!(Config { dtype: dtype.unwrap(), ..found }, config);
    }

    /// A decimal of 17 digits parses to the one f64 it was printed from.
    #[test]
    fn numbers_come_back_exactly() {
        for i in 1..10_000 {
            let expand = f64::from(i) / 9973.0;
            let config = Config { expand, ..Config::new(Variant::Stcn, 10) };
            assert_eq!(to_config("k", &from_config(&config)).unwrap().0.expand.to_bits(), expand.to_bits());
        }
    }

    #[test]
    fn missing_keys_and_nulls_are_defaults_and_unknown_keys_nothing() {
        let text = r#"{"variant": "PTCN", "d_model": 8, "dt_rank": "auto", "d_conv": null, "dtype": null, "later": {}}"#;
        assert_eq!(to_config("k", text).unwrap(), (Config::new(Variant::Ptcn, 8), None));
    }

    #[test]
    fn types_as_pytorch_prints_them() {
        let text = r#"{"variant": "Baseline", "d_model": 8, "dtype": "torch.float16"}"#;
        assert_eq!(to_config("k", text).unwrap().1, Some(DType::F16));
    }

    #[test]
    fn whole_expand_is_written_as_an_integer() {
        assert!(from_config(&Config::new(Variant::Ptcn, 8)).contains(r#""expand":2,"#));
    }

    #[test]
    fn wrong_fields_are_named() {
        for (field, message) in [
            (
                r#""variant": "ptcn""#,
                r#"variant is "ptcn"; it must be "PTCN" or "STCN" or "DPWC" or "Baseline""#,
            ),
            (r#""d_model": "8""#, r#"d_model is "8"; it must be a whole number"#),
            (r#""d_model": 8.5"#, "d_model is 8.5; it must be a whole number"),
            (r#""d_state": -1"#, "d_state is -1; it must be a whole number"),
            (r#""d_conv": [4]"#, "d_conv is [4]; it must be a whole number"),
            (r#""conv_dilations": 2"#, "conv_dilations is 2; it must be a list of whole numbers"),
            (
                r#""conv_dilations": [2, null]"#,
                "conv_dilations is [2,null]; it must be a list of whole numbers",
            ),
            (r#""expand": "2""#, r#"expand is "2"; it must be a number"#),
            (r#""dt_rank": "Auto""#, r#"dt_rank is "Auto"; it must be "auto" or a whole number"#),
            (r#""dt_init": 1"#, r#"dt_init is 1; it must be "random" or "constant""#),
            (r#""bias": 1"#, "bias is 1; it must be true or false"),
            (r#""layer_idx": -1"#, "layer_idx is -1; it must be null or a whole number"),
            (
                r#""dtype": "int8""#,
                r#"dtype is "int8"; it must be "float32" or "float64" or "bfloat16" or "float16""#,
            ),
        ] {
            // The later of two equal keys counts.
            let error =
                to_config("k", &format!(r#"{{"variant": "PTCN", "d_model": 8, {field}}}"#)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Format);
            assert_eq!(error.message(), format!("metadata \"k\": {message}"));
        }
        for (text, message) in [
            (r#"{"d_model": 8}"#, "metadata \"k\" has no variant; it must state one"),
            (r#"{"variant": "STCN"}"#, "metadata \"k\" has no d_model; it must state one"),
            ("[]", "metadata \"k\" is not a JSON object"),
        ] {
            assert_eq!(to_config("k", text).unwrap_err().message(), message);
        }
        for text in ["", "{", r#"{"expand": NaN}"#, &"[".repeat(100_000)] {
            let error = to_config("k", text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Format);
            assert!(error.message().starts_with("metadata \"k\" is not JSON: "), "{error}");
        }
    }
}
