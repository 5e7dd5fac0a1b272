//! y = x weightᵀ + bias on the device: cuBLASLt for many rows, a kernel that reads each weight once for few.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::{Mutex, PoisonError};

use cudarc::cublaslt::sys::{self as blas, cudaDataType};

use super::driver::{Gpu, Launch, Stream, check_blas};
use super::kernels::{Address, Kernel, ProductArgs, Storage};
use crate::error::Result;

/// CUBLAS_OP_T, which cudarc has beside cuBLAS only.
const TRANSPOSED: u64 = 1;
/// Up to so many rows go through the kernel for one, where that for tiles takes none: cuBLASLt has no part in them.
pub const FEW_ROWS: usize = 8;
/// Up to so many, from two on, go through the kernel for tiles.
const TILED_ROWS: usize = 32;
/// Where cuBLASLt's first choice for a true f32 product of up to so many outputs cuts its sums into a few parts of twice
/// this length or more, the first one is taken that cuts them into parts no longer than this: as fast, and more exact.
const FEW_OUTPUTS: usize = 1 << 20;
const LONGEST_SUM: usize = 256;
/// Outputs of a warp of the kernel for one row, and warps of a block.
const OUTPUTS: usize = 2;
const WARPS: usize = 8;
/// Of the kernel for tiles: outputs and threads of a block, bytes of the inputs of a row that go through shared memory
/// at once, the most blocks that share a tile.
const TILE_OUTPUTS: usize = 32;
const TILE_THREADS: u32 = 256;
const CHUNK: usize = 256;
/// Bytes of shared memory that two rows of a chunk take.
const PAIR: usize = 2 * CHUNK + 16;
const MAX_SPLIT: usize = 8;

/// A product with constant weights.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// (outputs, inputs), contiguous.
    pub weight: Address,
    /// (outputs), or 0 for none.
    pub bias: Address,
    /// Values of a row of x.
    pub inputs: usize,
    /// Values of a row of y.
    pub outputs: usize,
    /// Whether the next kernel may begin before this one waits, where this is one of a step's; `begin_next` in layer.cu
    /// tells when.
    pub hurry: bool,
    /// Whether it is out_proj, beside which in_proj of the next step begins.
    pub is_last: bool,
}

impl Linear {
    /// The product with `outputs` rows of the weights from `first` on.
    pub fn part(self, first: usize, outputs: usize, storage: Storage) -> Linear {
        assert!(first + outputs <= self.outputs);
        let behind = |address: Address, values: usize| match address {
            0 => 0,
            _ => address + (values * storage.size()) as u64,
        };
        Linear {
            weight: behind(self.weight, first * self.inputs),
            bias: behind(self.bias, first),
            outputs,
            ..self
        }
    }
}

/// Rows of a tensor: `batches` times `rows`, each `stride` values after the one before, the batches `batch_stride`.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// Of the first value.
    pub address: Address,
    /// See above.
    pub stride: usize,
    /// See above.
    pub batch_stride: usize,
}

impl Rows {
    /// Rows without batches.
    pub fn new(address: Address, stride: usize) -> Rows {
        Rows { address, stride, batch_stride: 0 }
    }
}

/// The convolutions that a step computes with in_proj.
#[derive(Clone, Copy, Debug)]
pub struct Convolutions {
    /// d_inner; the product has twice as many outputs.
    pub channels: usize,
    /// How many there are.
    pub branches: usize,
}

/// A product, or one with what a step does besides, by a kernel of our own.
#[derive(Clone, Copy, Debug)]
pub struct Few {
    /// What it takes.
    pub arguments: ProductArgs,
    /// How it is spread.
    pub launch: Launch,
    /// For the product alone, and with the convolutions of a step.
    pub kernels: [Kernel; 2],
}

/// How a product of few rows is cut into tiles of 32 outputs.
struct Tiling {
    /// Rows of a tile.
    height: usize,
    /// Blocks that share a tile.
    split: usize,
    launch: Launch,
}

/// All that cuBLASLt's choice of an algorithm depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    rows: usize,
    batches: usize,
    weight: Address,
    sides: [usize; 2],
    strides: [usize; 4],
    /// Of the weights, x and y.
    alignments: [u32; 3],
    workspace: usize,
}

/// cuBLASLt's descriptions of one product, and the algorithm it chose.
#[derive(Debug)]
struct Plan {
    product: blas::cublasLtMatmulDesc_t,
    layouts: [blas::cublasLtMatrixLayout_t; 3],
    algorithm: blas::cublasLtMatmulAlgo_t,
}

// SAFETY: plain memory behind pointers, which nobody changes after creation.
unsafe impl Send for Plan {}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: created by `Plan::new`, and destroyed nowhere else; null is refused without harm.
        unsafe {
            if !self.product.is_null() {
                blas::cublasLtMatmulDescDestroy(self.product);
            }
            for layout in self.layouts.into_iter().filter(|layout| !layout.is_null()) {
                blas::cublasLtMatrixLayoutDestroy(layout);
            }
        }
    }
}

/// The products of a layer, with the algorithms found so far.
#[derive(Debug)]
pub struct Products {
    gpu: &'static Gpu,
    storage: Storage,
    tf32: bool,
    /// `None` where cuBLASLt has no algorithm.
    plans: Mutex<HashMap<Key, Option<Plan>>>,
}

impl Products {
    /// None as yet.
    pub fn new(gpu: &'static Gpu, storage: Storage, tf32: bool) -> Products {
        Products { gpu, storage, tf32: tf32 && storage == Storage::F32, plans: Mutex::default() }
    }

    /// Enqueues the product of `batches` times `rows` rows. `workspace` is cuBLASLt's, address and bytes. The device is
    /// current.
    ///
    /// # Errors
    /// `Cuda`
    ///
    /// # Safety
    /// The tensors are on the device and as large as told.
    pub unsafe fn apply(
        &self,
        stream: Stream,
        linear: &Linear,
        [x, y]: [Rows; 2],
        [batches, rows]: [usize; 2],
        workspace: (Address, usize),
    ) -> Result<()> {
        if batches * rows == 0 {
            return Ok(());
        }
        if batches == 1
            && let Some(Few { arguments, launch, kernels }) = self.few(linear, [x, y], rows, None)
        {
            // SAFETY: the caller's promise.
            return unsafe { self.gpu.launch_with(stream, kernels[0], self.storage, launch, &arguments) };
        }
        let alignment = |address: Address| 1 << address.trailing_zeros().min(8);
        let key = Key {
            rows,
            batches,
            weight: linear.weight,
            sides: [linear.inputs, linear.outputs],
            strides: [x.stride, x.batch_stride, y.stride, y.batch_stride],
            alignments: [linear.weight, x.address, y.address].map(alignment),
            workspace: workspace.1,
        };
        const KEPT: usize = 512;
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if plans.len() >= KEPT && !plans.contains_key(&key) {
            plans.clear();
        }
        let plan = match plans.entry(key) {
            std::collections::hash_map::Entry::Occupied(plan) => plan.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => place.insert(self.plan(&key, linear)?),
        };
        let Some(plan) = plan else {
            for batch in 0..batches {
                let [x, y] = [x, y].map(|rows| Rows {
                    address: rows.address + (batch * rows.batch_stride * self.storage.size()) as u64,
                    ..rows
                });
                // SAFETY: the caller's promise.
                unsafe { self.any(stream, linear, [x, y], rows) }?;
            }
            return Ok(());
        };
        let (one, zero) = (1.0_f32, 0.0_f32);
        let pointer = |address: Address| address as *mut c_void;
        // SAFETY: the caller's promise; cuBLASLt reads the scales before it returns.
        check_blas("cublasLtMatmul", unsafe {
            blas::cublasLtMatmul(
                self.gpu.blas(),
                plan.product,
                std::ptr::from_ref(&one).cast(),
                pointer(linear.weight),
                plan.layouts[0],
                pointer(x.address),
                plan.layouts[1],
                std::ptr::from_ref(&zero).cast(),
                pointer(y.address),
                plan.layouts[2],
                pointer(y.address),
                plan.layouts[2],
                &plan.algorithm,
                pointer(workspace.0),
                workspace.1,
                stream.handle().cast(),
            )
        })
    }

    /// Row-major y = x wᵀ is column-major yᵀ = (wᵀ)ᵀ xᵀ, which is how cuBLASLt sees it.
    fn plan(&self, key: &Key, linear: &Linear) -> Result<Option<Plan>> {
        use blas::cublasLtMatmulDescAttributes_t as product_attribute;
        use blas::cublasLtMatmulPreferenceAttributes_t as preference_attribute;
        use blas::cublasLtMatrixLayoutAttribute_t as layout_attribute;
        let compute = if self.tf32 {
            blas::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32
        } else {
            blas::cublasComputeType_t::CUBLAS_COMPUTE_32F
        };
        let data = match self.storage {
            Storage::F32 => cudaDataType::CUDA_R_32F,
            Storage::Bf16 => cudaDataType::CUDA_R_16BF,
            Storage::F16 => cudaDataType::CUDA_R_16F,
        };
        let mut plan = Plan {
            product: null_mut(),
            layouts: [null_mut(); 3],
            // SAFETY: numbers only.
            algorithm: unsafe { std::mem::zeroed() },
        };
        let bytes = |value: &u64, size| (std::ptr::from_ref(value).cast::<c_void>(), size);
        let mut set = |attribute, value: u64, size| {
            let (value, size) = bytes(&value, size);
            // SAFETY: little-endian numbers of the attribute's size.
            check_blas("cublasLtMatmulDescSetAttribute", unsafe {
                if plan.product.is_null() {
                    let status =
                        blas::cublasLtMatmulDescCreate(&mut plan.product, compute, cudaDataType::CUDA_R_32F);
                    if status != blas::cublasStatus_t::CUBLAS_STATUS_SUCCESS {
                        return check_blas("cublasLtMatmulDescCreate", status);
                    }
                }
                blas::cublasLtMatmulDescSetAttribute(plan.product, attribute, value, size)
            })
        };
        set(product_attribute::CUBLASLT_MATMUL_DESC_TRANSA, TRANSPOSED, 4)?;
        if linear.bias != 0 {
            let epilogue = blas::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS as u64;
            set(product_attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue, 4)?;
            set(product_attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, linear.bias, 8)?;
        }
        let [inputs, outputs] = key.sides;
        let [x_stride, x_batch, y_stride, y_batch] = key.strides;
        let sides = [
            (inputs, outputs, inputs, 0),
            (inputs, key.rows, x_stride, x_batch),
            (outputs, key.rows, y_stride, y_batch),
        ];
        for (layout, (rows, columns, stride, batch)) in plan.layouts.iter_mut().zip(sides) {
            // SAFETY: the pointer is to a field.
            check_blas("cublasLtMatrixLayoutCreate", unsafe {
                blas::cublasLtMatrixLayoutCreate(layout, data, rows as u64, columns as u64, stride as i64)
            })?;
            for (attribute, value, size) in [
                (layout_attribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, key.batches as u64, 4),
                (layout_attribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, batch as u64, 8),
            ] {
                let (value, size) = bytes(&value, size);
                // SAFETY: little-endian numbers of the attribute's size.
                check_blas("cublasLtMatrixLayoutSetAttribute", unsafe {
                    blas::cublasLtMatrixLayoutSetAttribute(*layout, attribute, value, size)
                })?;
            }
        }

        let mut preference = null_mut();
        // SAFETY: the pointer is to a local.
        check_blas("cublasLtMatmulPreferenceCreate", unsafe {
            blas::cublasLtMatmulPreferenceCreate(&mut preference)
        })?;
        let [weight_alignment, x_alignment, y_alignment] = key.alignments;
        for (attribute, value, size) in [
            (preference_attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, key.workspace as u64, 8),
            (preference_attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, weight_alignment.into(), 4),
            (preference_attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, x_alignment.into(), 4),
            (preference_attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, y_alignment.into(), 4),
            (preference_attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, y_alignment.into(), 4),
        ] {
            let (value, size) = bytes(&value, size);
            // SAFETY: little-endian numbers of the attribute's size. Where one is refused, the default stays.
            unsafe { blas::cublasLtMatmulPreferenceSetAttribute(preference, attribute, value, size) };
        }
        const MOST: usize = 8;
        let long = inputs >= 4 * LONGEST_SUM && outputs * key.rows * key.batches <= FEW_OUTPUTS;
        let is_f32 = self.storage == Storage::F32 && !self.tf32;
        let wanted = if is_f32 && long { MOST } else { 1 };
        // SAFETY: numbers only.
        let mut found: [blas::cublasLtMatmulHeuristicResult_t; MOST] = unsafe { std::mem::zeroed() };
        let mut count: c_int = 0;
        // SAFETY: what is described was created above; pointers are to locals.
        let status = unsafe {
            let status = blas::cublasLtMatmulAlgoGetHeuristic(
                self.gpu.blas(),
                plan.product,
                plan.layouts[0],
                plan.layouts[1],
                plan.layouts[2],
                plan.layouts[2],
                preference,
                wanted as c_int,
                found.as_mut_ptr(),
                &mut count,
            );
            blas::cublasLtMatmulPreferenceDestroy(preference);
            status
        };
        if status != blas::cublasStatus_t::CUBLAS_STATUS_SUCCESS {
            return Ok(None);
        }
        let found = found[..count as usize].iter();
        let mut found = found.filter(|one| one.state == blas::cublasStatus_t::CUBLAS_STATUS_SUCCESS);
        let Some(first) = found.next() else { return Ok(None) };
        let sum = |one: &blas::cublasLtMatmulHeuristicResult_t| inputs.div_ceil(splits(&one.algo));
        let is_coarse = sum(first) < inputs && sum(first) >= 2 * LONGEST_SUM;
        let finer = if is_coarse { found.find(|one| sum(one) <= LONGEST_SUM) } else { None };
        plan.algorithm = finer.unwrap_or(first).algo;
        Ok(Some(plan))
    }

    /// How few rows are multiplied, if they are few enough: alone, or as the in_proj of a step.
    pub fn few(
        &self,
        linear: &Linear,
        [x, y]: [Rows; 2],
        rows: usize,
        convolutions: Option<Convolutions>,
    ) -> Option<Few> {
        let width = 16 / self.storage.size();
        let vector = linear.inputs.is_multiple_of(width)
            && x.stride.is_multiple_of(width)
            && x.address.is_multiple_of(16)
            && linear.weight.is_multiple_of(16);
        if vector && (2..=TILED_ROWS).contains(&rows) {
            let Tiling { height, split, launch } = self.tiling(linear, rows, convolutions);
            let kernels = match (height, self.tf32) {
                (8, false) => [Kernel::Tile8, Kernel::StepTile8],
                (8, true) => [Kernel::Tile8Tf32, Kernel::StepTile8Tf32],
                (_, false) => [Kernel::Tile32, Kernel::StepTile32],
                (_, true) => [Kernel::Tile32Tf32, Kernel::StepTile32Tf32],
            };
            let split = split.ilog2() as usize;
            return Some(Few { arguments: arguments(linear, [x, y], rows, split, vector), launch, kernels });
        }
        if rows > FEW_ROWS {
            return None;
        }
        let warps = linear.outputs.div_ceil(OUTPUTS);
        // With few outputs, one warp each would leave most of the chip idle.
        let split = if warps < 4 * self.gpu.multiprocessors() as usize { WARPS } else { 1 };
        let blocks = if split == 1 { warps.div_ceil(WARPS) } else { warps };
        let launch = Launch { grid: [blocks, rows, 1], block: [32, WARPS as u32], ..Launch::default() };
        let kernels = [Kernel::OneRow, Kernel::StepRow];
        Some(Few { arguments: arguments(linear, [x, y], rows, split, vector), launch, kernels })
    }

    fn tiling(&self, linear: &Linear, rows: usize, convolutions: Option<Convolutions>) -> Tiling {
        let multiprocessors = self.gpu.multiprocessors() as usize;
        let units = self.tf32 || self.storage != Storage::F32;
        let tiles = convolutions
            .map_or(linear.outputs.div_ceil(TILE_OUTPUTS), |Convolutions { channels, .. }| {
                channels.div_ceil(TILE_OUTPUTS / 2)
            });
        let chunks = (linear.inputs * self.storage.size()).div_ceil(CHUNK);
        let spread = |height: usize| {
            // With few tiles most of the chip would be idle.
            let tiles = tiles * rows.div_ceil(height);
            let wanted = (multiprocessors / tiles).min(chunks).clamp(1, MAX_SPLIT);
            let split = if self.gpu.has_clusters() { 1 << wanted.ilog2() } else { 1 };
            // Clusters of four and eight find room with one block on a multiprocessor on ten elevenths of an H100. Where
            // out_proj has two on one, in_proj of the next step finds none; but in true f32 it is bound by arithmetic,
            // which more multiprocessors share.
            let doubles = split > 2 && tiles * split > multiprocessors * 10 / 11;
            let halved = linear.is_last && doubles && height == 32 && units;
            let split = if halved { split / 2 } else { split };
            (height, split, tiles * split)
        };
        // Tiles of 8 rows are faster where they are short and fill the chip once.
        const SHORT: usize = 4;
        let (height, split, blocks) = match (spread(8), spread(32)) {
            (low, _) if rows <= 8 => low,
            (low @ (_, 1, blocks), _) if blocks <= multiprocessors && chunks <= SHORT => low,
            (_, high) => high,
        };
        // As in layer.cu, `Tile` and `step_tile`.
        let stages = match (height, self.gpu.has_clusters()) {
            (8, _) => 5,
            (_, true) => 6,
            (_, false) => 3,
        };
        let kept = convolutions
            .map_or(0, |Convolutions { branches, .. }| 128 * height + 64 * branches * (height + 2));
        let shared = stages.min(chunks.div_ceil(split)) * (TILE_OUTPUTS + height) * PAIR / 2
            + 4 * TILE_OUTPUTS * height
            + kept;
        // A product takes as long as the multiprocessor with the most blocks of it. An in_proj that fills the chip asks for
        // so much memory (of 228 KiB) that no second block of it comes to a multiprocessor, unless that keeps clusters
        // from finding room; tiles of 32 rows in clusters, that no third one comes. Out_proj has room beside in_proj.
        const SECOND_REFUSED: usize = 114 << 10;
        const THIRD_REFUSED: usize = 91 << 10;
        let fills = (multiprocessors / 2 + 1..=multiprocessors).contains(&blocks);
        let least = match (height, split) {
            (_, 1 | 2) if self.gpu.has_clusters() && fills && convolutions.is_some() => SECOND_REFUSED,
            (32, 2..) => THIRD_REFUSED,
            _ => 0,
        };
        let launch = Launch {
            grid: [blocks / rows.div_ceil(height), rows.div_ceil(height), 1],
            block: [TILE_THREADS, 1],
            shared: shared.max(least) as u32,
            cluster: split as u32,
        };
        Tiling { height, split, launch }
    }

    /// # Safety
    /// As [`Products::apply`].
    unsafe fn any(&self, stream: Stream, linear: &Linear, [x, y]: [Rows; 2], rows: usize) -> Result<()> {
        let arguments = arguments(linear, [x, y], rows, 1, false);
        let grid = [linear.outputs.div_ceil(16), rows.div_ceil(16).min(65535), 1];
        // SAFETY: the caller's promise.
        unsafe { self.gpu.launch(stream, Kernel::AnyRows, self.storage, grid, [16, 16], &arguments) }
    }
}

/// Into how many parts, computed side by side, an algorithm cuts its sums.
fn splits(algorithm: &blas::cublasLtMatmulAlgo_t) -> usize {
    let (mut splits, mut written) = (1_u32, 0);
    // SAFETY: pointers to locals, of the attribute's size.
    unsafe {
        blas::cublasLtMatmulAlgoConfigGetAttribute(
            algorithm,
            blas::cublasLtMatmulAlgoConfigAttributes_t::CUBLASLT_ALGO_CONFIG_SPLITK_NUM,
            std::ptr::from_mut(&mut splits).cast(),
            4,
            &mut written,
        );
    }
    splits.max(1) as usize
}

fn arguments(linear: &Linear, [x, y]: [Rows; 2], rows: usize, split: usize, vector: bool) -> ProductArgs {
    ProductArgs {
        x: x.address,
        weight: linear.weight,
        bias: linear.bias,
        y: y.address,
        x_stride: x.stride as i64,
        y_stride: y.stride as i64,
        rows: rows as i32,
        inputs: linear.inputs as i32,
        outputs: linear.outputs as i32,
        split: split as i32,
        vector: vector.into(),
        hurry: linear.hurry.into(),
    }
}
