//! The layer: its configuration, its parameters, and one path of tokens through them.

mod config;
mod forward;
mod init;
mod names;
mod parameters;
mod workspace;

use std::sync::atomic::{AtomicU64, Ordering};

pub use config::{Config, Device, Dims, DtInit, Math, Variant};
use forward::Sequences;
pub use forward::Tokens;
pub use init::initial_values;
pub use names::{ParameterInfo, alias_of, canonical_name, parameter_list};

use crate::cache::Cache;
use crate::error::{Error, ErrorKind, Result, fail};
use crate::memory;
use crate::simd::Isa;
use crate::simd::system::DefaultFpEnv;
use parameters::Parameters;
use workspace::Workspaces;

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
    parameters: Parameters<f32>,
    workspaces: Workspaces<f32>,
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
    pub fn from_parameters(
        config: &Config,
        source: &mut dyn FnMut(&ParameterInfo) -> Result<Vec<f32>>,
    ) -> Result<Layer> {
        Layer::build(config, Isa::current(), source)
    }

    fn build(
        config: &Config,
        isa: Isa,
        source: &mut dyn FnMut(&ParameterInfo) -> Result<Vec<f32>>,
    ) -> Result<Layer> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let dims = config.dims()?;
        check_size(config, &dims)?;
        let mut layer = Layer {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            config: Config { dt_rank: Some(dims.dt_rank), ..config.clone() },
            infos: parameter_list(config, &dims),
            isa,
            parameters: Parameters::zeroed(config, &dims, isa)?,
            workspaces: Workspaces::default(),
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

    /// The configuration, with `dt_rank` resolved.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The sizes.
    pub fn dims(&self) -> &Dims {
        &self.dims
    }

    /// The instruction set the layer computes with.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Every parameter once, in the order of the reference's state dict.
    pub fn parameters(&self) -> &[ParameterInfo] {
        &self.infos
    }

    /// Copies a parameter out. The alias `conv1d.*` of branch 0 is understood.
    ///
    /// # Errors
    /// `NotFound` for an unknown name, `ShapeMismatch` when `out` has another length.
    pub fn get_parameter(&self, name: &str, out: &mut [f32]) -> Result<()> {
        let info = self.find(name, out.len())?;
        self.parameters.get(&info.name, out);
        Ok(())
    }

    /// Replaces a parameter. The alias `conv1d.*` of branch 0 is understood.
    ///
    /// # Errors
    /// As [`Layer::get_parameter`].
    pub fn set_parameter(&mut self, name: &str, values: &[f32]) -> Result<()> {
        let _default = DefaultFpEnv::enter();
        let name = self.find(name, values.len())?.name.clone();
        self.parameters.set(&name, values);
        Ok(())
    }

    /// What there is to know of a parameter. The alias `conv1d.*` of branch 0 is understood.
    ///
    /// # Errors
    /// `NotFound` for an unknown name.
    pub fn parameter(&self, name: &str) -> Result<&ParameterInfo> {
        let canonical = canonical_name(self.config.variant, name);
        let Some(info) = self.infos.iter().find(|info| info.name == canonical) else {
            fail!(
                NotFound,
                "name is \"{name}\"; this {} layer has no such parameter",
                self.config.variant.name()
            );
        };
        Ok(info)
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
    pub fn forward(
        &self,
        mut tokens: Tokens<'_, f32>,
        batch: usize,
        seqlen: usize,
        cache: Option<&mut Cache>,
    ) -> Result<()> {
        let size = "batch · seqlen · d_model";
        let len = memory::product(size, &[batch, seqlen, self.dims.d_model])?;
        if len > 0
            && let Some(cache) = &cache
        {
            cache.check_fits(self, batch)?;
        }
        let sequences = Sequences { count: batch, seqlen, lanes: None };
        self.call(&mut tokens, size, sequences, cache)
    }

    /// One token for each of `lanes`, the sequences of `cache` that are due: `tokens` are (lanes, d_model).
    /// The bits are those of a step of the whole batch.
    ///
    /// # Errors
    /// As [`Layer::forward`], and `InvalidArgument` for a lane that the batch does not have or that is there twice.
    pub fn step_lanes(&self, mut tokens: Tokens<'_, f32>, lanes: &[usize], cache: &mut Cache) -> Result<()> {
        cache.check_fits(self, cache.batch())?;
        cache.check_lanes(lanes)?;
        let sequences = Sequences { count: lanes.len(), seqlen: 1, lanes: Some(lanes) };
        self.call(&mut tokens, "num_lanes · d_model", sequences, Some(cache))
    }

    /// What every call of the layer comes to, its cache having been checked.
    fn call(
        &self,
        tokens: &mut Tokens<'_, f32>,
        size: &str,
        sequences: Sequences<'_>,
        cache: Option<&mut Cache>,
    ) -> Result<()> {
        let Sequences { count, seqlen, .. } = sequences;
        let len = memory::product(size, &[count, seqlen, self.dims.d_model])?;
        tokens.check(size, len)?;
        if len == 0 {
            return Ok(());
        }
        let _default = DefaultFpEnv::enter();
        let mut workspace = self.workspaces.take(&self.config, &self.dims, count, seqlen, cache.is_none())?;
        match cache {
            Some(cache) => cache.with_state(|state| self.run(tokens, sequences, &mut workspace, Some(state))),
            None => self.run(tokens, sequences, &mut workspace, None),
        }
        self.workspaces.put_back(workspace);
        Ok(())
    }
}

/// Holds what a layer takes, packed and unpacked at once, against the machine's memory.
fn check_size(config: &Config, dims: &Dims) -> Result<()> {
    let counts =
        parameter_list(config, dims).into_iter().map(|info| memory::product(&info.name, &info.shape));
    let mut total = 0usize;
    for count in counts {
        total = total
            .checked_add(count?)
            .ok_or_else(|| Error::new(ErrorKind::OutOfMemory, "the layer's parameters overflow memory"))?;
    }
    memory::check_fits(
        "the layer",
        memory::bytes_of::<f32>("the layer", memory::product("the layer", &[total, 2])?)?,
    )
}
