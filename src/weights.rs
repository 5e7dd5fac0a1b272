//! Weights in safetensors files: a layer out of a file, its own or a whole model's, and into one.
//!
//! Tensors are named as in the reference's state dict, behind an optional prefix, and stored as f32, f64, f16
//! or bf16. The layer's configuration is JSON in the file's metadata (see [`load`]).

mod archive;
mod json;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Cursor, Read, Seek, Write};
use std::path::Path;

use safetensors::tensor::{Dtype, TensorInfo};

use crate::error::{Error, ErrorKind, Result, fail};
use crate::layer::{Config, Layer, ParameterInfo, Variant, alias_of, canonical_name, parameter_list};
use crate::simd::system::DefaultFpEnv;
use crate::tensor::{DType, Element, with_dtype};
use archive::Archive;

/// Key of the configuration in a file's metadata; followed by a dot and the prefix for one layer of several.
const CONFIG_KEY: &str = "lite_mamba.config";

/// Reads a layer from a safetensors file.
///
/// With a `prefix` (a final dot may be left out) the layer's tensors are those whose names begin with it, and
/// only they are read; without one, every tensor of the file must be the layer's. Names are the state dict's;
/// branch 0 may be called `conv1d.*`, `conv1d_layers.0.*` (DPWC: `dw_conv1d_layers.0.*`) or both with equal
/// values. Storage of type f32, f64, f16 or bf16 is converted to the layer's type.
///
/// The configuration is, in this order:
/// 1. `config`, whose `dtype` is the layer's;
/// 2. JSON in the metadata under `lite_mamba.config.<prefix>` or `lite_mamba.config`: `variant`, `d_model` and
///    the other arguments of the reference's constructor under their names, with its defaults for those left
///    out. A key of another name is ignored, as a later version's may be;
/// 3. for a Baseline layer, the shapes of the tensors.
///
/// # Errors
/// `Io` where the file cannot be read; `Format` where it is no safetensors file or is cut short, where a tensor
/// belongs to no parameter, where two names of one parameter disagree or the metadata is no configuration;
/// `NotFound` for a parameter without a tensor; `ShapeMismatch` for a tensor of another shape than the
/// configuration gives it; `Unsupported` for one of integers or other types; `InvalidConfig` where there is no
/// configuration, and what [`Config::dims`] finds. Messages name the tensor as the file does.
pub fn load(path: &Path, prefix: Option<&str>, config: Option<&Config>) -> Result<Layer> {
    let file = File::open(path)
        .map_err(|error| Error::new(ErrorKind::Io, format!("cannot open {path:?} for reading: {error}")))?;
    load_from(Archive::open(file, format!("{path:?}"))?, prefix, config)
}

/// Reads a layer from the bytes of a safetensors file, as [`load`] does from a file.
///
/// # Errors
/// As [`load`], without `Io`.
pub fn load_memory(data: &[u8], prefix: Option<&str>, config: Option<&Config>) -> Result<Layer> {
    load_from(Archive::open(Cursor::new(data), "data".to_owned())?, prefix, config)
}

/// Writes a layer to a safetensors file: every parameter under its name in the reference's state dict, branch 0
/// under `conv1d.*` as well, and the configuration in the metadata. The same layer gives the same bytes.
///
/// The file appears whole or not at all: it is written beside `path` under another name, synchronised to the
/// disk, then renamed, replacing the file that was there.
///
/// # Errors
/// `Io` where the file cannot be written or `path` is something other than a file; `OutOfMemory`.
pub fn save(layer: &Layer, path: &Path) -> Result<()> {
    // The format asks for names in order among tensors of one type.
    let mut tensors = BTreeMap::new();
    for parameter in layer.parameters() {
        if let Some(alias) = alias_of(layer.config().variant, &parameter.name) {
            tensors.insert(alias, parameter);
        }
        tensors.insert(parameter.name.clone(), parameter);
    }
    let metadata = BTreeMap::from([
        (CONFIG_KEY, json::from_config(layer.config())),
        ("format", "pt".to_owned()), // what some readers of PyTorch's files look for
    ]);
    let listed =
        tensors.iter().map(|(name, parameter)| (name.as_str(), parameter.dtype, parameter.shape.as_slice()));
    let header = archive::header(&metadata, listed)?;

    archive::write_atomically(path, |file| {
        file.write_all(&header)?;
        for parameter in tensors.values() {
            with_dtype!(parameter.dtype, T => {
                let mut values = archive::reserved(&parameter.name, parameter.count())?;
                values.resize(parameter.count(), T::default());
                layer.get_parameter(&parameter.name, &mut values)?;
                for value in values {
                    file.write_all(&T::to_le_bytes(value))?;
                }
            });
        }
        Ok(())
    })
}

fn load_from<R: Read + Seek>(
    mut archive: Archive<R>,
    prefix: Option<&str>,
    given: Option<&Config>,
) -> Result<Layer> {
    let _default = DefaultFpEnv::enter(); // conversions keep denormals
    let tensors = Tensors::of_layer(&archive, prefix)?;
    let config = match given {
        Some(config) => config.clone(),
        None => config_of_file(&archive, &tensors)?,
    };
    let parameters = parameter_list(&config, &config.dims()?);
    tensors.check(config.variant, &parameters)?;
    // In f32 a value of f64 is rounded once before a smaller type rounds it again.
    let is_f64 = config.dtype == DType::F64 || tensors.by_name.values().any(|t| t.dtype == Dtype::F64);
    let variant = config.variant;
    if is_f64 {
        Layer::from_parameters::<f64>(&config, &mut |p| tensors.read(&mut archive, variant, p))
    } else {
        Layer::from_parameters::<f32>(&config, &mut |p| tensors.read(&mut archive, variant, p))
    }
}

/// The configuration that the metadata states or, for a Baseline layer, the shapes imply.
fn config_of_file<R: Read + Seek>(archive: &Archive<R>, tensors: &Tensors) -> Result<Config> {
    let own_key = format!("{CONFIG_KEY}.{}", tensors.prefix.trim_end_matches('.'));
    let key = [own_key.as_str(), CONFIG_KEY].into_iter().find(|key| archive.metadata(key).is_some());

    let (mut config, dtype) = match key.and_then(|key| archive.metadata(key)) {
        Some(text) => json::to_config(key.unwrap_or(CONFIG_KEY), text)?,
        None => (tensors.baseline_config()?, None),
    };
    let stored = tensors.by_name.get("in_proj.weight").and_then(|tensor| archive::dtype(tensor.dtype));
    config.dtype = dtype.or(stored).unwrap_or(DType::F32);

    match (config.dims(), key) {
        // A file's mistake, not the caller's.
        (Err(error), Some(key)) if error.kind() == ErrorKind::InvalidConfig => {
            fail!(Format, "metadata {key:?}: {error}")
        }
        (Err(error), _) => Err(error),
        (Ok(_), _) => Ok(config),
    }
}

/// The tensors of one layer in a file.
struct Tensors {
    /// What precedes every name, its dot included; empty where the file is the layer's alone.
    prefix: String,
    /// By name without the prefix.
    by_name: BTreeMap<String, TensorInfo>,
}

impl Tensors {
    fn of_layer<R: Read + Seek>(archive: &Archive<R>, prefix: Option<&str>) -> Result<Self> {
        let prefix = match prefix.map(|prefix| prefix.strip_suffix('.').unwrap_or(prefix)) {
            None | Some("") => String::new(),
            Some(prefix) => format!("{prefix}."),
        };
        let by_name: BTreeMap<_, _> = archive
            .tensors()
            .into_iter()
            .filter_map(|(name, info)| Some((name.strip_prefix(&prefix)?.to_owned(), info.clone())))
            .collect();
        if by_name.is_empty() && !prefix.is_empty() {
            fail!(NotFound, "prefix is {prefix:?}; {} has no tensor whose name begins so", archive.name());
        }
        Ok(Tensors { prefix, by_name })
    }

    fn file_name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The names under which the file has a parameter: its own, its alias, both or none.
    fn names_of<'a>(&'a self, variant: Variant, parameter: &str) -> impl Iterator<Item = &'a str> {
        [Some(parameter.to_owned()), alias_of(variant, parameter)]
            .into_iter()
            .flatten()
            .filter_map(|name| Some(self.by_name.get_key_value(&name)?.0.as_str()))
    }

    /// Whether the tensors are those of `parameters`, in shape and number.
    fn check(&self, variant: Variant, parameters: &[ParameterInfo]) -> Result<()> {
        let expected: BTreeMap<&str, &ParameterInfo> =
            parameters.iter().map(|parameter| (parameter.name.as_str(), parameter)).collect();

        for parameter in parameters {
            if self.names_of(variant, &parameter.name).next().is_none() {
                self.missing(&parameter.name, &format!("shape {:?}", parameter.shape))?;
            }
        }
        for (name, tensor) in &self.by_name {
            let file_name = self.file_name(name);
            let Some(parameter) = expected.get(canonical_name(variant, name).as_ref()) else {
                let hint =
                    if self.prefix.is_empty() { "; a layer inside a model needs its prefix" } else { "" };
                fail!(
                    Format,
                    "tensor {file_name:?} is no parameter of this {} layer by its configuration{hint}",
                    variant.name()
                );
            };
            if tensor.shape != parameter.shape {
                fail!(
                    ShapeMismatch,
                    "tensor {file_name:?} has shape {:?}; by the configuration it must have {:?}",
                    tensor.shape,
                    parameter.shape
                );
            }
            if archive::dtype(tensor.dtype).is_none() {
                fail!(
                    Unsupported,
                    "tensor {file_name:?} is of type {}; it must be F32, F64, F16 or BF16",
                    tensor.dtype
                );
            }
        }
        Ok(())
    }

    fn missing<T>(&self, name: &str, expected: &str) -> Result<T> {
        let behind_dot = format!(".{name}");
        let hint = match self.by_name.keys().find(|other| other.ends_with(&behind_dot)) {
            Some(other) => format!("; there is {:?}, so the prefix may be wrong", self.file_name(other)),
            None => String::new(),
        };
        fail!(
            NotFound,
            "tensor {:?} is missing; the layer needs it, of {expected}{hint}",
            self.file_name(name)
        )
    }

    /// The values of a parameter, row-major.
    fn read<R: Read + Seek, T: Element>(
        &self,
        archive: &mut Archive<R>,
        variant: Variant,
        parameter: &ParameterInfo,
    ) -> Result<Vec<T>> {
        let mut names = self.names_of(variant, &parameter.name);
        let Some(name) = names.next() else {
            return self.missing(&parameter.name, &format!("shape {:?}", parameter.shape));
        };
        let values: Vec<T> = archive.values(&self.file_name(name))?;
        if let Some(alias) = names.next() {
            let (name, alias) = (self.file_name(name), self.file_name(alias));
            let same = |a: f64, b: f64| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
            let others: Vec<T> = archive.values(&alias)?;
            let mut pairs = values.iter().zip(&others).map(|(a, b)| (a.to_f64(), b.to_f64()));
            if let Some((a, b)) = pairs.find(|(a, b)| !same(*a, *b)) {
                fail!(
                    Format,
                    "tensors {name:?} and {alias:?} are one parameter and must agree; they have {a} and {b} at one place"
                );
            }
        }
        Ok(values)
    }

    /// The configuration of a Baseline layer with these shapes.
    fn baseline_config(&self) -> Result<Config> {
        let others = ["conv_gates", "conv1d_layers.", "dw_conv1d_layers.", "pw_conv1d_layers."];
        if let Some(name) = self.by_name.keys().find(|name| others.iter().any(|o| name.starts_with(o))) {
            fail!(
                InvalidConfig,
                "config is missing, and so is the file's ({CONFIG_KEY} in its metadata); only a Baseline layer \
                 loads without, and tensor {:?} belongs to another variant",
                self.file_name(name)
            );
        }
        let [two_d_inner, d_model] = self.shape("in_proj.weight", "(2·d_inner, d_model)")?;
        let [_, _, d_conv] = self.shape("conv1d.weight", "(d_inner, 1, d_conv)")?;
        let [_, d_state] = self.shape("A_log", "(d_inner, d_state)")?;
        let [_, dt_rank] = self.shape("dt_proj.weight", "(d_inner, dt_rank)")?;
        Ok(Config {
            d_state,
            d_conv,
            expand: expand_of(two_d_inner / 2, d_model),
            dt_rank: Some(dt_rank),
            conv_bias: self.by_name.contains_key("conv1d.bias"),
            bias: self.by_name.contains_key("in_proj.bias"),
            ..Config::new(Variant::Baseline, d_model)
        })
    }

    fn shape<const RANK: usize>(&self, name: &str, expected: &str) -> Result<[usize; RANK]> {
        let Some(tensor) = self.by_name.get(name) else {
            return self.missing(name, &format!("shape {expected}"));
        };
        match tensor.shape.as_slice().try_into() {
            Ok(shape) => Ok(shape),
            Err(_) => fail!(
                ShapeMismatch,
                "tensor {:?} has shape {:?}; it must have shape {expected}",
                self.file_name(name),
                tensor.shape
            ),
        }
    }
}

/// The f64 of which `trunc(expand · d_model)` is `d_inner`: their quotient, or a few ulp more where its
/// rounding falls short.
fn expand_of(d_inner: usize, d_model: usize) -> f64 {
    let (d_inner, d_model) = (d_inner as f64, d_model as f64);
    let mut expand = d_inner / d_model;
    while (expand * d_model).trunc() < d_inner {
        expand = expand.next_up();
    }
    expand
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expand_gives_back_d_inner() {
        let mut nudged = 0;
        for d_model in 1..700 {
            for d_inner in 1..700 {
                let expand = expand_of(d_inner, d_model);
                assert_eq!((expand * d_model as f64).trunc() as usize, d_inner, "{d_inner} / {d_model}");
                nudged += usize::from(expand != d_inner as f64 / d_model as f64);
            }
        }
        assert!(nudged > 0, "no quotient fell short, so the nudge was not tried");
        assert!(expand_of(0, 0).is_nan());
    }
}
