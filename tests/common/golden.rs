//! Reads the golden files of `tests/golden` (what they hold is told in the README there).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use super::oracle::{OracleLayer, Variant};
use super::widen;

/// Where the golden files are.
pub const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");

/// The prefix of the layer's weights in every golden file.
pub const PREFIX: &str = "layer.";

/// What stays f32 in a layer of any type.
const ALWAYS_F32: [&str; 3] = ["layer.A_log", "layer.D", "layer.conv_gates"];

/// A tensor as the file has it; f32 holds the values of the smaller types exactly.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// One golden file.
#[derive(Clone, Debug)]
pub struct Golden {
    /// The file's name without its ending.
    pub name: String,
    pub path: PathBuf,
    /// The constructor's arguments, plus `variant` and `dtype`.
    pub config: Value,
    /// For the files of `init/`: what `torch.manual_seed` was given.
    pub seed: Option<u64>,
    /// Every tensor by its name in the file, the layer's under [`PREFIX`].
    pub tensors: BTreeMap<String, Tensor>,
}

/// A case, and what the reference gave for it in the storage types.
#[derive(Clone, Debug)]
pub struct TypedGolden {
    pub case: Golden,
    /// `forward.bf16`, `forward.f16`; `step.bf16`, `step.f16`, but for the longest.
    pub outputs: BTreeMap<String, Tensor>,
}

/// Every case with inputs and outputs, in order of name.
pub fn cases() -> Vec<Golden> {
    read_directory(Path::new(DIRECTORY))
}

/// Every case of seeded initial values, in order of name.
pub fn init_cases() -> Vec<Golden> {
    read_directory(&Path::new(DIRECTORY).join("init"))
}

/// Every case that the reference has computed in the storage types too, in order of name.
pub fn typed_cases() -> Vec<TypedGolden> {
    let paths = files(&Path::new(DIRECTORY).join("typed"));
    paths.iter().map(|path| TypedGolden { case: case(&stem(path)), outputs: read_tensors(path) }).collect()
}

/// One case of `tests/golden` by name.
pub fn case(name: &str) -> Golden {
    Golden::read(&Path::new(DIRECTORY).join(format!("{name}.safetensors")))
}

fn read_directory(directory: &Path) -> Vec<Golden> {
    files(directory).iter().map(|path| Golden::read(path)).collect()
}

/// The golden files of a directory, in order of name.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries =
        std::fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a readable directory entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "safetensors"))
        .collect();
    paths.sort();
    // A test that loops over no files would pass.
    assert!(!paths.is_empty(), "no golden files in {}", directory.display());
    paths
}

fn stem(path: &Path) -> String {
    path.file_stem().expect("a file").to_string_lossy().into_owned()
}

/// Every tensor of a file. Those of the storage types end in their type's name.
fn read_tensors(path: &Path) -> BTreeMap<String, Tensor> {
    let data = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file = SafeTensors::deserialize(&data).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let read = |(name, view): (&str, TensorView<'_>)| {
        let expected = match name.rsplit('.').next() {
            Some("bf16") => Dtype::BF16,
            Some("f16") => Dtype::F16,
            _ => Dtype::F32,
        };
        assert_eq!(view.dtype(), expected, "{}: {name}", path.display());
        (name.to_string(), Tensor { shape: view.shape().to_vec(), values: values(&view) })
    };
    file.iter().map(read).collect()
}

fn values(view: &TensorView<'_>) -> Vec<f32> {
    let halves = || view.data().as_chunks().0.iter().map(|&bytes| u16::from_le_bytes(bytes));
    match view.dtype() {
        Dtype::BF16 => halves().map(|bits| bf16::from_bits(bits).to_f32()).collect(),
        Dtype::F16 => halves().map(|bits| f16::from_bits(bits).to_f32()).collect(),
        _ => view.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
    }
}

impl Golden {
    pub fn read(path: &Path) -> Golden {
        let fail = |what: &str, error: &dyn std::fmt::Display| -> ! {
            panic!("{}: {what}: {error}", path.display())
        };
        let data = std::fs::read(path).unwrap_or_else(|e| fail("not readable", &e));
        let (_, header) = SafeTensors::read_metadata(&data).unwrap_or_else(|e| fail("no header", &e));
        let metadata = header.metadata().clone().unwrap_or_default();
        let config = metadata
            .get("lite_mamba.config.layer")
            .unwrap_or_else(|| fail("metadata", &"no lite_mamba.config.layer"));
        Golden {
            name: stem(path),
            path: path.to_path_buf(),
            config: serde_json::from_str(config).unwrap_or_else(|e| fail("configuration", &e)),
            seed: metadata.get("seed").map(|seed| seed.parse().expect("a seed")),
            tensors: read_tensors(path),
        }
    }

    /// What a storage type leaves of this case: its weights and `x`, rounded by `round` where the type holds them.
    pub fn rounded(&self, round: impl Fn(f32) -> f32) -> Golden {
        let mut rounded = self.clone();
        rounded.tensors.retain(|name, _| name == "x" || name.starts_with(PREFIX));
        for (name, tensor) in &mut rounded.tensors {
            if !ALWAYS_F32.contains(&name.as_str()) {
                tensor.values.iter_mut().for_each(|value| *value = round(*value));
            }
        }
        rounded
    }

    /// A tensor that every file of its kind has.
    pub fn tensor(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("{}: no tensor {name}", self.name))
    }

    /// The layer's weights by state-dict name, without the prefix.
    pub fn weights(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(PREFIX)?, tensor)))
    }

    pub fn variant(&self) -> Variant {
        match self.config["variant"].as_str() {
            Some("PTCN") => Variant::Ptcn,
            Some("STCN") => Variant::Stcn,
            Some("DPWC") => Variant::Dpwc,
            Some("Baseline") => Variant::Baseline,
            other => panic!("{}: variant {other:?}", self.name),
        }
    }

    /// A whole number of the configuration.
    pub fn size(&self, key: &str) -> usize {
        self.config[key].as_u64().unwrap_or_else(|| panic!("{}: {key}", self.name)) as usize
    }

    /// (batch, seqlen) of `x`.
    pub fn batch_and_seqlen(&self) -> (usize, usize) {
        let shape = &self.tensor("x").shape;
        (shape[0], shape[1])
    }

    /// The layer of this file in float64, its sizes taken from the shapes of the weights.
    pub fn oracle(&self) -> OracleLayer {
        let dilations = self.config["conv_dilations"].as_array().expect("a list");
        OracleLayer {
            variant: self.variant(),
            d_model: self.size("d_model"),
            d_inner: self.tensor("layer.A_log").shape[0],
            d_state: self.size("d_state"),
            d_conv: self.size("d_conv"),
            dt_rank: self.tensor("layer.dt_proj.weight").shape[1],
            dilations: dilations.iter().map(|d| d.as_u64().expect("a dilation") as usize).collect(),
            params: self
                .weights()
                .map(|(name, t)| (name.to_string(), (t.shape.clone(), widen(&t.values))))
                .collect(),
        }
    }
}
