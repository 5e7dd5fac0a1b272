//! Tensors as other libraries have them: of every type and layout, with the bits of a forward of what they hold;
//! and whatever a descriptor must not say.

mod common;

use std::ptr::{self, null, null_mut};

use common::c_abi::{last_error, lm_forward_dlpack, lm_step_dlpack};
use common::layers::random_layer;
use common::random::Random;
use half::{bf16, f16};
use lite_mamba::ffi::{DLDataType, DLDevice, DLTensor};
use lite_mamba::simd::Isa;
use lite_mamba::{Cache, Config, DType, Element, Layer, Tokens, Variant};

const D_MODEL: usize = 8;
const DTYPES: [DType; 4] = [DType::F32, DType::F64, DType::Bf16, DType::F16];

const OK: i32 = 0;
const NULL_POINTER: i32 = 1;
const INVALID_ARGUMENT: i32 = 3;
const SHAPE_MISMATCH: i32 = 4;
const UNSUPPORTED: i32 = 5;
const OUT_OF_MEMORY: i32 = 9;

fn layer(dtype: DType) -> Layer {
    let config = Config { dtype, conv_dilations: vec![1, 2], ..Config::new(Variant::Ptcn, D_MODEL) };
    random_layer(&config, Isa::current(), 1)
}

/// Calls the function for this number of sides.
fn call(layer: &Layer, x: &DLTensor, cache: Option<&mut Cache>, y: &DLTensor) -> i32 {
    let (layer, cache) = (ptr::from_ref(layer).cast(), cache.map_or(null_mut(), ptr::from_mut).cast());
    let is_step = x.ndim == 2;
    // SAFETY: handles of the right kinds; descriptors of memory that lives, or that are refused before it is used.
    unsafe {
        if is_step {
            lm_step_dlpack(layer, x, cache, y, null_mut())
        } else {
            lm_forward_dlpack(layer, x, cache, y, null_mut())
        }
    }
}

/// How a tensor lies: elements before the first one, and elements to the next along each side.
#[derive(Clone, Debug)]
struct Layout {
    name: &'static str,
    first: i64,
    /// None for NULL.
    strides: Option<[i64; 3]>,
}

/// Layouts that give every element of (batch, seqlen, d_model) a place of its own.
fn layouts([b, t, d]: [i64; 3]) -> Vec<Layout> {
    let layout = |name, first, strides: [i64; 3]| Layout { name, first, strides: Some(strides) };
    vec![
        Layout { name: "NULL strides", first: 0, strides: None },
        layout("contiguous, behind something", 3, [t * d, d, 1]),
        layout("a range of the columns", 5, [t * (d + 7), d + 7, 1]),
        layout("a range of the tokens", d, [(t + 2) * d, d, 1]),
        layout("every second token", d, [2 * t * d, 2 * d, 1]),
        layout("token first", 0, [d, b * d, 1]),
        layout("column first", 0, [t, 1, b * t]),
        layout("every second column", 1, [2 * t * d, 2 * d, 2]),
        layout("sequences backwards", (b - 1) * t * d, [-t * d, d, 1]),
        layout("tokens backwards", (t - 1) * d, [t * d, -d, 1]),
        layout("columns backwards", d - 1, [t * d, d, -1]),
        layout("backwards", b * t * d - 1, [-t * d, -d, -1]),
    ]
}

/// Layouts in which one element has several places.
fn repeating([_, t, d]: [i64; 3]) -> Vec<Layout> {
    let layout = |name, strides: [i64; 3]| Layout { name, first: 2, strides: Some(strides) };
    vec![
        layout("one sequence for all", [0, d, 1]),
        layout("one token for all", [0, 0, 1]),
        layout("one token for each sequence", [d, 0, 1]),
        layout("one value for each token", [t, 1, 0]),
        layout("one value", [0, 0, 0]),
        layout("overlapping windows", [t, 1, 1]),
    ]
}

/// Memory, and a tensor in it.
struct Tensor {
    /// Of the largest alignment. What is no element of the tensor holds `GAP`.
    memory: Vec<u64>,
    dtype: DType,
    shape: Vec<i64>,
    strides: Option<Vec<i64>>,
    first: i64,
}

const GAP: u64 = 0xa5a5_a5a5_a5a5_a5a5;

impl Tensor {
    /// Of three sides, or without the middle one for a step.
    fn new(dtype: DType, shape: [i64; 3], layout: &Layout, is_step: bool) -> Self {
        let whole = shape.iter().product::<i64>();
        let values = layout.strides.map_or(whole, |strides| {
            let spans = shape.iter().zip(strides).map(|(side, stride)| (side - 1) * stride.max(0));
            layout.first + spans.sum::<i64>() + 1
        });
        let cut = |of: [i64; 3]| if is_step { vec![of[0], of[2]] } else { of.to_vec() };
        // And a little behind it.
        let memory = vec![GAP; (values as usize * dtype.size()).div_ceil(8) + 2];
        Tensor { memory, dtype, shape: cut(shape), strides: layout.strides.map(cut), first: layout.first }
    }

    fn contiguous(dtype: DType, shape: [i64; 3]) -> Self {
        Tensor::new(dtype, shape, &layouts(shape)[0], false)
    }

    /// Where an element lies, in elements from the beginning of the memory.
    fn places(&self) -> Vec<i64> {
        let mut strides = vec![1; self.shape.len()];
        for i in (1..strides.len()).rev() {
            strides[i - 1] = strides[i] * self.shape[i];
        }
        let strides = self.strides.as_ref().unwrap_or(&strides);
        (0..self.shape.iter().product())
            .map(|mut i: i64| {
                let mut place = self.first;
                for (side, stride) in self.shape.iter().zip(strides).rev() {
                    place += i % side * stride;
                    i /= side;
                }
                place
            })
            .collect()
    }

    fn fill(&mut self, values: &[f64]) {
        for (place, &value) in self.places().into_iter().zip(values) {
            let start = place as usize * self.dtype.size();
            let bytes = encode(value, self.dtype);
            for (i, byte) in bytes.into_iter().enumerate() {
                self.bytes_mut()[start + i] = byte;
            }
        }
    }

    fn values(&self) -> Vec<f64> {
        self.places()
            .into_iter()
            .map(|place| decode(&self.bytes()[place as usize * self.dtype.size()..], self.dtype))
            .collect()
    }

    /// Whether all memory but the elements is as it was.
    fn gaps_are_untouched(&self) -> bool {
        let mut bytes = self.bytes().to_vec();
        for place in self.places() {
            bytes[place as usize * self.dtype.size()..][..self.dtype.size()].fill(GAP as u8);
        }
        bytes.iter().all(|&byte| byte == GAP as u8)
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the bytes of the numbers.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), 8 * self.memory.len()) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the bytes of the numbers; any are valid.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_mut_ptr().cast(), 8 * self.memory.len()) }
    }

    fn descriptor(&mut self) -> DLTensor {
        DLTensor {
            data: self.memory.as_mut_ptr().cast(),
            device: DLDevice { device_type: 1, device_id: 0 },
            ndim: self.shape.len() as i32,
            dtype: dl_dtype(self.dtype),
            shape: self.shape.as_mut_ptr(),
            strides: self.strides.as_mut().map_or(null_mut(), |strides| strides.as_mut_ptr()),
            byte_offset: self.first as u64 * self.dtype.size() as u64,
        }
    }
}

fn dl_dtype(dtype: DType) -> DLDataType {
    let code = if dtype == DType::Bf16 { 4 } else { 2 };
    DLDataType { code, bits: 8 * dtype.size() as u8, lanes: 1 }
}

fn encode(value: f64, dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F32 => (value as f32).to_ne_bytes().to_vec(),
        DType::F64 => value.to_ne_bytes().to_vec(),
        DType::Bf16 => nearest(value, bf16::from_f64(value).to_bits(), |bits| bf16::from_bits(bits).into()),
        DType::F16 => nearest(value, f16::from_f64(value).to_bits(), |bits| f16::from_bits(bits).into()),
    }
}

/// The nearest value among those beside `about`; of two, the even one.
fn nearest(value: f64, about: u16, decode: impl Fn(u16) -> f64) -> Vec<u8> {
    let beside = [about, about.wrapping_sub(1), about.wrapping_add(1)];
    let distance = |bits: u16| (decode(bits) - value).abs();
    let closer = |&a: &u16, &b: &u16| distance(a).total_cmp(&distance(b)).then((a % 2).cmp(&(b % 2)));
    beside.into_iter().min_by(closer).unwrap().to_ne_bytes().to_vec()
}

fn decode(bytes: &[u8], dtype: DType) -> f64 {
    match dtype {
        DType::F32 => f32::from_ne_bytes(bytes[..4].try_into().unwrap()).into(),
        DType::F64 => f64::from_ne_bytes(bytes[..8].try_into().unwrap()),
        DType::Bf16 => bf16::from_ne_bytes(bytes[..2].try_into().unwrap()).into(),
        DType::F16 => f16::from_ne_bytes(bytes[..2].try_into().unwrap()).into(),
    }
}

fn rounded(values: &[f64], dtype: DType) -> Vec<f64> {
    values.iter().map(|&value| decode(&encode(value, dtype), dtype)).collect()
}

/// Numbers that every type holds.
fn input(count: usize) -> Vec<f64> {
    let mut random = Random(7);
    (0..count).map(|_| random.below(129) as f64 / 64.0 - 1.0).collect()
}

/// The outputs by the functions on slices, in the type of the arithmetic.
fn expected(layer: &Layer, x: &[f64], batch: usize, cache: Option<&mut Cache>) -> Vec<f64> {
    fn of<T: Element>(layer: &Layer, x: &[f64], batch: usize, cache: Option<&mut Cache>) -> Vec<f64> {
        let x: Vec<T> = x.iter().map(|&v| T::from_f64(v)).collect();
        let mut y = vec![T::default(); x.len()];
        let seqlen = x.len() / batch / D_MODEL;
        layer.forward(Tokens::Separate { x: &x, y: &mut y }, batch, seqlen, cache).unwrap();
        y.into_iter().map(T::to_f64).collect()
    }
    match layer.config().dtype {
        DType::F64 => of::<f64>(layer, x, batch, cache),
        _ => of::<f32>(layer, x, batch, cache),
    }
}

/// One forward from and into tensors that lie so.
fn forward(layer: &Layer, shape: [i64; 3], (of_x, x): (DType, &Layout), (of_y, y): (DType, &Layout)) {
    let what = format!("{of_x:?}, {} to {of_y:?}, {}; {shape:?}", x.name, y.name);
    let mut from = Tensor::new(of_x, shape, x, false);
    from.fill(&input(shape.iter().product::<i64>() as usize));
    let (before, held) = (from.memory.clone(), from.values());
    let mut to = Tensor::new(of_y, shape, y, false);
    assert_eq!(call(layer, &from.descriptor(), None, &to.descriptor()), OK, "{what}: {}", last_error());
    let wanted = expected(layer, &held, shape[0] as usize, None);
    assert!(to.values() == rounded(&wanted, of_y), "{what}");
    assert!(from.memory == before, "{what}: x was changed");
    assert!(to.gaps_are_untouched(), "{what}: more than y was written");
}

#[test]
fn every_pair_of_types_and_layouts_has_the_bits_of_a_plain_forward() {
    let layer = layer(DType::F32);
    for shape in [[3, 5, 8], [1, 6, 8], [4, 1, 8], [1, 1, 8]] {
        for x in layouts(shape).iter().chain(&repeating(shape)) {
            for y in &layouts(shape) {
                for of_x in DTYPES {
                    for of_y in DTYPES {
                        forward(&layer, shape, (of_x, x), (of_y, y));
                    }
                }
            }
        }
    }
}

#[test]
fn layers_of_every_type_take_tensors_of_every_type() {
    let shape = [2, 4, 8];
    for layer in DTYPES.map(layer) {
        for of_x in DTYPES {
            for of_y in DTYPES {
                for (x, y) in [(0, 0), (1, 7), (9, 2), (6, 11)] {
                    let layouts = layouts(shape);
                    forward(&layer, shape, (of_x, &layouts[x]), (of_y, &layouts[y]));
                }
            }
        }
    }
}

#[test]
fn tensors_larger_than_a_block_of_rows_too() {
    let layer = layer(DType::F32);
    for shape in [[3, 300, 8], [1, 1000, 8], [900, 1, 8], [450, 2, 8]] {
        for layout in layouts(shape) {
            for dtype in [DType::F32, DType::Bf16] {
                forward(&layer, shape, (dtype, &layout), (dtype, &layouts(shape)[1]));
                forward(&layer, shape, (dtype, &layouts(shape)[1]), (dtype, &layout));
            }
        }
    }
}

#[test]
fn sides_of_one_element_may_have_any_stride() {
    let layer = layer(DType::F32);
    for strides in [[0, 8, 1], [-1, 8, 1], [i64::MAX, 8, 1], [i64::MIN, 8, 1]] {
        let layout = Layout { name: "a batch of one", first: 0, strides: Some(strides) };
        forward(&layer, [1, 4, 8], (DType::F32, &layout), (DType::F32, &layout));
    }
    for strides in [[8, i64::MIN, 1], [8, 0, 1]] {
        let layout = Layout { name: "a seqlen of one", first: 0, strides: Some(strides) };
        forward(&layer, [4, 1, 8], (DType::F32, &layout), (DType::F32, &layout));
    }
    let narrow = Config::new(Variant::Baseline, 1);
    let narrow = random_layer(&narrow, Isa::current(), 1);
    for strides in [[4, 1, 0], [4, 1, i64::MAX], [4, -1, -9]] {
        let layout = Layout { name: "a d_model of one", first: 3, strides: Some(strides) };
        let (mut x, mut y) =
            (Tensor::new(DType::F32, [2, 4, 1], &layout, false), Tensor::contiguous(DType::F32, [2, 4, 1]));
        x.fill(&input(8));
        assert_eq!(call(&narrow, &x.descriptor(), None, &y.descriptor()), OK, "{}", last_error());
        let x: Vec<f32> = x.values().into_iter().map(|v| v as f32).collect();
        let mut wanted = vec![0.0f32; 8];
        narrow.forward(Tokens::Separate { x: &x, y: &mut wanted }, 2, 4, None).unwrap();
        assert!(y.values() == wanted.into_iter().map(f64::from).collect::<Vec<_>>());
    }
}

#[test]
fn outputs_may_take_the_place_of_inputs_in_every_layout() {
    for layer in [DType::F32, DType::Bf16].map(layer) {
        for shape in [[3, 5, 8], [2, 400, 8]] {
            for layout in layouts(shape) {
                for dtype in DTYPES {
                    let mut both = Tensor::new(dtype, shape, &layout, false);
                    both.fill(&input(both.places().len()));
                    let wanted = rounded(&expected(&layer, &both.values(), shape[0] as usize, None), dtype);
                    let (x, y) = (both.descriptor(), both.descriptor());
                    assert_eq!(call(&layer, &x, None, &y), OK, "{}: {}", layout.name, last_error());
                    assert!(both.values() == wanted, "{dtype:?}, {}", layout.name);
                    assert!(both.gaps_are_untouched());
                }
            }
        }
    }
}

#[test]
fn steps_and_chunks_go_on_from_a_cache() {
    const BATCH: usize = 3;
    let layer = layer(DType::F32);
    let shape = [BATCH as i64, 1, D_MODEL as i64];
    for x in layouts(shape).iter().chain(&repeating(shape)) {
        for y in layouts(shape) {
            for (of_x, of_y) in [(DType::F32, DType::F32), (DType::F16, DType::F64)] {
                let mut caches = [(); 2].map(|()| Cache::new(&layer, BATCH, 0).unwrap());
                for sides in [2, 3, 2, 2] {
                    let mut from = Tensor::new(of_x, shape, x, sides == 2);
                    from.fill(&input(BATCH * D_MODEL));
                    let mut to = Tensor::new(of_y, shape, &y, sides == 2);
                    let status = call(&layer, &from.descriptor(), Some(&mut caches[0]), &to.descriptor());
                    assert_eq!(status, OK, "{}", last_error());
                    let wanted = expected(&layer, &from.values(), BATCH, Some(&mut caches[1]));
                    assert!(to.values() == rounded(&wanted, of_y), "{} to {}", x.name, y.name);
                    assert!(to.gaps_are_untouched());
                }
                assert_eq!(caches[0].seqlen_offset(), 4);
            }
        }
    }
}

#[test]
fn memory_that_the_processor_shares_is_the_processors() {
    let layer = layer(DType::F32);
    let (mut x, mut y) =
        (Tensor::contiguous(DType::F32, [1, 2, 8]), Tensor::contiguous(DType::F32, [1, 2, 8]));
    x.fill(&input(16));
    let (mut of_x, of_y) = (x.descriptor(), y.descriptor());
    of_x.device = DLDevice { device_type: 3, device_id: 5 };
    assert_eq!(call(&layer, &of_x, None, &of_y), OK, "{}", last_error());
    assert!(y.values() == expected(&layer, &x.values(), 1, None));
}

/// A call with two tensors of (2, 3, 8) in one memory: its status. What it did to the memory is checked.
fn in_one_memory(x: (DType, Layout), y: (DType, Layout)) -> i32 {
    let layer = layer(DType::F32);
    let [mut x, mut y] = [x, y].map(|(dtype, layout)| Tensor::new(dtype, [2, 3, 8], &layout, false));
    // The tensors' own memory is only for looking at copies of the one that they share.
    x.memory = vec![0; 200];
    x.fill(&input(48));
    let before = x.values();
    let mut memory = x.memory.clone();
    let start = memory.as_mut_ptr().cast();
    let [of_x, of_y] = [&mut x, &mut y].map(|tensor| DLTensor { data: start, ..tensor.descriptor() });
    let status = call(&layer, &of_x, None, &of_y);
    if status == OK {
        (x.memory, y.memory) = (memory.clone(), memory);
        let wanted = rounded(&expected(&layer, &before, 2, None), y.dtype);
        assert!(y.values() == wanted, "y is not what it must be");
        assert!(x.values() == before, "x was changed");
    } else {
        assert!(memory == x.memory, "a call that is refused has written");
        assert!(last_error().contains("y overlaps x in part"), "{}", last_error());
    }
    status
}

#[test]
fn x_and_y_may_lie_between_each_other() {
    let at = |first, strides| Layout { name: "", first, strides: Some(strides) };
    let (f32, bf16, f64) = (DType::F32, DType::Bf16, DType::F64);
    let fine = [
        ("ranges of columns", (f32, at(0, [48, 16, 1])), (f32, at(8, [48, 16, 1]))),
        ("ranges of columns, y first", (f32, at(8, [48, 16, 1])), (f32, at(0, [48, 16, 1]))),
        ("even and odd columns", (f32, at(0, [48, 16, 2])), (f32, at(1, [48, 16, 2]))),
        ("even and odd tokens", (f32, at(0, [48, 16, 1])), (f32, at(8, [48, 16, 1]))),
        ("sequences in turn", (f32, at(0, [48, 8, 1])), (f32, at(24, [48, 8, 1]))),
        ("token first", (f32, at(0, [8, 32, 1])), (f32, at(16, [8, 32, 1]))),
        ("backwards", (f32, at(95, [-48, -16, -2])), (f32, at(94, [-48, -16, -2]))),
        ("columns of two types", (f32, at(0, [48, 16, 1])), (bf16, at(16, [96, 32, 1]))),
        ("columns of one, in other orders", (f32, at(7, [48, 16, -1])), (f32, at(8, [48, 16, 1]))),
        ("one token for all, before y", (f32, at(0, [0, 0, 1])), (f32, at(8, [24, 8, 1]))),
        ("one behind the other", (f64, at(0, [24, 8, 1])), (bf16, at(192, [24, 8, 1]))),
    ];
    for (name, x, y) in fine {
        assert_eq!(in_one_memory(x, y), OK, "{name}: {}", last_error());
    }
    let wrong = [
        ("one element on", (f32, at(0, [24, 8, 1])), (f32, at(1, [24, 8, 1]))),
        ("one token on", (f32, at(0, [24, 8, 1])), (f32, at(8, [24, 8, 1]))),
        ("the last element is the first", (f32, at(0, [24, 8, 1])), (f32, at(47, [24, 8, 1]))),
        ("the first is the last", (f32, at(47, [24, 8, 1])), (f32, at(0, [24, 8, 1]))),
        ("in another order", (f32, at(0, [24, 8, 1])), (f32, at(47, [-24, -8, -1]))),
        ("as another type", (f32, at(0, [24, 8, 1])), (bf16, at(0, [24, 8, 1]))),
        ("of larger elements", (f32, at(0, [24, 8, 1])), (f64, at(0, [24, 8, 1]))),
        ("one token in y", (f32, at(16, [0, 0, 1])), (f32, at(0, [24, 8, 1]))),
        ("columns that meet", (f32, at(0, [48, 16, 1])), (f32, at(7, [48, 16, 1]))),
        ("columns around a token", (f32, at(0, [48, 16, 1])), (f32, at(9, [48, 16, 1]))),
        ("half an element on", (f32, at(0, [48, 16, 2])), (bf16, at(1, [96, 32, 4]))),
    ];
    for (name, x, y) in wrong {
        assert_eq!(in_one_memory(x, y), INVALID_ARGUMENT, "{name}");
    }
}

#[test]
fn elements_of_y_need_places_of_their_own() {
    let layer = layer(DType::F32);
    let shape = [2, 3, 8];
    let interleaving = Layout { name: "sides that interleave", first: 0, strides: Some([3, 100, 2]) };
    for layout in repeating(shape).iter().chain([&interleaving]) {
        let mut x = Tensor::contiguous(DType::F32, shape);
        let mut y = Tensor::new(DType::F32, shape, layout, false);
        let before = y.memory.clone();
        let status = call(&layer, &x.descriptor(), None, &y.descriptor());
        assert_eq!(status, INVALID_ARGUMENT, "{}", layout.name);
        assert!(last_error().contains("y has strides"), "{}", last_error());
        assert!(y.memory == before, "{}", layout.name);
        // In place neither.
        assert_eq!(call(&layer, &y.descriptor(), None, &y.descriptor()), INVALID_ARGUMENT);
    }
}

#[test]
fn empty_tensors_are_neither_read_nor_written() {
    let layer = layer(DType::F32);
    for (batch, seqlen) in [(0, 5), (5, 0), (0, 0), (i64::MAX, 0), (0, i64::MAX)] {
        for strides in [None, Some(vec![i64::MIN; 3])] {
            let mut shape = vec![batch, seqlen, D_MODEL as i64];
            let mut strides = strides;
            let empty = DLTensor {
                data: null_mut(),
                device: DLDevice { device_type: 1, device_id: 0 },
                ndim: 3,
                dtype: dl_dtype(DType::F16),
                shape: shape.as_mut_ptr(),
                strides: strides.as_mut().map_or(null_mut(), |strides| strides.as_mut_ptr()),
                byte_offset: u64::MAX,
            };
            let mut cache = Cache::new(&layer, 2, 0).unwrap();
            assert_eq!(call(&layer, &empty, Some(&mut cache), &empty), OK, "{}", last_error());
            assert_eq!(cache.seqlen_offset(), 0);
        }
    }
    let mut shape = [0, D_MODEL as i64];
    let mut none = Tensor::contiguous(DType::F32, [1, 1, 8]).descriptor();
    none = DLTensor { data: null_mut(), ndim: 2, shape: shape.as_mut_ptr(), strides: null_mut(), ..none };
    let mut cache = Cache::new(&layer, 0, 0).unwrap();
    assert_eq!(call(&layer, &none, Some(&mut cache), &none), OK, "{}", last_error());
}

/// A change to a descriptor, and the status and words it must lead to; X stands for the argument's name.
type Change = (fn(&mut DLTensor), i32, &'static str);

/// Another number in the shape or the strides, which are the test's own.
fn set(numbers: *mut i64, index: usize, value: i64) {
    // SAFETY: three numbers, for as long as the tensor lives.
    unsafe { *numbers.add(index) = value };
}

const CHANGES: &[Change] = &[
    (|t| t.ndim = 2, SHAPE_MISMATCH, "X has 2 dimensions; it must have 3, (batch, seqlen, d_model)"),
    (|t| t.ndim = 4, SHAPE_MISMATCH, "X has 4 dimensions"),
    (|t| t.ndim = 0, SHAPE_MISMATCH, "X has 0 dimensions"),
    (|t| t.ndim = -1, SHAPE_MISMATCH, "X has -1 dimensions"),
    (|t| t.ndim = i32::MIN, SHAPE_MISMATCH, "X has -2147483648 dimensions"),
    (|t| t.shape = null_mut(), NULL_POINTER, "X->shape is NULL"),
    (|t| t.shape = t.shape.wrapping_byte_add(1), INVALID_ARGUMENT, "X->shape is 0x"),
    (|t| t.strides = t.strides.wrapping_byte_add(4), INVALID_ARGUMENT, "X->strides is 0x"),
    (|t| t.data = null_mut(), NULL_POINTER, "X->data is NULL"),
    (|t| t.byte_offset = 1, INVALID_ARGUMENT, "it must be aligned to 4 bytes"),
    (|t| t.data = t.data.wrapping_byte_add(2), INVALID_ARGUMENT, "X->data + byte_offset is 0x"),
    (|t| t.byte_offset = u64::MAX, INVALID_ARGUMENT, "X has strides or a byte_offset that lead out"),
    (|t| t.byte_offset = u64::MAX - 63, INVALID_ARGUMENT, "X has strides or a byte_offset that lead out"),
    (|t| t.dtype.lanes = 0, UNSUPPORTED, "X->dtype has 0 lanes; it must have 1"),
    (|t| t.dtype.lanes = 4, UNSUPPORTED, "X->dtype has 4 lanes"),
    (|t| t.dtype.bits = 8, UNSUPPORTED, "X->dtype has code 2 and 8 bits; it must be kDLFloat"),
    (|t| t.dtype.bits = 0, UNSUPPORTED, "X->dtype has code 2 and 0 bits"),
    (|t| t.dtype.bits = 128, UNSUPPORTED, "X->dtype has code 2 and 128 bits"),
    (|t| t.dtype.code = 0, UNSUPPORTED, "X->dtype has code 0 and 32 bits"),
    (|t| t.dtype.code = 4, UNSUPPORTED, "X->dtype has code 4 and 32 bits"),
    (|t| t.dtype.code = 255, UNSUPPORTED, "X->dtype has code 255"),
    (|t| t.device.device_type = 2, INVALID_ARGUMENT, "X->device is kDLCUDA (2); the layer's is kDLCPU (1)"),
    (|t| t.device.device_type = 13, INVALID_ARGUMENT, "X->device is kDLCUDAManaged (13)"),
    (|t| t.device.device_type = 0, INVALID_ARGUMENT, "X->device is unknown (0)"),
    (|t| t.device.device_type = -1, INVALID_ARGUMENT, "X->device is unknown (-1)"),
    (|t| set(t.shape, 0, -1), INVALID_ARGUMENT, "X->shape[0] is -1; it must not be negative"),
    (|t| set(t.shape, 1, i64::MIN), INVALID_ARGUMENT, "X->shape[1] is -9223372036854775808"),
    (|t| set(t.shape, 2, -8), INVALID_ARGUMENT, "X->shape[2] is -8"),
    (|t| set(t.shape, 2, 7), SHAPE_MISMATCH, "X has a d_model of 7; it must have the layer's, 8"),
    (|t| set(t.shape, 2, 0), SHAPE_MISMATCH, "X has a d_model of 0"),
    (|t| set(t.shape, 1, 4), SHAPE_MISMATCH, "y has shape"),
    (|t| set(t.shape, 0, i64::MAX), OUT_OF_MEMORY, "X has shape (9223372036854775807, 3, 8); no memory"),
    (|t| set(t.shape, 0, 1 << 45), OUT_OF_MEMORY, "X needs"),
    (|t| set(t.strides, 0, i64::MAX), INVALID_ARGUMENT, "X has strides or a byte_offset that lead out"),
    (|t| set(t.strides, 1, i64::MIN), INVALID_ARGUMENT, "X has strides or a byte_offset that lead out"),
    (|t| set(t.strides, 2, i64::MAX / 7), INVALID_ARGUMENT, "X has strides or a byte_offset that lead out"),
    (|t| set(t.strides, 0, -(1 << 60)), INVALID_ARGUMENT, "X has strides or a byte_offset that lead out"),
];

#[test]
fn what_a_descriptor_must_not_say() {
    let layer = layer(DType::F32);
    let shape = [2, 3, 8];
    for &(change, code, words) in CHANGES {
        for name in ["x", "y"] {
            let [mut x, mut y] = [(); 2].map(|()| Tensor::new(DType::F32, shape, &layouts(shape)[2], false));
            x.fill(&input(48));
            let before = y.memory.clone();
            let mut cache = Cache::new(&layer, 2, 0).unwrap();
            let (mut of_x, mut of_y) = (x.descriptor(), y.descriptor());
            change(if name == "x" { &mut of_x } else { &mut of_y });
            let words = words.replace('X', name);
            let (handle, state) = (ptr::from_ref(&layer).cast(), ptr::from_mut(&mut cache).cast());
            // SAFETY: live handles; nothing is read or written of what is refused.
            let status = unsafe { lm_forward_dlpack(handle, &of_x, state, &of_y, null_mut()) };
            assert_eq!(status, code, "{name}: {words}: {}", last_error());
            assert!(last_error().contains(&words), "\"{}\" instead of \"{words}\"", last_error());
            assert!(y.memory == before && cache.seqlen_offset() == 0);
        }
    }
}

#[test]
fn what_the_functions_refuse_of_their_other_arguments() {
    let layer = layer(DType::F32);
    let [mut x, mut y] = [(); 2].map(|()| Tensor::contiguous(DType::F32, [2, 3, 8]));
    let (x, y) = (x.descriptor(), y.descriptor());
    let mut step = Tensor::new(DType::F32, [2, 1, 8], &layouts([2, 1, 8])[0], true);
    let token = step.descriptor();
    let mut cache = Cache::new(&layer, 3, 0).unwrap();
    let (layer, state) = (ptr::from_ref(&layer).cast(), ptr::from_mut(&mut cache).cast());
    let no = null_mut();
    let odd = ptr::from_ref(&x).wrapping_byte_add(1);
    let refused = |status, code, words: &str| {
        assert_eq!(status, code, "{words}: {}", last_error());
        assert!(last_error().contains(words), "\"{}\" instead of \"{words}\"", last_error());
    };
    // SAFETY: live handles or NULL; nothing is read or written of what is refused.
    unsafe {
        refused(lm_forward_dlpack(null(), &x, no, &y, no), NULL_POINTER, "layer is NULL");
        refused(lm_forward_dlpack(layer, null(), no, &y, no), NULL_POINTER, "x is NULL");
        refused(lm_forward_dlpack(layer, &x, no, null(), no), NULL_POINTER, "y is NULL");
        refused(lm_forward_dlpack(layer, odd, no, &y, no), INVALID_ARGUMENT, "x is 0x");
        refused(lm_forward_dlpack(layer, &token, no, &y, no), SHAPE_MISMATCH, "x has 2 dimensions");
        refused(lm_forward_dlpack(layer, &x, state, &y, no), SHAPE_MISMATCH, "batch is 2");
        refused(lm_step_dlpack(null(), &token, state, &token, no), NULL_POINTER, "layer is NULL");
        refused(lm_step_dlpack(layer, null(), state, &token, no), NULL_POINTER, "x is NULL");
        refused(lm_step_dlpack(layer, &token, no, &token, no), NULL_POINTER, "cache is NULL");
        refused(lm_step_dlpack(layer, &token, state, null(), no), NULL_POINTER, "y is NULL");
        refused(
            lm_step_dlpack(layer, &x, state, &token, no),
            SHAPE_MISMATCH,
            "x has 3 dimensions; it must have 2",
        );
        refused(lm_step_dlpack(layer, &token, state, &y, no), SHAPE_MISMATCH, "y has 3 dimensions");
        refused(
            lm_step_dlpack(layer, &token, state, &token, no),
            SHAPE_MISMATCH,
            "x has a batch of 2; it must have 3",
        );
    }
    assert_eq!(cache.seqlen_offset(), 0);
}
