//! The layer: its configuration, its parameters, and one path of tokens through them.

mod config;
mod forward;
mod init;
mod names;
mod parameters;
mod tokens;
mod workspace;

use std::sync::atomic::{AtomicU64, Ordering};

pub use config::{Config, Device, Dims, DtInit, Math, Variant};
use forward::Pass;
use half::{bf16, f16};
pub use init::initial_values;
pub use names::{ParameterInfo, alias_of, canonical_name, parameter_list};
use tokens::Sequences;
pub use tokens::{Tensors, Tokens};

use crate::cache::Cache;
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::error::{Error, ErrorKind, Result, fail};
use crate::memory;
#[cfg(feature = "cuda")]
use crate::memory::Buffer;
use crate::simd::system::DefaultFpEnv;
use crate::simd::{Isa, Storage};
use crate::tensor::{DType, Element, each_dtype};
#[cfg(feature = "cuda")]
use crate::{tensor::with_dtype, threads::Workers};
use parameters::Parameters;
use workspace::{Needs, Workspaces};

/// One lite-mamba layer. Shared references may be used from many threads at once.
///
/// ```
/// use lite_mamba::{Cache, Config, Layer, Tokens, Variant};
///
/// # fn main() -> lite_mamba::Result<()> {
/// let config = Config { d_conv: 3, conv_dilations: vec![1, 2, 4, 8], ..Config::new(Variant::Ptcn, 64) };
/// let layer = Layer::new(&config)?;
///
/// let x = vec![0.1; 10 * 64];
/// let mut whole = vec![0.0; x.len()];
/// layer.forward(Tokens::Separate { x: &x, y: &mut whole }, 1, 10, None)?;
///
/// let mut cache = Cache::new(&layer, 1, 0)?;
/// for (x, whole) in x.chunks(64).zip(whole.chunks(64)) {
///     let mut y = [0.0; 64];
///     layer.forward(Tokens::Separate { x, y: &mut y }, 1, 1, Some(&mut cache))?;
///     assert_eq!(y, whole); // to the bit
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Layer {
    id: u64,
    config: Config,
    dims: Dims,
    infos: Vec<ParameterInfo>,
    isa: Isa,
    home: Home,
}

/// Where the parameters are, with what computes there.
#[derive(Debug)]
enum Home {
    Host(Box<AnyModel>),
    #[cfg(feature = "cuda")]
    Device(Box<cuda::Engine>),
}

impl Home {
    fn zeroed(config: &Config, dims: &Dims, isa: Isa) -> Result<Self> {
        match config.device {
            #[cfg(feature = "cuda")]
            Device::Cuda => Ok(Home::Device(Box::new(cuda::Engine::new(config, dims)?))),
            _ => Ok(Home::Host(Box::new(AnyModel::zeroed(config, dims, isa)?))),
        }
    }
}

/// What a layer computes with.
#[derive(Debug)]
struct Model<W: Storage> {
    parameters: Parameters<W>,
    workspaces: Workspaces<W::Real>,
}

impl<W: Storage> Model<W> {
    fn zeroed(config: &Config, dims: &Dims, isa: Isa) -> Result<Self> {
        Ok(Model { parameters: Parameters::zeroed(config, dims, isa)?, workspaces: Workspaces::default() })
    }
}

/// A model in any storage type.
#[derive(Debug)]
enum AnyModel {
    F32(Model<f32>),
    F64(Model<f64>),
    Bf16(Model<bf16>),
    F16(Model<f16>),
}

impl AnyModel {
    fn zeroed(config: &Config, dims: &Dims, isa: Isa) -> Result<Self> {
        Ok(match config.dtype {
            DType::F32 => AnyModel::F32(Model::zeroed(config, dims, isa)?),
            DType::F64 => AnyModel::F64(Model::zeroed(config, dims, isa)?),
            DType::Bf16 => AnyModel::Bf16(Model::zeroed(config, dims, isa)?),
            DType::F16 => AnyModel::F16(Model::zeroed(config, dims, isa)?),
        })
    }
}

impl Layer {
    /// A layer with the initial values that the reference's constructor gives after
    /// `torch.manual_seed(config.seed)`.
    ///
    /// # Errors
    /// `InvalidConfig` naming the field, `Unsupported`, `OutOfMemory`.
    pub fn new(config: &Config) -> Result<Layer> {
        Layer::with_isa(config, Isa::current())
    }

    /// The same, computing with the instructions of `isa`.
    ///
    /// # Errors
    /// As [`Layer::new`].
    pub fn with_isa(config: &Config, isa: Isa) -> Result<Layer> {
        let _default = DefaultFpEnv::enter();
        let mut values = {
            let dims = config.dims()?;
            check_size(config, &dims)?;
            initial_values(config, &dims)?
        };
        Layer::build(config, isa, &mut |info| Ok(values.remove(&info.name).unwrap_or_default()))
    }

    /// A layer whose values `source` gives, called once for each parameter.
    ///
    /// # Errors
    /// As [`Layer::new`], those of `source`, and `ShapeMismatch` where it gives another number of values.
    pub fn from_parameters<T: Element>(
        config: &Config,
        source: &mut dyn FnMut(&ParameterInfo) -> Result<Vec<T>>,
    ) -> Result<Layer> {
        Layer::build(config, Isa::current(), source)
    }

    fn build<T: Element>(
        config: &Config,
        isa: Isa,
        source: &mut dyn FnMut(&ParameterInfo) -> Result<Vec<T>>,
    ) -> Result<Layer> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let dims = config.dims()?;
        check_size(config, &dims)?;
        let mut layer = Layer {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            config: Config { dt_rank: Some(dims.dt_rank), ..config.clone() },
            infos: parameter_list(config, &dims),
            isa,
            home: Home::zeroed(config, &dims, isa)?,
            dims,
        };
        for info in layer.infos.clone() {
            let values = source(&info)?;
            layer.set_parameter(&info.name, &values)?;
        }
        Ok(layer)
    }

    /// What tells this layer from every other one of the process.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// What computes on a device, if that is where the layer is.
    #[cfg(feature = "cuda")]
    pub(crate) fn engine(&self) -> Option<&cuda::Engine> {
        match &self.home {
            Home::Host(_) => None,
            Home::Device(engine) => Some(engine),
        }
    }

    /// The configuration, with `dt_rank` resolved.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The sizes.
    pub fn dims(&self) -> &Dims {
        &self.dims
    }

    /// The type of the arithmetic, and of a state unless another is asked for: f32, f64 in an f64 layer.
    pub fn arithmetic(&self) -> DType {
        if self.config.dtype == DType::F64 { DType::F64 } else { DType::F32 }
    }

    /// The instruction set the layer computes with.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Every parameter once, in the order of the reference's state dict.
    pub fn parameters(&self) -> &[ParameterInfo] {
        &self.infos
    }

    /// Copies a parameter out, each value rounded to `T` if that cannot hold it. The alias `conv1d.*` of branch 0 is understood.
    ///
    /// # Errors
    /// `NotFound` for an unknown name, `ShapeMismatch` when `out` has another length.
    pub fn get_parameter<T: Element>(&self, name: &str, out: &mut [T]) -> Result<()> {
        let info = self.find(name, out.len())?;
        match &self.home {
            Home::Host(model) => {
                each_dtype!(AnyModel, &**model, model => model.parameters.get(&info.name, out))
            }
            #[cfg(feature = "cuda")]
            Home::Device(engine) => {
                let mut values = vec![0.0; out.len()];
                engine.parameters().get(&info.name, &mut values)?;
                out.iter_mut().zip(values).for_each(|(out, value)| *out = value.convert());
            }
        }
        Ok(())
    }

    /// Replaces a parameter, each value rounded to the parameter's type if that cannot hold it. The alias `conv1d.*` of branch 0 is understood.
    ///
    /// # Errors
    /// As [`Layer::get_parameter`].
    pub fn set_parameter<T: Element>(&mut self, name: &str, values: &[T]) -> Result<()> {
        let _default = DefaultFpEnv::enter();
        let info = self.find(name, values.len())?.clone();
        match &mut self.home {
            Home::Host(model) => {
                each_dtype!(AnyModel, &mut **model, model => model.parameters.set(&info.name, values))
            }
            #[cfg(feature = "cuda")]
            Home::Device(engine) => {
                let rounded: Vec<f32> = with_dtype!(info.dtype, P => {
                    values.iter().map(|value| value.convert::<P>().convert()).collect()
                });
                engine.parameters_mut().set(&info.name, &rounded)?;
            }
        }
        Ok(())
    }

    /// What there is to know of a parameter. The alias `conv1d.*` of branch 0 is understood.
    ///
    /// # Errors
    /// `NotFound` for an unknown name.
    pub fn parameter(&self, name: &str) -> Result<&ParameterInfo> {
        Ok(&self.infos[self.parameter_index(name)?])
    }

    /// Where a parameter is in [`Layer::parameters`]. The alias `conv1d.*` of branch 0 is understood.
    ///
    /// # Errors
    /// `NotFound` for an unknown name.
    pub fn parameter_index(&self, name: &str) -> Result<usize> {
        let canonical = canonical_name(self.config.variant, name);
        match self.infos.iter().position(|info| info.name == canonical) {
            Some(index) => Ok(index),
            None => fail!(
                NotFound,
                "name is \"{name}\"; this {} layer has no such parameter",
                self.config.variant.name()
            ),
        }
    }

    fn find(&self, name: &str, count: usize) -> Result<&ParameterInfo> {
        let info = self.parameter(name)?;
        if count != info.count() {
            fail!(
                ShapeMismatch,
                "count is {count}; {name} has shape {:?} and {} values",
                info.shape,
                info.count()
            );
        }
        Ok(info)
    }

    /// Runs `batch` sequences of `seqlen` tokens through the layer: from the beginning, or on from `cache`,
    /// which is left after their last tokens.
    ///
    /// `tokens` are (batch, seqlen, d_model), row-major. The output of a token has the same bits whether it
    /// comes in one call or in many, in whatever lane, on any number of threads. Nothing is read or written
    /// for an empty batch or sequence. A call of one token a sequence allocates nothing after the first.
    ///
    /// # Errors
    /// `ShapeMismatch` for slices of another length or a cache made for another shape or batch; `OutOfMemory`;
    /// `Internal` for a cache left undefined. Nothing is changed then.
    pub fn forward<T: Element>(
        &self,
        tokens: Tokens<'_, T>,
        batch: usize,
        seqlen: usize,
        cache: Option<&mut Cache>,
    ) -> Result<()> {
        let size = "batch · seqlen · d_model";
        let len = memory::product(size, &[batch, seqlen, self.dims.d_model])?;
        let tensors = tokens.tensors(size, len, self.dims.d_model)?;
        self.forward_tensors(tensors, batch, seqlen, cache)
    }

    /// [`Layer::forward`] of tensors of any type and strides.
    ///
    /// # Errors
    /// As [`Layer::forward`].
    pub fn forward_tensors(
        &self,
        tensors: Tensors<'_>,
        batch: usize,
        seqlen: usize,
        cache: Option<&mut Cache>,
    ) -> Result<()> {
        self.call(tensors, Sequences::Equal { count: batch, seqlen }, Some(batch), cache)
    }

    /// Runs sequences of different lengths, one after the other in `tokens`, (total, d_model): sequence `i` has the
    /// tokens from `cu_seqlens[i]` to `cu_seqlens[i + 1]`. Each begins anew or goes on from its lane of `cache`, and
    /// has the bits of a forward of its own.
    ///
    /// # Errors
    /// As [`Layer::forward`], and `InvalidArgument` unless `cu_seqlens` begins with 0 and never falls.
    pub fn forward_varlen<T: Element>(
        &self,
        tokens: Tokens<'_, T>,
        cu_seqlens: &[usize],
        cache: Option<&mut Cache>,
    ) -> Result<()> {
        let size = "cu_seqlens[num_seqs] · d_model";
        let len = memory::product(size, &[packed_total(cu_seqlens)?, self.dims.d_model])?;
        let tensors = tokens.tensors(size, len, self.dims.d_model)?;
        self.call(tensors, Sequences::Packed(cu_seqlens), Some(cu_seqlens.len() - 1), cache)
    }

    /// One token for each of `lanes`, the sequences of `cache` that are due: `tokens` are (lanes, d_model).
    /// The bits are those of a step of the whole batch.
    ///
    /// # Errors
    /// As [`Layer::forward`], and `InvalidArgument` for a lane that the batch does not have or that is there twice.
    pub fn step_lanes<T: Element>(
        &self,
        tokens: Tokens<'_, T>,
        lanes: &[usize],
        cache: &mut Cache,
    ) -> Result<()> {
        cache.check_fits(self, cache.batch())?;
        cache.check_lanes(lanes)?;
        let size = "num_lanes · d_model";
        let len = memory::product(size, &[lanes.len(), self.dims.d_model])?;
        let tensors = tokens.tensors(size, len, self.dims.d_model)?;
        self.call(tensors, Sequences::Lanes(lanes), None, Some(cache))
    }

    /// What every call of the layer comes to. A cache must be of a batch of `batch`, unless it has been checked.
    fn call(
        &self,
        mut tensors: Tensors<'_>,
        sequences: Sequences<'_>,
        batch: Option<usize>,
        mut cache: Option<&mut Cache>,
    ) -> Result<()> {
        let rows = sequences.rows();
        if rows > 0
            && let (Some(cache), Some(batch)) = (&cache, batch)
        {
            cache.check_fits(self, batch)?;
        }
        tensors.check(rows, self.dims.d_model)?;
        if rows == 0 {
            return Ok(());
        }
        let _default = DefaultFpEnv::enter();
        match &self.home {
            Home::Host(model) => {
                each_dtype!(AnyModel, &**model, model => self.call_model(model, &mut tensors, &sequences, cache.take()))
            }
            #[cfg(feature = "cuda")]
            Home::Device(engine) => self.call_device(engine, &mut tensors, &sequences, cache),
        }
    }

    /// A call of the host's on a device.
    #[cfg(feature = "cuda")]
    fn call_device(
        &self,
        engine: &cuda::Engine,
        tensors: &mut Tensors<'_>,
        sequences: &Sequences<'_>,
        cache: Option<&mut Cache>,
    ) -> Result<()> {
        let (rows, d_model) = (sequences.rows(), self.dims.d_model);
        let workers = Workers::for_operations((rows * d_model) as f64);
        let mut room = Buffer::zeroed("the tokens", memory::product("the tokens", &[rows, d_model])?)?;
        let calls = match *sequences {
            Sequences::Equal { count, seqlen } => cuda::Calls::uniform(count, seqlen),
            Sequences::Lanes(lanes) => {
                cuda::Calls { lanes: Some(lanes), ..cuda::Calls::uniform(lanes.len(), 1) }
            }
            Sequences::Packed(starts) => {
                cuda::Calls { starts: Some(starts), ..cuda::Calls::uniform(starts.len() - 1, 0) }
            }
        };
        let mut run = |state: Option<&cuda::State>| -> Result<()> {
            let x = tensors.input::<f32>(&workers, 0..rows, &mut room);
            let x = x.as_standard_layout();
            let started = engine.start(x.as_slice().expect("standard"), calls, state)?;
            drop(x);
            let mut done = Ok(());
            tensors.output::<f32>(&workers, 0..rows, &mut room, |mut y| {
                done = match y.as_slice_mut() {
                    Some(y) => started.finish(y),
                    None => {
                        let mut values = vec![0.0; rows * d_model];
                        started.finish(&mut values).map(|()| {
                            y.iter_mut().zip(values).for_each(|(y, value)| *y = value);
                        })
                    }
                };
            });
            done
        };
        match cache {
            Some(cache) => cache.with_device_state(|state| run(Some(state))),
            None => run(None),
        }
    }

    fn call_model<W: Storage>(
        &self,
        model: &Model<W>,
        tensors: &mut Tensors<'_>,
        sequences: &Sequences<'_>,
        cache: Option<&mut Cache>,
    ) -> Result<()> {
        let needs = Needs {
            sequences,
            state: cache.as_ref().is_none_or(|cache| cache.dtype() != W::Real::DTYPE),
            room: tensors.need_room::<W::Real>(),
            prepared: model.parameters.prepared(),
        };
        let mut workspace = model.workspaces.take(&self.config, &self.dims, &needs)?;
        let pass = Pass { variant: self.config.variant, dims: &self.dims, parameters: &model.parameters };
        match cache {
            Some(cache) => {
                cache.with_state(|state| pass.run(tensors, sequences, &mut workspace, Some(state)))
            }
            None => pass.run(tensors, sequences, &mut workspace, None),
        }
        model.workspaces.put_back(workspace);
        Ok(())
    }
}

/// The tokens of all the sequences that `cu_seqlens` describes.
pub(crate) fn packed_total(cu_seqlens: &[usize]) -> Result<usize> {
    let (Some(&first), Some(&total)) = (cu_seqlens.first(), cu_seqlens.last()) else {
        fail!(InvalidArgument, "cu_seqlens is empty; it must have one number more than there are sequences");
    };
    if first != 0 {
        fail!(InvalidArgument, "cu_seqlens[0] is {first}; it must be 0");
    }
    if let Some(i) = (1..cu_seqlens.len()).find(|&i| cu_seqlens[i] < cu_seqlens[i - 1]) {
        let (here, before) = (cu_seqlens[i], cu_seqlens[i - 1]);
        fail!(InvalidArgument, "cu_seqlens[{i}] is {here}; it must be at least {before}, the one before it");
    }
    Ok(total)
}

/// Holds what a layer takes, packed and unpacked at once, against the machine's memory.
fn check_size(config: &Config, dims: &Dims) -> Result<()> {
    let mut total = 0usize;
    for info in parameter_list(config, dims) {
        // Unpacked as the initial values are, or the values of a file.
        let unpacked = if info.dtype == DType::F64 { size_of::<f64>() } else { size_of::<f32>() };
        let bytes = memory::product(
            &info.name,
            &[memory::product(&info.name, &info.shape)?, info.dtype.size() + unpacked],
        )?;
        total = total
            .checked_add(bytes)
            .ok_or_else(|| Error::new(ErrorKind::OutOfMemory, "the layer's parameters overflow memory"))?;
    }
    memory::check_fits("the layer", total)
}
