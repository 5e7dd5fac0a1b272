//! A layer on a device: the one path of tokens through it, stage by stage as in `layer/forward.rs`.

use std::ops::Range;
use std::sync::PoisonError;

use super::driver::{Current, Gpu, Launch, MAX_SHARED, OwnStream, Stream, available, int};
use super::kernels::{
    Address, ConvArgs, ConvTileArgs, CopyArgs, HistoryArgs, Kernel, ProductArgs, ScanArgs, Sequences,
    StepArgs, StepScanArgs, Storage,
};
use super::parameters::{self, Parameters};
use super::product::{Convolutions, FEW_ROWS, Few, Linear, Products, Rows};
use super::state::State;
use super::workspace::{Workspace, Workspaces};
use crate::error::{Error, Result, fail};
use crate::layer::{Config, Dims, Math, Variant};
use crate::memory::product;
use crate::tensor::DType;

/// The most states a channel may have.
pub const MAX_D_STATE: usize = 256;
/// Rows that go through all stages together at least, where there are as many, and at most. In between it is half of
/// them, so that the intermediate results of one half take no more than two thirds of the whole call's tensors; all of
/// them where the scan computes δ, so that there are but two such tensors, each half of the (rows, 2 d_inner) of in_proj.
const MIN_BLOCK: usize = 2048;
const MAX_BLOCK: usize = 16384;
/// The scan takes its tokens by so many.
const TILE: usize = 16;
/// Threads of a block of the scan, of that of 16 states, and of that with dt_proj: two trios of warps for 32 channels each.
const THREADS: usize = 128;
const SCAN_16_THREADS: usize = 64;
const TRIOS: usize = 2;
const TRIO_CHANNELS: usize = 32;
/// The largest dt_rank with which dt_proj is part of the scan.
const MOST_RANK: usize = 128;
/// Rows that are taken as steps, branches and taps of those whose convolutions are computed with in_proj; all at most.
const MAX_STEPS: usize = 256;
const STEP_BRANCHES: usize = 8;
const STEP_TAPS: usize = 4;
/// Sequences that a block of their scan takes where there are many.
const STEP_SCANS: usize = 4;
/// Bytes of shared memory that a kernel gets without asking.
const DEFAULT_SHARED: usize = 48 << 10;
/// Chunks of a scan, at most.
const MAX_CHUNKS: usize = 64;
/// Sides of a grid beyond the first.
const MAX_GRID: usize = 65535;

/// A layer's parameters on a device, and what computes with them. Shared references may be used from many threads.
#[derive(Debug)]
pub struct Engine {
    gpu: &'static Gpu,
    variant: Variant,
    dims: Dims,
    dilations: Vec<usize>,
    storage: Storage,
    parameters: Parameters,
    products: Products,
    workspaces: Workspaces,
}

/// The sequences of a call.
#[derive(Clone, Copy, Debug)]
pub struct Calls<'a> {
    /// How many.
    pub count: usize,
    /// Tokens of each, or of the longest.
    pub seqlen: usize,
    /// Where each one's rows begin, and where the last one's end, `count` + 1 in all; where there is none, one after
    /// the other.
    pub starts: Option<&'a [usize]>,
    /// The lane of each in the state; where there is none, their own numbers.
    pub lanes: Option<&'a [usize]>,
}

impl Calls<'_> {
    /// `count` sequences of `seqlen` tokens.
    pub fn uniform(count: usize, seqlen: usize) -> Self {
        Calls { count, seqlen, starts: None, lanes: None }
    }

    /// Tokens in all.
    pub fn rows(&self) -> usize {
        self.starts.map_or(self.count * self.seqlen, |starts| starts[self.count] - starts[0])
    }
}

/// A tensor of tokens on the device, of any type and strides: (sequences, tokens, d_model).
#[derive(Clone, Copy, Debug)]
pub struct DeviceTokens {
    /// Of the first value.
    pub address: Address,
    /// Of the values.
    pub dtype: DType,
    /// Values from one to the next along each side.
    pub strides: [i64; 3],
}

/// A call of the host's on its way.
#[derive(Debug)]
pub struct Started<'a> {
    engine: &'a Engine,
    state: Option<&'a State>,
    own: (OwnStream, Workspace),
}

impl Started<'_> {
    /// Waits for the outputs and copies them to `y`, as long as the input was.
    ///
    /// # Errors
    /// `Cuda`; the state is then undefined.
    pub fn finish(self, y: &mut [f32]) -> Result<()> {
        let Started { engine, state, own } = self;
        own.1.tokens[2].read(own.0.stream(), 0, y)?;
        if let Some(state) = state {
            state.set_undefined(false);
        }
        engine.workspaces.put_back(own);
        Ok(())
    }
}

/// Some rows on their way through the stages.
struct Block<'a> {
    /// Sequences of it, rows of the longest, rows of all.
    count: usize,
    seqlen: usize,
    rows: usize,
    /// Whether the sequences' rows follow each other in x and y, as they do in the workspace.
    contiguous: bool,
    sequences: Sequences,
    state: Option<&'a State>,
    /// Whether the state's history is not needed any more.
    is_last: bool,
}

/// What a layer of `config` is stored as, if its device is there and computes such layers.
///
/// # Errors
/// `Cuda` with the reason, `Unsupported` naming the field.
pub fn check(config: &Config) -> Result<Storage> {
    let named = |error: Error| Error::new(error.kind(), format!("device is CUDA, but {}", error.message()));
    let (index, count) = (config.device_index, available().map_err(named)?);
    if index >= count {
        let devices = if count == 1 { "device" } else { "devices" };
        fail!(Cuda, "device_index is {index}; the CUDA driver finds {count} {devices}");
    }
    let Some(storage) = Storage::of(config.dtype) else {
        fail!(Unsupported, "dtype is {:?}; on a GPU there are layers of F32, Bf16 and F16", config.dtype);
    };
    if config.d_state > MAX_D_STATE {
        fail!(Unsupported, "d_state is {}; on a GPU it may be at most {MAX_D_STATE}", config.d_state);
    }
    Ok(storage)
}

impl Engine {
    /// A layer of zeros on device `config.device_index`.
    ///
    /// # Errors
    /// Those of [`check`]; `Cuda` where the device has no room, or a size is beyond what the kernels take.
    pub fn new(config: &Config, dims: &Dims) -> Result<Engine> {
        let storage = check(config)?;
        let gpu = Gpu::get(config.device_index)?;
        gpu.load(storage)?;
        // The kernels count the bytes of a row in 32 bits.
        let sizes = [
            ("4 · d_model", product("d_model", &[4, dims.d_model])?),
            ("8 · d_inner", product("d_inner", &[8, dims.d_inner])?),
            ("4 · branches · d_inner", product("d_inner", &[4, dims.branches, dims.d_inner])?),
            ("dt_rank", dims.dt_rank),
            ("d_conv", dims.d_conv),
            ("num_conv_dilations", dims.branches),
        ];
        for (what, size) in sizes {
            int(what, size)?;
        }
        for &len in &dims.conv_state_lens {
            int("(d_conv - 1) · dilation + 1", len)?;
        }
        Ok(Engine {
            gpu,
            variant: config.variant,
            dims: dims.clone(),
            dilations: config.conv_dilations.clone(),
            storage,
            parameters: Parameters::zeroed(gpu, storage, config, dims)?,
            products: Products::new(gpu, storage, config.math == Math::Tf32),
            workspaces: Workspaces::new(gpu),
        })
    }

    /// The device it is on.
    pub fn gpu(&self) -> &'static Gpu {
        self.gpu
    }

    /// What its matrices, inputs and outputs are stored as.
    pub fn storage(&self) -> Storage {
        self.storage
    }

    /// The parameters, by canonical name.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// See [`Engine::parameters`].
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    /// A state of so many lanes that have seen nothing.
    ///
    /// # Errors
    /// As [`State::new`].
    pub fn new_state(&self, lanes: usize) -> Result<State> {
        State::new(self.gpu, self.variant, &self.dims, lanes)
    }

    /// Begins to take tokens of the host, (rows, d_model), through the layer; `x` is no longer needed afterwards.
    ///
    /// # Errors
    /// `Cuda`; the state is then undefined.
    pub fn start<'a>(&'a self, x: &[f32], calls: Calls<'_>, state: Option<&'a State>) -> Result<Started<'a>> {
        assert_eq!(x.len(), calls.rows() * self.dims.d_model);
        // A caller's stream may still be at the state. Else nothing is: what other threads have on the device can go on.
        if state.is_some_and(State::is_on_streams) {
            self.gpu.synchronize()?;
        }
        let current = self.gpu.enter()?;
        let mut own = self.workspaces.take()?;
        let (stream, workspace) = (own.0.stream(), &mut own.1);
        let Workspace { tokens: [typed, _, floats], retired, .. } = workspace;
        let is_direct = self.storage == Storage::F32;
        retired.grow(self.gpu, floats, size_of_val(x))?;
        if !is_direct {
            retired.grow(self.gpu, typed, x.len() * self.storage.size())?;
        }
        floats.write(stream, x)?;
        let address = if is_direct { floats.address() } else { typed.address() };
        let as_floats = self.contiguous(floats.address(), Storage::F32, calls);
        let as_stored = self.contiguous(address, self.storage, calls);
        if !is_direct {
            self.copy(stream, as_floats, as_stored, [1, calls.rows()])?;
        }
        self.run(&current, stream, workspace, [address; 2], calls, state)?;
        if !is_direct {
            self.copy(stream, as_stored, as_floats, [1, calls.rows()])?;
        }
        Ok(Started { engine: self, state, own })
    }

    /// Enqueues a call on the caller's stream. What it reads and writes has been checked; `x` and `y` are the same tensor,
    /// or do not overlap. Once a call of its shape has been made on the stream, nothing is allocated.
    ///
    /// # Errors
    /// `Cuda`; the state is then undefined.
    ///
    /// # Safety
    /// Tensors and stream are of this device, and the tensors as large as the call says.
    pub unsafe fn enqueue(
        &self,
        [x, y]: [DeviceTokens; 2],
        calls: Calls<'_>,
        state: Option<&State>,
        stream: Stream,
    ) -> Result<()> {
        let rows = calls.rows();
        let bytes = product("x", &[rows, self.dims.d_model, self.storage.size()])?;
        if bytes == 0 {
            return Ok(());
        }
        if let Some(state) = state {
            state.set_on_streams();
        }
        let current = self.gpu.enter()?;
        let workspace = self.workspaces.of(stream)?;
        let mut workspace = workspace.lock().unwrap_or_else(PoisonError::into_inner);
        let workspace = &mut *workspace;
        let mut addresses = [x.address, y.address];
        let is_direct = [x, y].map(|tensor| self.is_direct(tensor, calls));
        for i in 0..2 {
            if !is_direct[i] {
                workspace.retired.grow(self.gpu, &mut workspace.tokens[i], bytes)?;
                addresses[i] = workspace.tokens[i].address();
            }
        }
        let sides = if calls.starts.is_some() { [1, rows] } else { [calls.count, calls.seqlen] };
        if !is_direct[0] {
            self.copy(stream, x, self.contiguous(addresses[0], self.storage, calls), sides)?;
        }
        self.run(&current, stream, workspace, addresses, calls, state)?;
        if !is_direct[1] {
            self.copy(stream, self.contiguous(addresses[1], self.storage, calls), y, sides)?;
        }
        if let Some(state) = state {
            state.set_undefined(false);
        }
        Ok(())
    }

    /// Whether the stages can read or write the tensor where it is.
    fn is_direct(&self, tensor: DeviceTokens, calls: Calls<'_>) -> bool {
        let own = self.contiguous(0, self.storage, calls);
        let sides = if calls.starts.is_some() { [1, calls.rows()] } else { [calls.count, calls.seqlen] };
        let lies_as = |side: usize, size: usize| size < 2 || tensor.strides[side] == own.strides[side];
        tensor.dtype == own.dtype
            && lies_as(0, sides[0])
            && lies_as(1, sides[1])
            && lies_as(2, self.dims.d_model)
    }

    fn contiguous(&self, address: Address, storage: Storage, calls: Calls<'_>) -> DeviceTokens {
        let d_model = self.dims.d_model as i64;
        let seqlen = if calls.starts.is_some() { calls.rows() } else { calls.seqlen };
        DeviceTokens { address, dtype: storage.dtype(), strides: [seqlen as i64 * d_model, d_model, 1] }
    }

    fn copy(&self, stream: Stream, from: DeviceTokens, to: DeviceTokens, sides: [usize; 2]) -> Result<()> {
        let arguments = CopyArgs {
            from: from.address,
            to: to.address,
            from_strides: from.strides,
            to_strides: to.strides,
            sides: [sides[0], sides[1], self.dims.d_model].map(|side| side as i64),
            from_type: from.dtype as u32,
            to_type: to.dtype as u32,
        };
        // SAFETY: tensors of the call, as large as it says.
        unsafe { parameters::copy(self.gpu, stream, self.storage, &arguments) }
    }

    /// Enqueues all blocks of a call whose tokens are contiguous.
    fn run(
        &self,
        _current: &Current,
        stream: Stream,
        workspace: &mut Workspace,
        tokens: [Address; 2],
        calls: Calls<'_>,
        state: Option<&State>,
    ) -> Result<()> {
        let rows = calls.rows();
        int("the number of tokens", rows)?;
        let most = match rows {
            ..=MIN_BLOCK => rows,
            _ if self.scan_takes_dt_proj() && calls.starts.is_none() => rows.min(MAX_BLOCK),
            _ => rows.div_ceil(2).clamp(MIN_BLOCK, MAX_BLOCK),
        };
        self.write_indices(stream, workspace, calls)?;
        let indices = workspace.indices.address();
        let starts = if calls.starts.is_some() { indices } else { 0 };
        let lanes = match calls.lanes {
            Some(_) => indices + 4 * calls.starts.map_or(0, <[usize]>::len) as u64,
            None => 0,
        };
        let of = |address: Address, index: usize| if address == 0 { 0 } else { address + 4 * index as u64 };
        let Some(begins) = calls.starts else {
            return self.run_uniform(stream, workspace, tokens, calls, 0..calls.count, most, lanes, state);
        };
        let mut first = 0;
        while first < calls.count {
            let mut last = first + 1;
            while last < calls.count && last - first < MAX_GRID && begins[last + 1] - begins[first] <= most {
                last += 1;
            }
            let block_rows = begins[last] - begins[first];
            let offset = ((begins[first] - begins[0]) * self.dims.d_model * self.storage.size()) as u64;
            let tokens = tokens.map(|address| address + offset);
            if last - first == 1 {
                let one = Calls { seqlen: block_rows, starts: None, ..calls };
                self.run_uniform(stream, workspace, tokens, one, first..last, most, lanes, state)?;
            } else if block_rows > 0 {
                let seqlen = (first..last).map(|i| begins[i + 1] - begins[i]).max().unwrap_or(0);
                let sequences = Sequences {
                    starts: of(starts, first),
                    lanes: of(lanes, first),
                    seqlen: 0,
                    first_lane: first as i32,
                };
                let block = Block {
                    count: last - first,
                    seqlen,
                    rows: block_rows,
                    contiguous: true,
                    sequences,
                    state,
                    is_last: false,
                };
                self.block(
                    stream,
                    workspace,
                    tokens.map(|address| Rows::new(address, self.dims.d_model)),
                    &block,
                )?;
            }
            first = last;
        }
        Ok(())
    }

    /// The blocks of `range` of the sequences, all of `calls.seqlen` tokens from where `tokens` begin: groups of
    /// sequences, and each group's tokens in pieces.
    #[allow(clippy::too_many_arguments)]
    fn run_uniform(
        &self,
        stream: Stream,
        workspace: &mut Workspace,
        tokens: [Address; 2],
        calls: Calls<'_>,
        range: Range<usize>,
        most: usize,
        lanes: Address,
        state: Option<&State>,
    ) -> Result<()> {
        const FEW_TOKENS: usize = 256;
        let seqlen = calls.seqlen;
        if seqlen == 0 {
            return Ok(());
        }
        let group = (most / seqlen.min(FEW_TOKENS)).clamp(1, range.len().min(MAX_GRID));
        let pieces = (group * seqlen).div_ceil(most);
        let piece = if pieces == 1 { seqlen } else { seqlen.div_ceil(pieces).next_multiple_of(TILE) };
        let mut own = workspace.state.take();
        // A captured graph may still use it, whatever fails here.
        let mut run = || -> Result<()> {
            if state.is_none() && piece < seqlen {
                workspace.retired.grow_state(&mut own, group, || self.new_state(group))?;
            }
            let own_in_use = own.as_ref().filter(|_| state.is_none() && piece < seqlen);
            let row_bytes = self.dims.d_model * self.storage.size();
            for first in range.clone().step_by(group) {
                let count = group.min(range.end - first);
                if let Some(own) = own_in_use {
                    own.enqueue_reset(stream)?;
                }
                for token in (0..seqlen).step_by(piece) {
                    let piece = piece.min(seqlen - token);
                    let offset = (((first - range.start) * seqlen + token) * row_bytes) as u64;
                    let tokens = tokens.map(|address| Rows {
                        address: address + offset,
                        stride: self.dims.d_model,
                        batch_stride: seqlen * self.dims.d_model,
                    });
                    let sequences = Sequences {
                        starts: 0,
                        lanes: if lanes == 0 || own_in_use.is_some() { 0 } else { lanes + 4 * first as u64 },
                        seqlen: piece as i32,
                        first_lane: if own_in_use.is_some() { 0 } else { first as i32 },
                    };
                    let block = Block {
                        count,
                        seqlen: piece,
                        rows: count * piece,
                        contiguous: piece == seqlen || count == 1,
                        sequences,
                        state: state.or(own_in_use),
                        is_last: own_in_use.is_some() && token + piece == seqlen,
                    };
                    self.block(stream, workspace, tokens, &block)?;
                }
            }
            Ok(())
        };
        let done = run();
        workspace.state = own;
        done
    }

    /// Beginnings and lanes of the sequences, where they are not what the kernels assume.
    fn write_indices(&self, stream: Stream, workspace: &mut Workspace, calls: Calls<'_>) -> Result<()> {
        let all = calls.starts.into_iter().flatten().chain(calls.lanes.into_iter().flatten());
        let indices: Vec<i32> = all.map(|&index| int("an index", index)).collect::<Result<_>>()?;
        workspace.retired.grow(self.gpu, &mut workspace.indices, indices.len() * 4)?;
        workspace.indices.write(stream, &indices)
    }

    /// One block of rows, stage by stage.
    fn block(
        &self,
        stream: Stream,
        workspace: &mut Workspace,
        [x, y]: [Rows; 2],
        block: &Block<'_>,
    ) -> Result<()> {
        let p = &self.parameters;
        let Dims { d_inner, d_state, dt_rank, branches, .. } = self.dims;
        let rows = block.rows;
        let size = self.storage.size();
        let wide = dt_rank + 2 * d_state;
        let bytes = |columns: usize| product("the workspace", &[rows, columns, size]);
        let Workspace { xz, u, apart, projected, products, retired, .. } = workspace;
        let inner = bytes(2 * d_inner)?;
        let steps = self.steps(block);
        // Then z is computed when x, whose place it takes, is no longer needed.
        let with_dt = steps.is_none() && self.scans_16(block) && self.scan_takes_dt_proj();
        retired.grow(self.gpu, xz, if with_dt { inner / 2 } else { inner })?;
        retired.grow(self.gpu, u, inner / 2)?;
        retired.grow(self.gpu, projected, bytes(wide)?)?;
        // What cuBLASLt's choices want: in f32, parts of each sum with few rows, and 1 MiB with 256 of d_model 512, where
        // less makes some slower and more changes nothing; in types of 16 bits hardly anything, and with many rows kernels
        // that want nothing are as fast or faster, without the zeros that others need first.
        const MANY: usize = 4096;
        let least = if self.storage == Storage::F32 { 1 << 20 } else { 256 << 10 };
        let wanted = if rows <= FEW_ROWS || (rows >= MANY && self.storage != Storage::F32) {
            0
        } else if rows <= 64 {
            4 << 20
        } else {
            (inner / 4).clamp(least, 32 << 20)
        };
        retired.grow(self.gpu, products, wanted)?;
        if self.variant == Variant::Dpwc {
            retired.grow(self.gpu, apart, bytes(branches * d_inner)?)?;
        }
        if let Some(state) = block.state {
            state.set_undefined(true);
        }
        // Not what there is: the choices would hang on what was called before.
        let products = (products.address(), wanted);
        let [xz, u, apart, projected] = [xz, u, apart, projected].map(|memory| memory.address());
        let apply = |linear: &Linear, x: Rows, y: Rows, shape: [usize; 2]| {
            // SAFETY: x and y are the caller's or the workspace's, of these rows.
            unsafe { self.products.apply(stream, linear, [x, y], shape, products) }
        };
        let whole = [1, rows];
        let as_tokens = if block.contiguous { whole } else { [block.count, block.seqlen] };

        // [x, z] = in_proj(h)
        let width = if with_dt { d_inner } else { 2 * d_inner };
        let both = Rows { address: xz, stride: width, batch_stride: block.seqlen * width };
        if let Some(state) = steps {
            let apart = Rows::new(apart, branches * d_inner);
            return self.step(
                stream,
                block,
                state,
                [x, y],
                both,
                apart,
                Rows::new(u, d_inner),
                projected,
                products,
            );
        }
        apply(&p.in_proj().part(0, width, self.storage), x, both, as_tokens)?;

        // u = the front end of x
        let mut u = Rows::new(u, d_inner);
        let mut free = Rows::new(xz, width);
        match (self.variant, p.pointwise()) {
            (Variant::Stcn, _) => {
                for i in 0..branches {
                    self.conv(stream, block, i..i + 1, i, free, u, 0)?;
                    std::mem::swap(&mut u, &mut free);
                }
                std::mem::swap(&mut u, &mut free);
            }
            (_, Some(pointwise)) => {
                let apart = Rows::new(apart, branches * d_inner);
                self.conv(stream, block, 0..branches, 0, free, apart, d_inner)?;
                apply(&pointwise, apart, u, whole)?;
            }
            _ => self.conv(stream, block, 0..branches, 0, free, u, 0)?,
        }

        // [r, B, C] = x_proj(u), δ before its bias and softplus = dt_proj(r)
        let r = Rows::new(projected, wide);
        apply(&p.x_proj(), u, r, whole)?;
        let (delta, z) = if with_dt {
            let z = Rows { batch_stride: block.seqlen * free.stride, ..free };
            apply(&p.in_proj().part(d_inner, d_inner, self.storage), x, z, as_tokens)?;
            (None, z)
        } else {
            apply(&p.dt_proj(), r, free, whole)?;
            (Some(free), Rows::new(xz + (d_inner * size) as u64, width))
        };

        // s_t = exp(δA) ⊙ s_{t−1} + (δu)Bᵀ, y = (sC + D ⊙ u) ⊙ silu(z)
        self.scan(stream, workspace, block, u, delta, z, projected)?;

        // out = out_proj(y)
        let inner = Rows { batch_stride: block.seqlen * u.stride, ..u };
        apply(&p.out_proj(), inner, y, as_tokens)
    }

    /// The state of a block that is one token of a few sequences, whose stages take fewer and shorter kernels.
    fn steps<'a>(&self, block: &Block<'a>) -> Option<&'a State> {
        // The last token of sequences that have been cut is one of each too, but lies a sequence from the next.
        let fits = block.seqlen == 1
            && block.contiguous
            && block.rows == block.count
            && block.sequences.starts == 0
            && block.rows <= MAX_STEPS
            && STEP_SCANS * self.staged() <= DEFAULT_SHARED
            && self.variant != Variant::Stcn;
        block.state.filter(|_| fits)
    }

    /// Bytes of shared memory that a sequence takes in a step's scan: r, B and C in f32, each up to a multiple of 16.
    fn staged(&self) -> usize {
        4 * (self.dims.dt_rank.next_multiple_of(16) + 2 * self.dims.d_state.next_multiple_of(16))
    }

    /// The stages of such a block: in_proj with the convolutions, x_proj, dt_proj with the scan, out_proj.
    #[allow(clippy::too_many_arguments)]
    fn step(
        &self,
        stream: Stream,
        block: &Block<'_>,
        state: &State,
        [x, y]: [Rows; 2],
        both: Rows,
        apart: Rows,
        u: Rows,
        projected: Address,
        products: (Address, usize),
    ) -> Result<()> {
        let p = &self.parameters;
        let Dims { d_inner, dt_rank, d_state, branches, .. } = self.dims;
        let (rows, size) = (block.rows, self.storage.size());
        let pointwise = p.pointwise();
        let (out, distance) = if pointwise.is_some() { (apart, d_inner) } else { (u, 0) };
        let mut dilations = [0; STEP_BRANCHES];
        for (to, &dilation) in dilations.iter_mut().zip(&self.dilations) {
            *to = dilation as i32;
        }
        let apply = |linear: &Linear, x: Rows, y: Rows| {
            // SAFETY: tensors of the caller, the workspace and the state, as large as the block says.
            unsafe { self.products.apply(stream, linear, [x, y], [1, rows], products) }
        };
        // That the next kernel begins at once pays where the chip has room for all of them.
        let hurried = |linear: Linear| Linear { hurry: rows == 1, ..linear };
        let [in_proj, x_proj] = [p.in_proj(), p.x_proj()].map(hurried);
        let convolutions = Convolutions { channels: d_inner, branches };
        let small = branches <= STEP_BRANCHES && self.dims.d_conv <= STEP_TAPS;
        let few = if small { self.products.few(&in_proj, [x, both], rows, Some(convolutions)) } else { None };
        let conv = self.conv_args(block, 0..branches, 0, both, out, distance);
        if let Some(Few { arguments, launch, kernels }) = few {
            let arguments = StepArgs { product: arguments, conv, dilations };
            // SAFETY: as above.
            unsafe { self.gpu.launch_with(stream, kernels[1], self.storage, launch, &arguments) }?;
        } else {
            apply(&p.in_proj(), x, both)?;
            if small {
                let grid = [d_inner.div_ceil(THREADS), rows, 1];
                let threads = [THREADS as u32, 1];
                let arguments = StepArgs { product: ProductArgs::default(), conv, dilations };
                // SAFETY: as above.
                unsafe {
                    self.gpu.launch(stream, Kernel::StepConv, self.storage, grid, threads, &arguments)
                }?;
            } else {
                self.conv(stream, block, 0..branches, 0, both, out, distance)?;
            }
        }
        if let Some(pointwise) = &pointwise {
            apply(pointwise, apart, u)?;
        }
        let r = Rows::new(projected, dt_rank + 2 * d_state);
        apply(&x_proj, u, r)?;
        let z = Rows::new(both.address + (d_inner * size) as u64, both.stride);
        let arguments = StepScanArgs {
            scan: self.scan_args(block, u, Rows::new(0, 0), z, projected),
            rows: rows as i32,
            hurry: self.products.few(&p.out_proj(), [u, y], rows, None).is_some().into(),
        };
        debug_assert_eq!(arguments.scan.lanes as usize, state.lanes());
        // Where one sequence a block makes more blocks than are there at once, weights are read for several of them.
        let blocks = d_inner.div_ceil(THREADS / 4);
        let many = blocks * rows > 8 * self.gpu.multiprocessors() as usize;
        let (kernel, at_once) = if many { (Kernel::StepScans, STEP_SCANS) } else { (Kernel::StepScan, 1) };
        let launch = Launch {
            grid: [blocks + 1, rows.div_ceil(at_once), 1],
            block: [THREADS as u32, 1],
            shared: (at_once * self.staged()) as u32,
            ..Launch::default()
        };
        // SAFETY: as above.
        unsafe { self.gpu.launch_with(stream, kernel, self.storage, launch, &arguments) }?;
        apply(&p.out_proj(), u, y)
    }

    fn conv_args(
        &self,
        block: &Block<'_>,
        branches: Range<usize>,
        history: usize,
        x: Rows,
        out: Rows,
        apart: usize,
    ) -> ConvArgs {
        let [weight, bias, gates, dilations] = self.parameters.conv(branches.start, self.dims.d_conv);
        let (ring, ring_len, positions) = match block.state {
            Some(state) => {
                let (ring, len) = state.ring(history);
                (ring.address(), len, state.positions().address() + (4 * history * state.lanes()) as u64)
            }
            None => (0, 0, 0),
        };
        ConvArgs {
            x: x.address,
            out: out.address,
            weight,
            bias,
            gates,
            dilations,
            ring,
            positions,
            sequences: block.sequences,
            x_stride: x.stride as i64,
            out_stride: out.stride as i64,
            branch_stride: apart as i64,
            channels: self.dims.d_inner as i32,
            taps: self.dims.d_conv as i32,
            branches: branches.len() as i32,
            ring_len: ring_len as i32,
        }
    }

    /// The convolutions of some branches, and their history: into `out`, added up or `apart` values from each other.
    #[allow(clippy::too_many_arguments)]
    fn conv(
        &self,
        stream: Stream,
        block: &Block<'_>,
        branches: Range<usize>,
        history: usize,
        x: Rows,
        out: Rows,
        apart: usize,
    ) -> Result<()> {
        let channels = self.dims.d_inner;
        let arguments = self.conv_args(block, branches.clone(), history, x, out, apart);
        let ConvArgs { ring, ring_len, positions, .. } = arguments;
        const WARPS: usize = 8;
        const ROW_BYTES: usize = 128 * 4;
        const TILE_TOKENS: usize = 64;
        const TILE_WARPS: u32 = 16;
        let span =
            (self.dims.d_conv - 1) * self.dilations[branches.clone()].iter().copied().max().unwrap_or(0);
        let tiles = [channels.div_ceil(128), block.seqlen.div_ceil(TILE_TOKENS), block.count];
        let weights = branches.len() * (self.dims.d_conv + 1);
        let shared = span.saturating_add(TILE_TOKENS + weights).saturating_mul(ROW_BYTES);
        let fits = channels.is_multiple_of(4) && shared <= MAX_SHARED as usize;
        // SAFETY: tensors of the workspace and the state, as large as the block says.
        unsafe {
            if block.seqlen == 1 {
                let grid = [channels.div_ceil(32), 1, block.count];
                self.gpu.launch(stream, Kernel::ConvToken, self.storage, grid, [32, 1], &arguments)?;
            } else if fits && tiles.iter().product::<usize>() >= self.gpu.multiprocessors() as usize {
                let arguments = ConvTileArgs { conv: arguments, span: span as i32 };
                let block = [32, TILE_WARPS];
                let launch = Launch { grid: tiles, block, shared: shared as u32, ..Launch::default() };
                self.gpu.launch_with(stream, Kernel::ConvTile, self.storage, launch, &arguments)?;
            } else {
                let grid = [channels.div_ceil(32), block.seqlen.div_ceil(8 * WARPS), block.count];
                self.gpu.launch(stream, Kernel::Conv, self.storage, grid, [32, WARPS as u32], &arguments)?;
            }
        }
        if block.seqlen == 1 || ring == 0 || block.is_last {
            return Ok(());
        }
        let arguments = HistoryArgs {
            x: x.address,
            ring,
            positions,
            sequences: block.sequences,
            x_stride: x.stride as i64,
            channels: channels as i32,
            ring_len,
        };
        let grid =
            [channels.div_ceil(32), (ring_len as usize).min(block.seqlen).div_ceil(WARPS), block.count];
        // SAFETY: as above.
        unsafe {
            self.gpu.launch(stream, Kernel::History, self.storage, grid, [32, WARPS as u32], &arguments)
        }
    }

    /// The scan: `u` becomes y. Where `delta` is none, dt_proj is part of it.
    #[allow(clippy::too_many_arguments)]
    fn scan(
        &self,
        stream: Stream,
        workspace: &mut Workspace,
        block: &Block<'_>,
        u: Rows,
        delta: Option<Rows>,
        z: Rows,
        projected: Address,
    ) -> Result<()> {
        let Dims { d_inner, d_state, dt_rank, .. } = self.dims;
        let (summary, scan, channels, threads) = match d_state {
            16 if delta.is_none() => {
                (Kernel::SummaryDt16, Kernel::ScanDt16, TRIOS * TRIO_CHANNELS, TRIOS * 96)
            }
            16 if self.scans_16(block) => {
                (Kernel::Summary16, Kernel::Scan16, SCAN_16_THREADS / 2, SCAN_16_THREADS)
            }
            0..=16 => (Kernel::SummaryUpto16, Kernel::ScanUpto16, THREADS / 4, THREADS),
            17..=64 => (Kernel::SummaryUpto64, Kernel::ScanUpto64, THREADS / 16, THREADS),
            _ => (Kernel::SummaryUpto256, Kernel::ScanUpto256, THREADS / 16, THREADS),
        };
        let blocks = d_inner.div_ceil(channels);
        let first_is_ahead = matches!(scan, Kernel::Scan16 | Kernel::ScanDt16);
        let Chunks { len: chunk, first, count: chunks } = if first_is_ahead {
            self.chunks_16(block, blocks * channels / 32)
        } else {
            self.chunks(block, blocks)
        };
        let (mut ends, mut sums) = (0, 0);
        if chunks > 1 {
            let places = product("the workspace", &[block.count, chunks, d_inner])?;
            let bytes = product("the workspace", &[places, 4, d_state + 1])?;
            workspace.retired.grow(self.gpu, &mut workspace.chunks, bytes)?;
            ends = workspace.chunks.address();
            sums = ends + (places * 4 * d_state) as u64;
        }
        let arguments = ScanArgs {
            ends,
            sums,
            chunk: chunk as i32,
            first: first as i32,
            chunks: chunks as i32,
            ..self.scan_args(block, u, delta.unwrap_or(Rows::new(0, 0)), z, projected)
        };
        // With dt_proj each trio has two tiles of r, B and C.
        let tiles = TRIOS * 2 * TILE * (dt_rank + 2 * d_state) * self.storage.size();
        let shared = if delta.is_none() { tiles as u32 } else { 0 };
        let launch = |kernel: Kernel, chunks: usize| {
            let grid = [blocks, chunks, block.count];
            let launch = Launch { grid, block: [threads as u32, 1], shared, ..Launch::default() };
            // SAFETY: tensors of the workspace and the state, as large as the block says.
            unsafe { self.gpu.launch_with(stream, kernel, self.storage, launch, &arguments) }
        };
        if chunks > 1 {
            launch(summary, chunks - 1)?;
        }
        launch(scan, if first_is_ahead && chunks > 1 { chunks - 1 } else { chunks })
    }

    /// Whether the kernels for 16 states can be used, which read 16 bytes of channels, and 4 states, at a time.
    fn scans_16(&self, block: &Block<'_>) -> bool {
        let Dims { d_inner, dt_rank, .. } = self.dims;
        d_inner.is_multiple_of(8) && dt_rank.is_multiple_of(4) && block.sequences.starts == 0
    }

    /// Whether dt_proj can be part of the scan, where that [`Engine::scans_16`].
    fn scan_takes_dt_proj(&self) -> bool {
        let Dims { d_inner, d_state, dt_rank, .. } = self.dims;
        self.storage != Storage::F32
            && d_inner.is_multiple_of(8)
            && d_state == 16
            && dt_rank.is_multiple_of(8)
            && dt_rank <= MOST_RANK
    }

    /// What a scan takes that is one chunk.
    fn scan_args(&self, block: &Block<'_>, u: Rows, delta: Rows, z: Rows, projected: Address) -> ScanArgs {
        let Dims { d_inner, d_state, dt_rank, .. } = self.dims;
        let [a, skip, delta_bias] = self.parameters.scan();
        let size = self.storage.size();
        let column = |column: usize| projected + (column * size) as u64;
        let state = block.state;
        ScanArgs {
            u: u.address,
            delta: delta.address,
            z: z.address,
            b: column(dt_rank),
            c: column(dt_rank + d_state),
            r: projected,
            dt_weight: self.parameters.dt_proj().weight,
            a,
            skip,
            delta_bias,
            state: state.map_or(0, |state| state.ssm().address()),
            ends: 0,
            sums: 0,
            positions: state.map_or(0, |state| state.positions().address()),
            ring_lens: state.map_or(0, |state| state.lens().address()),
            seen: state.map_or(0, |state| state.seen().address()),
            sequences: block.sequences,
            u_stride: u.stride as i32,
            delta_stride: delta.stride as i32,
            z_stride: z.stride as i32,
            bc_stride: (dt_rank + 2 * d_state) as i32,
            channels: d_inner as i32,
            states: d_state as i32,
            chunk: block.seqlen as i32,
            first: block.seqlen as i32,
            chunks: 1,
            lanes: state.map_or(0, State::lanes) as i32,
            histories: state.map_or(0, State::histories) as i32,
            rank: dt_rank as i32,
        }
    }

    /// Into what chunks the scan takes tokens: more than one only where the blocks of threads, four warps each, would
    /// leave much of the chip idle, for it costs the exponentials twice.
    fn chunks(&self, block: &Block<'_>, blocks: usize) -> Chunks {
        const WANTED: usize = 3; // blocks on a multiprocessor
        const MIN_CHUNK: usize = 64;
        let wanted = WANTED * self.gpu.multiprocessors() as usize;
        let blocks = blocks * block.count;
        let chunks = if blocks * 2 > wanted { 1 } else { wanted / blocks };
        let chunks = chunks.min(block.seqlen / MIN_CHUNK).clamp(1, MAX_CHUNKS);
        let len = block.seqlen.div_ceil(chunks).next_multiple_of(TILE);
        Chunks { len, first: len, count: block.seqlen.div_ceil(len) }
    }

    /// The same for 16 states, two warps of which have 32 channels. The first chunk is computed with the summaries of those
    /// between it and the last, and is shorter, for a summary takes nine tenths of a chunk's time.
    fn chunks_16(&self, block: &Block<'_>, blocks: usize) -> Chunks {
        const WANTED: usize = 4; // blocks of 32 channels on a multiprocessor
        const MIN_CHUNK: usize = 64;
        const MIN_CHUNKS: usize = 4; // fewer take longer than one
        let seqlen = block.seqlen;
        let at_once = WANTED * self.gpu.multiprocessors() as usize / (blocks * block.count);
        let chunks = (at_once + 1).min(seqlen / MIN_CHUNK).min(MAX_CHUNKS);
        if chunks < MIN_CHUNKS {
            return Chunks { len: seqlen, first: seqlen, count: 1 };
        }
        let len = (10 * seqlen).div_ceil(10 * chunks - 1).next_multiple_of(TILE);
        let count = seqlen.div_ceil(len);
        Chunks { len, first: seqlen - (count - 1) * len, count }
    }
}

/// The tokens of a scan, in pieces that are computed at once.
struct Chunks {
    /// Tokens of a chunk, and of the first one.
    len: usize,
    first: usize,
    count: usize,
}
