//! DLPACK
//!
//! Tensors of other libraries, used where they lie: of any of the LM_DTYPE_ types, whatever the layer's, of any
//! strides and with an offset. DLTensor is the struct in which these libraries describe them; what this header
//! declares of it steps aside for the standard's own <dlpack/dlpack.h>.

use std::ffi::c_void;
use std::ops::Range;
use std::ptr::null_mut;

use ndarray::{ArrayView3, ArrayViewMut3, Axis, Ix3, ShapeBuilder, StrideShape};

use super::arguments::{check, object, object_mut, slice};
use super::boundary;
use super::types::{lm_cache, lm_layer, lm_status};
use crate::cache::Cache;
use crate::error::{Error, ErrorKind, Result, fail};
use crate::layer::{Device, Layer, Tensors};
use crate::memory;
use crate::tensor::{DType, Element, TensorView, TensorViewMut, with_dtype};

/// DLPack's `DLDevice`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DLDevice {
    /// A `DLDeviceType`: a number of the caller's, so no Rust enum.
    pub device_type: i32,
    /// Which of these devices.
    pub device_id: i32,
}

/// DLPack's `DLDataType`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DLDataType {
    /// A `DLDataTypeCode`.
    pub code: u8,
    /// Bits of a number.
    pub bits: u8,
    /// Numbers in an element.
    pub lanes: u16,
}

/// DLPack's `DLTensor`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DLTensor {
    /// `byte_offset` before the first element.
    pub data: *mut c_void,
    /// Where that is.
    pub device: DLDevice,
    /// Number of sides.
    pub ndim: i32,
    /// The type of the elements.
    pub dtype: DLDataType,
    /// The `ndim` sides.
    pub shape: *mut i64,
    /// Elements to the next along each side, or NULL: row-major without gaps.
    pub strides: *mut i64,
    /// Bytes from `data` to the first element.
    pub byte_offset: u64,
}

// As in the declarations of dlpack.h, which tests/c/dlpack.c holds to the same numbers.
#[cfg(target_pointer_width = "64")]
const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<DLTensor>() == 48 && size_of::<DLDevice>() == 8 && size_of::<DLDataType>() == 4);
    assert!(offset_of!(DLTensor, device) == 8 && offset_of!(DLTensor, ndim) == 16);
    assert!(offset_of!(DLTensor, dtype) == 20 && offset_of!(DLTensor, shape) == 24);
    assert!(offset_of!(DLTensor, strides) == 32 && offset_of!(DLTensor, byte_offset) == 40);
};

const DEVICES: [(i32, &str); 16] = [
    (CPU, "kDLCPU"),
    (CUDA, "kDLCUDA"),
    (CUDA_HOST, "kDLCUDAHost"),
    (4, "kDLOpenCL"),
    (7, "kDLVulkan"),
    (8, "kDLMetal"),
    (9, "kDLVPI"),
    (10, "kDLROCM"),
    (11, "kDLROCMHost"),
    (12, "kDLExtDev"),
    (CUDA_MANAGED, "kDLCUDAManaged"),
    (14, "kDLOneAPI"),
    (15, "kDLWebGPU"),
    (16, "kDLHexagon"),
    (17, "kDLMAIA"),
    (18, "kDLTrn"),
];
const CPU: i32 = 1;
const CUDA: i32 = 2;
const CUDA_HOST: i32 = 3;
const CUDA_MANAGED: i32 = 13;

/// kDLFloat and kDLBfloat, and their bits.
const DTYPES: [(u8, u8, DType); 4] =
    [(2, 32, DType::F32), (2, 64, DType::F64), (4, 16, DType::Bf16), (2, 16, DType::F16)];

/// Computes y, the layer's output for every token of x: lm_forward of tensors as other libraries have them. Types
/// that differ from the layer's arithmetic are converted on their way, outputs to the nearest value; the bits are
/// otherwise those of lm_forward.
///
/// x: (batch, seqlen, d_model), F32, F64, BF16 or F16 (kDLFloat of 32, 64 or 16 bits, kDLBfloat of 16; one lane),
///    whatever the layer's type is. Strides may be anything, 0 and negative included; NULL stands for those of a
///    contiguous tensor. data + byte_offset must be aligned to the element; data may be NULL where there is no
///    token. On the layer's device: for the CPU kDLCPU or kDLCUDAHost, whose device_id is not looked at; for a GPU
///    kDLCUDA or kDLCUDAManaged with the layer's device_index.
/// cache: as of lm_forward: NULL for sequences that begin here and are not continued.
/// y: (batch, seqlen, d_model), of a type and strides of its own; otherwise as x. Every element must have a place of
///    its own, and no side interleave with another: so does whatever is made of a contiguous tensor by slicing,
///    reversing and transposing.
/// stream: for a layer on a GPU, the CUDA stream (cudaStream_t or CUstream, NULL for the default one) on which the call
///    is put, without waiting for it. Once such a call, of these sizes, has been made on the stream, nothing is
///    allocated, and the call can be captured into a graph, whose replays go on from the cache as the calls would. Calls
///    of one layer on one stream share their scratch memory: a graph captured there must not run while others of them
///    do, nor outlive the layer or the cache. Not looked at on the CPU.
///
/// On the CPU a tensor is used where it lies, with nothing allocated for it, if its type is that of the layer's
/// arithmetic (F64 for an F64 layer, else F32), its last side is contiguous, and one stride that is not negative leads
/// from each token to the next, through all sequences: contiguous tensors, ranges of their columns, every nth token for
/// a batch of 1, a seqlen of 1. Others are converted some hundred tokens at a time. On a GPU it is if it is contiguous
/// and of the layer's own type; others are converted as a whole. There the numbers are lm_forward's within the type's
/// tolerance.
///
/// x and y may be the same elements in the same order, which are then overwritten. Otherwise they must have no byte in
/// common. Where one begins before the other ends, this must follow from equal strides, as for two ranges of the
/// columns of one tensor, or its even and its odd tokens; what cannot be told so is refused.
///
/// LM_ERR_SHAPE_MISMATCH for another number of sides, another d_model, or an x and a y of different shapes;
/// LM_ERR_UNSUPPORTED for another type; LM_ERR_INVALID_ARGUMENT for another device, a negative side, misaligned data,
/// strides that leave the address space, elements of y in one place, and y overlapping x in part; errors as lm_forward.
/// Any number of threads on one layer; the cache belongs to this call while it runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_forward_dlpack(
    layer: *const lm_layer,
    x: *const DLTensor,
    cache: *mut lm_cache,
    y: *const DLTensor,
    stream: *mut c_void,
) -> lm_status {
    // SAFETY: pointers are the caller's, as the header asks for.
    boundary::status(|| unsafe {
        let layer = object(layer, "layer")?;
        let (x, y) = views(layer, x, y, ["batch", "seqlen", "d_model"])?;
        let [batch, seqlen, _] = x.shape;
        if batch == 0 || seqlen == 0 {
            return Ok(());
        }
        let cache = if cache.is_null() { None } else { Some(object_mut(cache, "cache")?) };
        forward(layer, x, y, [batch, seqlen], cache, stream)
    })
}

/// Computes the next token of every sequence: lm_forward_dlpack with a seqlen of 1, to the bit, of tensors that
/// do not have that side. Allocates nothing after the first call.
///
/// x: (batch, d_model), one token for each sequence of the cache; otherwise as of lm_forward_dlpack.
/// cache: the state, which moves on by one token.
/// y: (batch, d_model); otherwise as of lm_forward_dlpack.
/// stream: as of lm_forward_dlpack.
///
/// Errors as lm_forward_dlpack.
/// Any number of threads on one layer; the cache belongs to this call while it runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_step_dlpack(
    layer: *const lm_layer,
    x: *const DLTensor,
    cache: *mut lm_cache,
    y: *const DLTensor,
    stream: *mut c_void,
) -> lm_status {
    // SAFETY: pointers are the caller's, as the header asks for.
    boundary::status(|| unsafe {
        let layer = object(layer, "layer")?;
        let cache = object_mut(cache, "cache")?;
        let (x, y) = views(layer, x, y, ["batch", "d_model"])?;
        let [_, batch, _] = x.shape;
        if batch != cache.batch() {
            fail!(ShapeMismatch, "x has a batch of {batch}; it must have {}, the cache's", cache.batch());
        }
        if batch == 0 {
            return Ok(());
        }
        forward(layer, x, y, [batch, 1], Some(cache), stream)
    })
}

/// The call, where the layer is.
///
/// # Safety
/// As [`tensors`]; on a GPU until the stream has come to what is enqueued.
unsafe fn forward(
    layer: &Layer,
    x: View,
    y: View,
    [batch, seqlen]: [usize; 2],
    cache: Option<&mut Cache>,
    stream: *mut c_void,
) -> Result<()> {
    #[cfg(feature = "cuda")]
    if let Some(engine) = layer.engine() {
        use crate::cuda::{Calls, State, Stream};
        check_apart(&x, &y)?;
        let tokens = [x, y].map(|view| view.on_device([batch, seqlen]));
        let calls = Calls::uniform(batch, seqlen);
        // SAFETY: as the caller promises; the tensors have been checked.
        let enqueue =
            |state: Option<&State>| unsafe { engine.enqueue(tokens, calls, state, Stream::of(stream)) };
        return match cache {
            Some(cache) => {
                cache.check_fits(layer, batch)?;
                cache.with_device_state(|state| enqueue(Some(state)))
            }
            None => enqueue(None),
        };
    }
    let _ = stream;
    // SAFETY: as the caller promises.
    let tensors = unsafe { tensors(x, y)? };
    layer.forward_tensors(tensors, batch, seqlen, cache)
}

/// What a call reads and what it writes, each checked by itself and of one shape, which the layer can take.
///
/// # Safety
/// As [`view`] of both.
unsafe fn views<const SIDES: usize>(
    layer: &Layer,
    x: *const DLTensor,
    y: *const DLTensor,
    sides: [&str; SIDES],
) -> Result<(View, View)> {
    // SAFETY: as the caller promises.
    let checked = |tensor, name| unsafe {
        check(tensor, name)?;
        let config = layer.config();
        let view = view(&*tensor, name, sides, config.device, config.device_index)?;
        let (d_model, columns) = (layer.dims().d_model, view.shape[2]);
        if columns != d_model {
            fail!(ShapeMismatch, "{name} has a d_model of {columns}; it must have the layer's, {d_model}");
        }
        Ok(view)
    };
    let (x, y) = (checked(x, "x")?, checked(y, "y")?);
    if x.shape != y.shape {
        let [x, y] = [x, y].map(|view| shape_text(&view.shape[3 - SIDES..]));
        fail!(ShapeMismatch, "y has shape {y}; it must have that of x, {x}");
    }
    Ok((x, y))
}

/// A tensor's description, checked: elements that can exist at a place that they can be at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// The type of the elements.
    pub dtype: DType,
    /// The first element, aligned; NULL where there are none.
    pub start: *mut c_void,
    /// Three sides, those that were not given before the others, of 1.
    pub shape: [usize; 3],
    /// Elements to the next along each side; 0 along a side of one element.
    pub strides: [isize; 3],
}

/// Checks what `tensor` says of itself: all but what hangs on another tensor or on a layer's sizes. Its data is
/// not touched.
///
/// # Errors
/// `ShapeMismatch` unless it has `SIDES` sides, `Unsupported` for its type, `NullPointer`, `OutOfMemory` for more
/// elements than memory holds, else `InvalidArgument`. The message begins with `name`.
///
/// # Safety
/// `shape` and `strides` are NULL or `ndim` numbers can be read there.
pub unsafe fn view<const SIDES: usize>(
    tensor: &DLTensor,
    name: &str,
    sides: [&str; SIDES],
    device: Device,
    device_index: u32,
) -> Result<View> {
    if tensor.ndim != SIDES as i32 {
        let (ndim, sides) = (tensor.ndim, sides.join(", "));
        fail!(ShapeMismatch, "{name} has {ndim} dimensions; it must have {SIDES}, ({sides})");
    }
    check_device(tensor.device, name, device, device_index)?;
    let dtype = dtype(tensor.dtype, name)?;
    // SAFETY: as the caller promises.
    let given = unsafe { numbers(tensor.shape, SIDES, name, "shape")? };
    let mut shape = [1; 3];
    for (i, (side, &given)) in shape[3 - SIDES..].iter_mut().zip(given).enumerate() {
        if given < 0 {
            fail!(InvalidArgument, "{name}->shape[{i}] is {given}; it must not be negative");
        }
        *side = usize::try_from(given).map_err(|_| too_large(name, SIDES, given as u64))?;
    }
    let given = match tensor.strides.is_null() {
        true => None,
        // SAFETY: as the caller promises.
        false => Some(unsafe { numbers(tensor.strides, SIDES, name, "strides")? }),
    };
    let empty = shape.contains(&0);
    let mut view = View { dtype, start: null_mut(), shape, strides: [0; 3] };
    if empty {
        return Ok(view);
    }
    let values = shape.iter().try_fold(1usize, |product, &side| product.checked_mul(side));
    let Some(_) = values.filter(|&values| values <= isize::MAX as usize / dtype.size()) else {
        let shape = shape_text(&shape[3 - SIDES..]);
        fail!(OutOfMemory, "{name} has shape {shape}; no memory can hold that many values");
    };
    for i in 3 - SIDES..3 {
        view.strides[i] = match given {
            _ if shape[i] == 1 => 0,
            None => shape[i + 1..].iter().product::<usize>() as isize,
            Some(given) => isize::try_from(given[i + SIDES - 3]).map_err(|_| outside(name))?,
        };
    }
    if tensor.data.is_null() {
        fail!(NullPointer, "{name}->data is NULL; it must not be where there are values");
    }
    let address = usize::try_from(tensor.byte_offset).ok();
    let address = address.and_then(|offset| tensor.data.addr().checked_add(offset));
    let address = address.ok_or_else(|| outside(name))?;
    view.start = tensor.data.with_addr(address);
    let alignment = with_dtype!(dtype, T => align_of::<T>());
    if !address.is_multiple_of(alignment) {
        fail!(
            InvalidArgument,
            "{name}->data + byte_offset is {:p}; it must be aligned to {alignment} bytes",
            view.start
        );
    }
    if view.bytes_around().is_none() {
        return Err(outside(name));
    }
    if device == Device::Cpu {
        let apart = (0..3).filter(|&i| view.strides[i] != 0).map(|i| shape[i]).product::<usize>();
        memory::check_fits(name, apart * dtype.size())?;
    }
    Ok(view)
}

/// Whether a layer on `layer`, number `index` of its kind, can use a tensor on this device.
fn check_device(of: DLDevice, name: &str, layer: Device, index: u32) -> Result<()> {
    let usable = match layer {
        Device::Cpu => [CPU, CUDA_HOST].contains(&of.device_type),
        Device::Cuda => {
            [CUDA, CUDA_MANAGED].contains(&of.device_type) && u32::try_from(of.device_id) == Ok(index)
        }
    };
    if !usable {
        let number = of.device_type;
        let known = DEVICES.iter().find(|(of, _)| *of == number).map_or("unknown", |(_, name)| name);
        match layer {
            Device::Cpu => fail!(
                InvalidArgument,
                "{name}->device is {known} ({number}); the layer's is kDLCPU (1) or kDLCUDAHost (3)"
            ),
            Device::Cuda => fail!(
                InvalidArgument,
                "{name}->device is {known} ({number}), number {}; the layer's is kDLCUDA (2), number {index}",
                of.device_id
            ),
        }
    }
    Ok(())
}

fn dtype(of: DLDataType, name: &str) -> Result<DType> {
    let DLDataType { code, bits, lanes } = of;
    if lanes != 1 {
        fail!(Unsupported, "{name}->dtype has {lanes} lanes; it must have 1");
    }
    let known = DTYPES.iter().find(|known| (known.0, known.1) == (code, bits));
    known.map(|&(.., dtype)| dtype).ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            format!(
                "{name}->dtype has code {code} and {bits} bits; it must be kDLFloat (2) of 16, 32 or 64 bits or kDLBfloat (4) of 16"
            ),
        )
    })
}

/// `count` numbers that a descriptor points to.
///
/// # Safety
/// `numbers` is NULL or `count` of them may be read there.
unsafe fn numbers<'a>(numbers: *const i64, count: usize, name: &str, field: &str) -> Result<&'a [i64]> {
    if numbers.is_null() || !numbers.is_aligned() {
        check(numbers, &format!("{name}->{field}"))?;
    }
    // SAFETY: as the caller promises.
    unsafe { slice(numbers, count, name) }
}

fn too_large(name: &str, sides: usize, side: u64) -> Error {
    Error::new(ErrorKind::OutOfMemory, format!("one of the {sides} sides of {name} is {side}, too large"))
}

fn outside(name: &str) -> Error {
    let message =
        format!("{name} has strides or a byte_offset that lead out of the memory that can be addressed");
    Error::new(ErrorKind::InvalidArgument, message)
}

fn shape_text(shape: &[usize]) -> String {
    format!("({})", shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", "))
}

/// What the layer is to read and write: one tensor where they are the same elements, else two without a common
/// byte.
///
/// # Safety
/// The elements of `x` can be read and those of `y` written, and nothing else uses them, during `'a`.
unsafe fn tensors<'a>(x: View, y: View) -> Result<Tensors<'a>> {
    check_apart(&x, &y)?;
    // SAFETY: as the caller promises; one tensor is borrowed once.
    unsafe {
        if x == y {
            return Ok(Tensors::InPlace(y.of_rows().write()));
        }
        Ok(Tensors::Separate { x: x.of_rows().read(), y: y.of_rows().write() })
    }
}

/// Whether each element of `y` has a place of its own, and they are those of `x` or have no byte in common with them.
fn check_apart(x: &View, y: &View) -> Result<()> {
    if !y.lies_apart() {
        fail!(
            InvalidArgument,
            "y has strides {:?} for shape {:?}; every element must have a place of its own, and the sides must not interleave",
            y.strides,
            y.shape
        );
    }
    if x != y && overlap(x, y) {
        fail!(
            InvalidArgument,
            "y overlaps x in part; it must be the same elements in the same order, or lie apart from x"
        );
    }
    Ok(())
}

impl View {
    /// Bytes before and behind the first one in which the elements lie, if they can be addressed.
    fn bytes_around(&self) -> Option<(usize, usize)> {
        let (mut before, mut behind) = (0usize, 1usize);
        for (&side, &stride) in self.shape.iter().zip(&self.strides) {
            let elements = (side - 1).checked_mul(stride.unsigned_abs())?;
            let end = if stride < 0 { &mut before } else { &mut behind };
            *end = end.checked_add(elements)?;
        }
        let (before, behind) =
            (before.checked_mul(self.dtype.size())?, behind.checked_mul(self.dtype.size())?);
        let whole = before.checked_add(behind)?;
        let exists = self.start.addr() >= before && self.start.addr().checked_add(behind).is_some();
        (exists && whole <= isize::MAX as usize).then_some((before, behind))
    }

    /// The addresses between which the elements lie. Empty if there are none.
    pub fn extent(&self) -> Range<usize> {
        let (before, behind) =
            if self.shape.contains(&0) { (0, 0) } else { self.bytes_around().expect("checked when made") };
        self.start.addr() - before..self.start.addr() + behind
    }

    /// Whether no two elements are one, as far as the sides do not interleave: each, by its stride, steps over all
    /// that those of lesser strides span.
    pub fn lies_apart(&self) -> bool {
        let mut sides = [0, 1, 2].map(|i| (self.strides[i].unsigned_abs(), self.shape[i]));
        sides.sort_unstable();
        let mut spanned = 0;
        sides.into_iter().filter(|&(_, side)| side > 1).all(|(stride, side)| {
            let apart = stride > spanned;
            spanned += (side - 1) * stride;
            apart
        })
    }

    /// The same elements as one group of rows, where a single stride leads from each row to the next.
    fn of_rows(self) -> View {
        let ([groups, rows, columns], [group, row, column]) = (self.shape, self.strides);
        let row = match (groups, rows) {
            (1, _) => row,
            (_, 1) => group,
            _ if isize::try_from(rows).ok().and_then(|rows| rows.checked_mul(row)) == Some(group) => row,
            _ => return self,
        };
        View { shape: [1, groups * rows, columns], strides: [0, row, column], ..self }
    }

    /// The tensor as (batch, seqlen, d_model) of a device.
    #[cfg(feature = "cuda")]
    fn on_device(&self, [batch, seqlen]: [usize; 2]) -> crate::cuda::DeviceTokens {
        let [group, row, column] = self.strides.map(|stride| stride as i64);
        // A step's tokens are rows of one group.
        let strides =
            if self.shape[..2] == [batch, seqlen] { [group, row, column] } else { [row, 0, column] };
        crate::cuda::DeviceTokens { address: self.start.addr() as u64, dtype: self.dtype, strides }
    }

    /// # Safety
    /// The elements can be read and nothing writes them during `'a`.
    unsafe fn read<'a>(self) -> TensorView<'a> {
        with_dtype!(self.dtype, T => {
            let (start, shape) = self.ascending();
            // SAFETY: readable as the caller promises; aligned, and within what can be addressed, as checked.
            let mut array = unsafe { ArrayView3::from_shape_ptr(shape, start.cast::<T>()) };
            self.descending().for_each(|axis| array.invert_axis(axis));
            T::any(array)
        })
    }

    /// # Safety
    /// The elements can be read and written, each is there once, and nothing else uses them during `'a`.
    unsafe fn write<'a>(self) -> TensorViewMut<'a> {
        with_dtype!(self.dtype, T => {
            let (start, shape) = self.ascending();
            // SAFETY: ours alone as the caller promises; aligned, and within what can be addressed, as checked.
            let mut array = unsafe { ArrayViewMut3::from_shape_ptr(shape, start.cast::<T>()) };
            self.descending().for_each(|axis| array.invert_axis(axis));
            T::any_mut(array)
        })
    }

    /// The element of the lowest address, and the shape with the strides that lead up from it.
    fn ascending(&self) -> (*mut c_void, StrideShape<Ix3>) {
        let (before, _) = self.bytes_around().expect("checked when made");
        let strides = self.strides.map(isize::unsigned_abs);
        (self.start.wrapping_byte_sub(before), self.shape.strides(strides))
    }

    /// The sides along which the addresses fall.
    fn descending(&self) -> impl Iterator<Item = Axis> + use<> {
        let strides = self.strides;
        (0..3).filter(move |&i| strides[i] < 0).map(Axis)
    }
}

/// Whether an element of `x` and one of `y`, whose elements lie apart, have a byte in common; also where that cannot
/// be told quickly.
fn overlap(x: &View, y: &View) -> bool {
    let (of_x, of_y) = (x.extent(), y.extent());
    if of_x.end <= of_y.start || of_y.end <= of_x.start {
        return false;
    }
    // Along sides where both take the same steps, the distance between two elements depends on how many steps they
    // are apart. Along the others each is taken for as long as it spans.
    let size = |view: &View| view.dtype.size() as i128;
    let [x_steps, y_steps] = [x, y].map(|view| view.strides.map(|stride| stride as i128 * size(view)));
    let mut sides = [(0, 0); 3];
    let mut gap = y.start.addr() as i128 - x.start.addr() as i128;
    let (mut x_width, mut y_width) = (size(x), size(y));
    for i in 0..3 {
        let most = x.shape[i] as i128 - 1;
        if x_steps[i] == y_steps[i] {
            sides[i] = (x_steps[i].abs(), most);
        } else {
            gap += most * (y_steps[i].min(0) - x_steps[i].min(0));
            x_width += most * x_steps[i].abs();
            y_width += most * y_steps[i].abs();
        }
    }
    sides.sort_unstable_by_key(|&(step, _)| std::cmp::Reverse(step));
    let steps = sides.iter().filter(|&&(step, _)| step > 0).count();
    comes_between(gap, &sides[..steps], -y_width, x_width)
}

/// Whether `gap` and a sum of steps, of each at most so many in either direction, can lie between two numbers; also
/// where there are many ways to try.
fn comes_between(gap: i128, sides: &[(i128, i128)], low: i128, high: i128) -> bool {
    const WAYS: i128 = 4;
    let Some((&(step, most), rest)) = sides.split_first() else {
        return low < gap && gap < high;
    };
    let reach: i128 = rest.iter().map(|(step, most)| step * most).sum();
    let first = ((low - reach - gap).div_euclid(step) + 1).max(-most);
    let last = (high + reach - gap - 1).div_euclid(step).min(most);
    last - first >= WAYS || (first..=last).any(|steps| comes_between(gap + steps * step, rest, low, high))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::tensor::TensorViewMut;

    /// A view of f32 or bf16 somewhere that is never touched.
    fn somewhere(dtype: DType, element: usize, shape: [usize; 3], strides: [isize; 3]) -> View {
        let start = null_mut::<c_void>().with_addr(0x10000 + element * dtype.size());
        let strides = [0, 1, 2].map(|i| if shape[i] == 1 { 0 } else { strides[i] });
        View { dtype, start, shape, strides }
    }

    /// The address of every element, in order.
    fn addresses(view: &View) -> Vec<usize> {
        let [groups, rows, columns] = view.shape;
        let indices =
            (0..groups).flat_map(|i| (0..rows).flat_map(move |j| (0..columns).map(move |k| [i, j, k])));
        let at = |index: [usize; 3]| {
            let elements: isize =
                index.iter().zip(view.strides).map(|(&i, stride)| i as isize * stride).sum();
            view.start.addr().wrapping_add_signed(elements * view.dtype.size() as isize)
        };
        indices.map(at).collect()
    }

    fn bytes(view: &View) -> HashSet<usize> {
        addresses(view).into_iter().flat_map(|at| at..at + view.dtype.size()).collect()
    }

    fn random_views(count: usize) -> impl Iterator<Item = View> {
        let mut state = 1u64;
        let mut below = move |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        (0..count).map(move |_| {
            let dtype = [DType::F32, DType::Bf16][below(2) as usize];
            let shape = [(); 3].map(|()| 1 + below(3) as usize);
            let strides = [(); 3].map(|()| below(25) as isize - 12);
            somewhere(dtype, 40 + below(30) as usize, shape, strides)
        })
    }

    #[test]
    fn views_that_lie_apart_have_no_element_twice() {
        let (mut apart, mut twice) = (0, 0);
        for view in random_views(20_000) {
            let distinct = addresses(&view).into_iter().collect::<HashSet<_>>().len();
            let is_distinct = distinct == view.shape.iter().product::<usize>();
            assert!(is_distinct || !view.lies_apart(), "{view:?}");
            apart += usize::from(view.lies_apart());
            twice += usize::from(!is_distinct);
        }
        assert!(apart > 2000 && twice > 2000, "{apart} {twice}");
    }

    #[test]
    fn the_extent_is_where_the_elements_are() {
        for view in random_views(5000) {
            let bytes = bytes(&view);
            let extent = *bytes.iter().min().unwrap()..bytes.iter().max().unwrap() + 1;
            assert_eq!(view.extent(), extent, "{view:?}");
        }
    }

    #[test]
    fn views_that_do_not_overlap_have_no_byte_in_common() {
        let (mut between, mut common) = (0, 0);
        let views: Vec<View> = random_views(40_000).collect();
        for pair in views.chunks_exact(2) {
            let (mut x, y) = (pair[0], pair[1]);
            // Most often as alike as two tensors in one memory are.
            if x.start.addr().is_multiple_of(8) {
                x.strides = y.strides;
                x.dtype = y.dtype;
            }
            x.shape = y.shape;
            x = somewhere(x.dtype, (x.start.addr() - 0x10000) / x.dtype.size(), x.shape, x.strides);
            if !y.lies_apart() {
                continue;
            }
            let meet = !bytes(&x).is_disjoint(&bytes(&y));
            assert!(!meet || overlap(&x, &y), "{x:?} {y:?}");
            let one_in_the_other = x.extent().start < y.extent().end && y.extent().start < x.extent().end;
            between += usize::from(one_in_the_other && !overlap(&x, &y));
            common += usize::from(meet);
            // Of the same type and strides it is known for certain.
            if x.dtype == y.dtype && x.strides == y.strides {
                assert_eq!(overlap(&x, &y), meet, "{x:?} {y:?}");
            }
        }
        assert!(between > 200 && common > 1000, "{between} {common}");
    }

    #[test]
    fn one_group_of_rows_has_the_elements_of_all() {
        let mut collapsed = 0;
        for view in random_views(20_000) {
            assert_eq!(addresses(&view.of_rows()), addresses(&view));
            collapsed += usize::from(view.of_rows().shape[0] == 1 && view.shape[0] > 1 && view.shape[1] > 1);
        }
        assert!(collapsed > 50, "{collapsed}");
        let contiguous = somewhere(DType::F32, 0, [3, 5, 8], [40, 8, 1]);
        assert_eq!(contiguous.of_rows(), somewhere(DType::F32, 0, [1, 15, 8], [0, 8, 1]));
        let columns = somewhere(DType::F32, 0, [3, 5, 8], [100, 20, 1]);
        assert_eq!(columns.of_rows(), somewhere(DType::F32, 0, [1, 15, 8], [0, 20, 1]));
        let transposed = somewhere(DType::F32, 0, [3, 5, 8], [8, 24, 1]);
        assert_eq!(transposed.of_rows(), transposed);
    }

    #[test]
    fn what_the_layer_is_given_lies_where_the_caller_has_it() {
        let mut memory = vec![0.0f32; 1000];
        let mut shape = [3i64, 5, 8];
        let mut at = |element: u64, strides: &mut [i64; 3]| {
            let tensor = DLTensor {
                data: memory.as_mut_ptr().cast(),
                device: DLDevice { device_type: CPU, device_id: 0 },
                ndim: 3,
                dtype: DLDataType { code: 2, bits: 32, lanes: 1 },
                shape: shape.as_mut_ptr(),
                strides: strides.as_mut_ptr(),
                byte_offset: 4 * element,
            };
            // SAFETY: three sides and three strides.
            unsafe { view(&tensor, "x", ["batch", "seqlen", "d_model"], Device::Cpu, 0) }.unwrap()
        };
        let x = at(3, &mut [-100, 20, 1]);
        let y = at(500, &mut [100, 20, 1]);
        let x = View { start: x.start.wrapping_byte_add(4 * 200), ..x };
        // SAFETY: all elements are in `memory`, and nothing else uses it.
        let (apart, both) = unsafe { (tensors(x, y).unwrap(), tensors(y, y).unwrap()) };
        let Tensors::Separate { x: TensorView::F32(read), y: TensorViewMut::F32(written) } = apart else {
            panic!("two tensors of f32")
        };
        let Tensors::InPlace(TensorViewMut::F32(in_place)) = both else { panic!("one tensor of f32") };
        for (i, index) in [(0, [0, 0, 0]), (8, [0, 1, 0]), (40, [1, 0, 0]), (119, [2, 4, 7])] {
            assert_eq!(std::ptr::from_ref(&read[index]).addr(), addresses(&x)[i]);
        }
        assert_eq!(std::ptr::from_ref(&written[[0, 6, 2]]).addr(), addresses(&y)[50]);
        assert_eq!(std::ptr::from_ref(&in_place[[0, 6, 2]]).addr(), addresses(&y)[50]);
    }
}
