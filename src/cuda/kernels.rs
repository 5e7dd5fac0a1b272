//! The kernels of `kernels/layer.cu` by name, and their arguments, which are its structs field by field.

use std::ffi::CString;

use super::driver::{MAX_SCAN_SHARED, MAX_SHARED, MAX_TILE_SHARED};
use crate::tensor::DType;

/// The types that a layer's tensors may be stored as; the numbers are places in tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Storage {
    /// IEEE 754 single precision.
    F32 = 0,
    /// The upper half of it.
    Bf16 = 1,
    /// IEEE 754 half precision.
    F16 = 2,
}

impl Storage {
    /// In the order of their numbers.
    pub const ALL: [Storage; 3] = [Storage::F32, Storage::Bf16, Storage::F16];

    /// The one of a type, unless the device computes no layers in it.
    pub fn of(dtype: DType) -> Option<Storage> {
        match dtype {
            DType::F32 => Some(Storage::F32),
            DType::Bf16 => Some(Storage::Bf16),
            DType::F16 => Some(Storage::F16),
            DType::F64 => None,
        }
    }

    /// Bytes of a value.
    pub fn size(self) -> usize {
        if self == Storage::F32 { 4 } else { 2 }
    }

    fn name(self) -> &'static str {
        match self {
            Storage::F32 => "f32",
            Storage::Bf16 => "bf16",
            Storage::F16 => "f16",
        }
    }

    /// The type.
    pub fn dtype(self) -> DType {
        match self {
            Storage::F32 => DType::F32,
            Storage::Bf16 => DType::Bf16,
            Storage::F16 => DType::F16,
        }
    }
}

macro_rules! kernels {
    ($($kernel:ident $name:literal)*) => {
        /// What a kernel does; there is one for each [`Storage`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)] // layer.cu says it
        pub enum Kernel { $($kernel),* }

        impl Kernel {
            pub(super) const ALL: &[Kernel] = &[$(Kernel::$kernel),*];

            /// Its name in `layer.cu`, without the storage type.
            pub fn name(self) -> &'static str {
                match self { $(Kernel::$kernel => $name),* }
            }
        }
    };
}

kernels! {
    Conv "conv"
    ConvTile "conv_tile"
    ConvToken "conv_token"
    History "history"
    Scan16 "scan_16"
    ScanDt16 "scan_dt_16"
    ScanUpto16 "scan_upto16"
    ScanUpto64 "scan_upto64"
    ScanUpto256 "scan_upto256"
    Summary16 "summary_16"
    SummaryDt16 "summary_dt_16"
    SummaryUpto16 "summary_upto16"
    SummaryUpto64 "summary_upto64"
    SummaryUpto256 "summary_upto256"
    OneRow "one_row"
    Tile8 "tile_8"
    Tile32 "tile_32"
    Tile8Tf32 "tile_8_tf32"
    Tile32Tf32 "tile_32_tf32"
    StepRow "step_row"
    StepTile8 "step_tile_8"
    StepTile32 "step_tile_32"
    StepTile8Tf32 "step_tile_8_tf32"
    StepTile32Tf32 "step_tile_32_tf32"
    StepConv "step_conv"
    StepScan "step_scan"
    StepScans "step_scans"
    AnyRows "any_rows"
    Copy "copy"
}

impl Kernel {
    /// Whether it is one of those of a step, which can be put on their way while the one before them ends.
    pub(super) fn begins_early(self) -> bool {
        let name = self.name();
        ["one_row", "tile", "step"].iter().any(|prefix| name.starts_with(prefix))
    }

    /// The most shared memory that its blocks are launched with, if any are.
    pub(super) fn most_shared(self, early: bool) -> Option<u32> {
        match self {
            Kernel::ConvTile => Some(MAX_SHARED),
            Kernel::ScanDt16 | Kernel::SummaryDt16 => Some(MAX_SCAN_SHARED),
            _ => self.name().contains("tile").then_some(MAX_TILE_SHARED[usize::from(early)]),
        }
    }

    /// Whether there is one for a type.
    pub(super) fn exists(self, storage: Storage) -> bool {
        match storage {
            Storage::F32 => !self.name().contains("_dt_"),
            _ => !self.name().ends_with("tf32"),
        }
    }

    pub(super) fn symbol(self, storage: Storage) -> CString {
        let name = match self.name() {
            name if self == Kernel::Copy || name.ends_with("tf32") => name.to_owned(),
            name => format!("{name}_{}", storage.name()),
        };
        CString::new(name).expect("names have no zeros")
    }
}

/// An address on the device.
pub type Address = u64;

#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Sequences {
    pub starts: Address,
    pub lanes: Address,
    pub seqlen: i32,
    pub first_lane: i32,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs)]
pub struct ConvArgs {
    pub x: Address,
    pub out: Address,
    pub weight: Address,
    pub bias: Address,
    pub gates: Address,
    pub dilations: Address,
    pub ring: Address,
    pub positions: Address,
    pub sequences: Sequences,
    pub x_stride: i64,
    pub out_stride: i64,
    pub branch_stride: i64,
    pub channels: i32,
    pub taps: i32,
    pub branches: i32,
    pub ring_len: i32,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs)]
pub struct ConvTileArgs {
    pub conv: ConvArgs,
    pub span: i32,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs)]
pub struct HistoryArgs {
    pub x: Address,
    pub ring: Address,
    pub positions: Address,
    pub sequences: Sequences,
    pub x_stride: i64,
    pub channels: i32,
    pub ring_len: i32,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs)]
pub struct ScanArgs {
    pub u: Address,
    pub delta: Address,
    pub z: Address,
    pub b: Address,
    pub c: Address,
    pub r: Address,
    pub dt_weight: Address,
    pub a: Address,
    pub skip: Address,
    pub delta_bias: Address,
    pub state: Address,
    pub ends: Address,
    pub sums: Address,
    pub positions: Address,
    pub ring_lens: Address,
    pub seen: Address,
    pub sequences: Sequences,
    pub u_stride: i32,
    pub delta_stride: i32,
    pub z_stride: i32,
    pub bc_stride: i32,
    pub channels: i32,
    pub states: i32,
    pub chunk: i32,
    pub first: i32,
    pub chunks: i32,
    pub lanes: i32,
    pub histories: i32,
    pub rank: i32,
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
#[allow(missing_docs)]
pub struct ProductArgs {
    pub x: Address,
    pub weight: Address,
    pub bias: Address,
    pub y: Address,
    pub x_stride: i64,
    pub y_stride: i64,
    pub rows: i32,
    pub inputs: i32,
    pub outputs: i32,
    pub split: i32,
    pub vector: i32,
    pub hurry: i32,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs)]
pub struct StepArgs {
    pub product: ProductArgs,
    pub conv: ConvArgs,
    pub dilations: [i32; 8],
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs)]
pub struct StepScanArgs {
    pub scan: ScanArgs,
    pub rows: i32,
    pub hurry: i32,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs)]
pub struct CopyArgs {
    pub from: Address,
    pub to: Address,
    pub from_strides: [i64; 3],
    pub to_strides: [i64; 3],
    pub sides: [i64; 3],
    pub from_type: u32,
    pub to_type: u32,
}
