//! Two descriptors that say anything: what is refused has touched nothing; what is accepted lies where it says, and has
//! the outputs of a plain forward, in its own elements and nowhere else.
//!
//! An input is one byte (a step, or else a forward; with a cache or without) and two descriptors of 21 bytes:
//! flags, ndim, device, code, bits, lanes, then byte_offset, three sides and three strides as little-endian i16, and one
//! bit for each of these numbers that is to be a large one.

#![no_main]

#[allow(dead_code)]
#[path = "../../tests/common/c_abi.rs"]
mod c_abi;

use std::collections::HashSet;
use std::ffi::c_void;
use std::ptr::{self, null_mut};
use std::sync::OnceLock;

use c_abi::{lm_forward_dlpack, lm_step_dlpack};
use libfuzzer_sys::fuzz_target;
use lite_mamba::ffi::{DLDataType, DLDevice, DLTensor, View, view};
use lite_mamba::{Cache, Config, DType, Device, Element, Layer, Tokens, Variant, threads};

const D_MODEL: usize = 4;
const BATCH: usize = 2;
/// Bytes that the descriptors may point into.
const ARENA: usize = 4096;
const GIVEN: usize = 21;

fuzz_target!(|data: &[u8]| {
    let Some((&mode, data)) = data.split_first() else { return };
    if data.len() < 2 * GIVEN {
        return;
    }
    let is_step = mode & 1 == 1;
    let mut arena = Arena::new();
    let [mut x, mut y] = [0, 1].map(|i| Given::read(&data[i * GIVEN..][..GIVEN]));
    let (of_x, of_y) = (x.descriptor(&mut arena), y.descriptor(&mut arena));

    let views = [&of_x, &of_y]
        .map(|tensor| if is_step { checked(tensor, ["b", "d"]) } else { checked(tensor, ["b", "t", "d"]) });
    for view in views.iter().flatten() {
        check(view);
    }
    // What is accepted by itself is not touched unless it is ours.
    if views.iter().flatten().any(|view| !arena.holds(view)) {
        return;
    }

    let layer = layer();
    let mut cache = (is_step || mode & 2 == 2).then(|| Cache::new(layer, BATCH, 0).unwrap());
    let handle = ptr::from_ref(layer).cast();
    let state = cache.as_mut().map_or(null_mut(), ptr::from_mut).cast();
    let before = arena.clone_bytes();
    // SAFETY: handles of the right kinds, and descriptors of the arena, or that are refused before it is used.
    let status = unsafe {
        if is_step {
            lm_step_dlpack(handle, &of_x, state, &of_y, null_mut())
        } else {
            lm_forward_dlpack(handle, &of_x, state, &of_y, null_mut())
        }
    };
    let after = arena.clone_bytes();
    let moved = cache.as_ref().map(Cache::seqlen_offset);
    let [Some(x), Some(y)] = views else {
        assert!(status != 0 && before == after && moved.unwrap_or(0) == 0);
        return;
    };
    if status != 0 {
        assert!(before == after && moved.unwrap_or(0) == 0);
        return;
    }
    assert!(x.shape == y.shape);
    if x.shape.contains(&0) {
        assert!(before == after && moved.unwrap_or(0) == 0);
        return;
    }
    assert!(y.lies_apart() && x.shape[2] == D_MODEL);
    let (batch, seqlen) = if is_step { (x.shape[1], 1) } else { (x.shape[0], x.shape[1]) };
    assert_eq!(moved, cache.is_some().then_some(seqlen as u64));
    let start = arena.start();
    let values: Vec<f32> = addresses(&x).map(|at| read(&before[at - start..], x.dtype) as f32).collect();
    let mut wanted = vec![0.0; values.len()];
    layer.forward(Tokens::Separate { x: &values, y: &mut wanted }, batch, seqlen, None).unwrap();
    let mut expected = before;
    for (at, value) in addresses(&y).zip(wanted) {
        write(&mut expected[at - start..], y.dtype, value);
    }
    assert!(expected == after, "{x:?} {y:?}");
});

fn layer() -> &'static Layer {
    static LAYER: OnceLock<Layer> = OnceLock::new();
    LAYER.get_or_init(|| {
        threads::set_num_threads(1).unwrap();
        Layer::new(&Config::new(Variant::Baseline, D_MODEL)).unwrap()
    })
}

fn checked<const SIDES: usize>(tensor: &DLTensor, sides: [&str; SIDES]) -> Option<View> {
    // SAFETY: three numbers are behind each pointer, which is as many as are read.
    unsafe { view(tensor, "x", sides, Device::Cpu, 0) }.ok()
}

/// What must hold of every view, seen element by element where there are few.
fn check(view: &View) {
    let count = view.shape.iter().try_fold(1usize, |count, &side| count.checked_mul(side));
    if count == Some(0) || view.shape.contains(&0) {
        assert!(view.extent().is_empty());
        return;
    }
    let size = view.dtype.size();
    assert!(!view.start.is_null() && view.start.addr().is_multiple_of(size));
    let count = count.expect("no more than can exist");
    assert!(count <= isize::MAX as usize / size);
    let extent = view.extent();
    assert!(extent.contains(&view.start.addr()) && extent.len() <= isize::MAX as usize);
    if count > 4096 {
        return;
    }
    let places: Vec<usize> = addresses(view).collect();
    assert_eq!(extent, *places.iter().min().unwrap()..places.iter().max().unwrap() + size);
    let distinct: HashSet<usize> = places.iter().copied().collect();
    assert!(!view.lies_apart() || distinct.len() == places.len(), "{view:?}");
}

/// Where every element lies, in order.
fn addresses(view: &View) -> impl Iterator<Item = usize> + use<> {
    let View { dtype, start, shape: [groups, rows, columns], strides, .. } = *view;
    let at = move |index: [usize; 3]| {
        let elements: i128 = (0..3).map(|i| index[i] as i128 * strides[i] as i128).sum();
        usize::try_from(start.addr() as i128 + elements * dtype.size() as i128).expect("an address")
    };
    (0..groups).flat_map(move |i| (0..rows).flat_map(move |j| (0..columns).map(move |k| at([i, j, k]))))
}

fn read(bytes: &[u8], dtype: DType) -> f64 {
    fn of<T: Element>(bytes: &[u8]) -> f64 {
        assert!(bytes.len() >= size_of::<T>());
        // SAFETY: so many bytes, of which any are a value.
        unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }.to_f64()
    }
    match dtype {
        DType::F32 => of::<f32>(bytes),
        DType::F64 => of::<f64>(bytes),
        DType::Bf16 => of::<half::bf16>(bytes),
        DType::F16 => of::<half::f16>(bytes),
    }
}

fn write(bytes: &mut [u8], dtype: DType, value: f32) {
    fn of<T: Element>(bytes: &mut [u8], value: f32) {
        assert!(bytes.len() >= size_of::<T>());
        // SAFETY: so many bytes.
        unsafe { bytes.as_mut_ptr().cast::<T>().write_unaligned(T::from_f64(value.into())) };
    }
    match dtype {
        DType::F32 => of::<f32>(bytes, value),
        DType::F64 => of::<f64>(bytes, value),
        DType::Bf16 => of::<half::bf16>(bytes, value),
        DType::F16 => of::<half::f16>(bytes, value),
    }
}

/// Memory that the sanitizer watches the ends of, with numbers that are finite as every type.
struct Arena(Vec<u64>);

impl Arena {
    fn new() -> Self {
        let word = |i: usize| {
            0x3c00_3c00_3c00_3c00 | (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) & 0x00ff_00ff_00ff_00ff
        };
        Arena((0..ARENA / 8).map(word).collect())
    }

    fn start(&self) -> usize {
        self.0.as_ptr().addr()
    }

    fn holds(&self, view: &View) -> bool {
        let extent = view.extent();
        extent.is_empty() || (self.start() <= extent.start && extent.end <= self.start() + ARENA)
    }

    fn clone_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }
}

/// A descriptor, and what it points to.
struct Given {
    flags: u8,
    tensor: DLTensor,
    shape: [i64; 3],
    strides: [i64; 3],
}

impl Given {
    fn read(bytes: &[u8]) -> Self {
        let wide = bytes[20];
        let number = |i: usize| {
            let low = i64::from(i16::from_le_bytes([bytes[8 + 2 * i], bytes[9 + 2 * i]]));
            // Some are as large as numbers can be.
            if wide >> i & 1 == 1 { low.rotate_right(8) } else { low }
        };
        let byte_offset = i16::from_le_bytes([bytes[6], bytes[7]]);
        Given {
            flags: bytes[0],
            tensor: DLTensor {
                data: null_mut(),
                device: DLDevice { device_type: i32::from(bytes[2] as i8), device_id: i32::from(wide) },
                ndim: i32::from(bytes[1] as i8),
                dtype: DLDataType { code: bytes[3], bits: bytes[4], lanes: bytes[5].into() },
                shape: null_mut(),
                strides: null_mut(),
                byte_offset: if wide >> 6 & 1 == 1 { byte_offset as u64 } else { byte_offset as u16 as u64 },
            },
            shape: [0, 1, 2].map(number),
            strides: [3, 4, 5].map(number),
        }
    }

    /// The flags leave out what may be NULL, and put things where they must not be.
    fn descriptor(&mut self, arena: &mut Arena) -> DLTensor {
        let flag = |bit: u8| self.flags >> bit & 1 == 1;
        let start = arena.0.as_mut_ptr().cast::<c_void>();
        DLTensor {
            data: if flag(0) { null_mut() } else { start.wrapping_byte_add(usize::from(flag(1))) },
            shape: if flag(2) { null_mut() } else { self.shape.as_mut_ptr() },
            strides: match (flag(3), flag(4)) {
                (true, _) => null_mut(),
                (_, true) => self.strides.as_mut_ptr().wrapping_byte_add(1),
                _ => self.strides.as_mut_ptr(),
            },
            ..self.tensor
        }
    }
}
