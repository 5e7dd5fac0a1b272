"""Which memory the library is given: the caller's own wherever it can be."""

import array
import ctypes
import sys
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided
from support import random

import lite_mamba_native as lm
from lite_mamba_native import Cache, Config, Layer, _abi, _library

D_MODEL = 8


@pytest.fixture
def layer():
    with Layer(Config(D_MODEL, conv_dilations=(1, 2))) as layer:
        yield layer


@pytest.fixture
def given(monkeypatch):
    """The addresses of x and y in the calls of lm_forward and lm_step, and of those in _dlpack."""
    addresses = []
    lib = _library.lib

    def spy(name, x, y):
        function = getattr(lib, name)

        def call(*arguments):
            addresses.append((address(arguments[x]), address(arguments[y])))
            return function(*arguments)

        monkeypatch.setattr(lib, name, call)

    spy("lm_forward", 1, 5)
    spy("lm_step", 1, 3)
    spy("lm_forward_varlen", 1, 5)
    spy("lm_forward_dlpack", 1, 3)
    spy("lm_step_dlpack", 1, 3)
    return addresses


def address(argument):
    if isinstance(argument, _abi.DLTensor):
        return argument.data + argument.byte_offset
    return argument if isinstance(argument, int) else ctypes.addressof(argument)


def beginning(values):
    return values.__array_interface__["data"][0]


def foreign(values, protocol):
    if protocol == "dlpack":

        class Foreign:
            def __dlpack__(self, **options):
                return values.__dlpack__(**options)

            def __dlpack_device__(self):
                return values.__dlpack_device__()

    elif protocol == "array interface":

        class Foreign:
            __array_interface__ = values.__array_interface__

    elif protocol == "array":

        class Foreign:
            def __array__(self, dtype=None, copy=None):
                return values

    else:
        return memoryview(values)
    return Foreign()


def test_x_and_out_are_used_where_they_lie(layer, given):
    x, out = random(2, 5, D_MODEL), np.empty((2, 5, D_MODEL), np.float32)
    y = layer(x)
    assert layer.forward(x, out=out) is out
    assert given[-1] == (beginning(x), beginning(out))
    assert np.array_equal(out, y)

    packed, out = x[0].copy(), np.empty((5, D_MODEL), np.float32)
    assert layer.forward_varlen(packed, [0, 2, 5], out=out) is out
    assert given[-1] == (beginning(packed), beginning(out))
    assert np.array_equal(out[:2], y[0, :2])

    with Cache(layer, 2) as cache:
        token, out = x[:, 0].copy(), np.empty((2, D_MODEL), np.float32)
        assert layer.step(token, cache, out=out) is out
        assert given[-1] == (beginning(token), beginning(out))
        assert np.array_equal(out, y[:, 0])


def test_a_part_of_an_array_is_used_where_it_lies(layer, given):
    x = random(4, 5, D_MODEL)
    layer(x[1:3])
    assert given[-1][0] == beginning(x) + x.strides[0]
    layer(x[2])
    assert given[-1][0] == beginning(x) + 2 * x.strides[0]


def test_out_may_be_x(layer, given):
    x = random(2, 5, D_MODEL)
    y = layer(x)
    assert layer(x, out=x) is x
    assert given[-1] == (beginning(x), beginning(x))
    assert np.array_equal(x, y)


@pytest.mark.parametrize("protocol", ["dlpack", "array interface", "array", "buffer"])
def test_memory_of_others_is_used_where_it_lies(layer, given, protocol):
    x = random(2, 5, D_MODEL)
    y = layer(foreign(x, protocol))
    assert given[-1][0] == beginning(x)
    assert np.array_equal(y, layer(x))


def test_memory_that_cannot_be_written_is_read_where_it_lies(layer, given, tmp_path):
    x = random(2, 5, D_MODEL)
    y = layer(x)
    x.setflags(write=False)
    assert np.array_equal(layer(x), y)
    assert given[-1][0] == beginning(x)

    x.tofile(tmp_path / "x")
    mapped = np.memmap(tmp_path / "x", np.float32, "r", shape=x.shape)
    assert np.array_equal(layer(mapped), y)
    assert given[-1][0] == beginning(mapped)

    values = array.array("f", x.ravel().tolist())
    assert np.array_equal(layer(np.frombuffer(values, np.float32).reshape(x.shape)), y)
    assert given[-1][0] == values.buffer_info()[0]


def unaligned(x):
    return np.frombuffer(b"." + x.tobytes(), np.float32, offset=1).reshape(x.shape)


LAYOUTS = {
    "Fortran": np.asfortranarray,
    "backwards": lambda x: x[::-1, ::-1, ::-1],
    "every second column": lambda x: x.repeat(2, axis=2)[..., ::2],
    "a range of columns": lambda x: x.repeat(2, axis=2)[..., 3 : 3 + D_MODEL],
    "token first": lambda x: x.transpose(1, 0, 2).copy().transpose(1, 0, 2),
    "one sequence for all": lambda x: np.broadcast_to(x[:1], x.shape),
}
TYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("dtype", TYPES)
def test_every_layout_and_type_is_read_where_it_lies(layer, given, layout, dtype):
    x = layout(random(64, 512, D_MODEL).astype(dtype))
    assert not x.flags.carray
    before, out = x.tobytes(), np.empty(x.shape, np.float32)
    assert peak(lambda: layer(x, out=out)) < 10_000
    assert given[-1] == (beginning(x), beginning(out))
    assert x.tobytes() == before
    plain = layer(np.array(x, np.float32, order="C"))
    assert np.array_equal(out, plain)
    y = layer(x)
    assert y.dtype == dtype
    assert y.flags.c_contiguous
    assert np.array_equal(y, plain.astype(dtype))


@pytest.mark.parametrize("layout", list(LAYOUTS)[:-1])
@pytest.mark.parametrize("dtype", TYPES)
def test_every_layout_and_type_is_written_where_it_lies(layer, given, layout, dtype):
    x = random(3, 5, D_MODEL)
    out = LAYOUTS[layout](np.zeros(x.shape, dtype))
    assert layer(x, out=out) is out
    assert given[-1] == (beginning(x), beginning(out))
    assert np.array_equal(out, layer(x).astype(dtype))

    tokens, states = out[:, 0], layer(x).astype(dtype)
    with Cache(layer, 3) as cache:
        for i in range(5):
            assert layer.step(x[:, i], cache, out=tokens) is tokens
            assert given[-1] == (beginning(x[:, i]), beginning(tokens))
            assert np.array_equal(tokens, states[:, i])


def test_one_sequence_or_token_needs_no_batch(layer):
    x = random(5, 2 * D_MODEL)[:, :D_MODEL]
    y = layer(x)
    assert y.shape == x.shape
    assert np.array_equal(y, layer(x.copy()))
    with Cache(layer) as cache:
        assert all(np.array_equal(layer.step(token[::-1][::-1], cache), y[i]) for i, token in enumerate(x))
    with Cache(layer) as cache:
        wide = x.astype(np.float64)
        assert np.array_equal(np.stack([layer.step(token, cache) for token in wide]), layer(wide))


def test_every_type_in_place(layer):
    for dtype in TYPES:
        x = random(2, 5, D_MODEL).astype(dtype)[:, ::-1]
        y = layer(x)
        assert layer(x, out=x) is x
        assert np.array_equal(x, y)


def test_a_layer_of_float64_has_the_digits_of_float64():
    x = np.random.default_rng(0).standard_normal((2, 5, D_MODEL))
    with Layer(Config(D_MODEL, dtype="float64")) as layer, Cache(layer, 2) as cache:
        y = layer(x)
        assert y.dtype == np.float64
        assert not np.array_equal(y, y.astype(np.float32))
        assert all(np.array_equal(layer.step(x[:, i], cache), y[:, i]) for i in range(5))


def test_what_dlpack_cannot_describe_is_copied_once(layer):
    fields = np.zeros((64, 512), [("x", "f4", D_MODEL), ("odd", "i2")])
    fields["x"] = random(64, 512, D_MODEL)
    for x in unaligned(random(64, 512, D_MODEL)), fields["x"]:
        out = np.empty(x.shape, np.float32)
        assert 0.99 < peak(lambda x=x, out=out: layer(x, out=out)) / x.nbytes < 1.01
        assert np.array_equal(out, layer(np.array(x, order="C")))
    with pytest.raises(ValueError, match="out must be aligned, its strides whole elements"):
        layer(random(64, 512, D_MODEL), out=fields["x"])


def test_nothing_is_allocated_for_what_fits(layer):
    x = random(64, 512, D_MODEL)
    out = np.empty_like(x)
    assert peak(lambda: layer(x, out=out)) < 10_000
    assert 0.99 < peak(lambda: layer(x)) / x.nbytes < 1.01


def peak(call):
    """Bytes that Python and numpy have asked for at once during a call."""
    call()
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", ["int32", ">f4", "complex64", "object", "bool", ml_dtypes.float8_e5m2])
def test_no_other_type_is_converted(layer, dtype):
    x = np.zeros((1, 2, D_MODEL), dtype)
    with pytest.raises(TypeError, match=r"x has dtype .*; it must be one of float32, float64, bfloat16"):
        layer(x)
    with pytest.raises(TypeError, match=r"out has dtype .*; it must be one of"):
        layer(np.zeros((1, 2, D_MODEL), np.float32), out=x)
    with Cache(layer) as cache, pytest.raises(TypeError, match="x has dtype"):
        layer.step(x[0, :1], cache)


def test_functions_on_float32_take_nothing_else(layer):
    x = np.zeros((1, 2, D_MODEL))
    with Cache(layer) as cache, pytest.raises(TypeError, match="x has dtype float64; it must be float32"):
        layer.step(x[0, :1], cache, lanes=[0])
    with pytest.raises(TypeError, match="x has dtype float64; it must be float32"):
        layer(x, inference_params=lm.InferenceParams(1))


class Exported:
    """A tensor of another library: numpy's array behind __dlpack__ alone."""

    def __init__(self, array, change=None):
        self.array, self.change = array, change or (lambda tensor: None)

    def __dlpack__(self, *, max_version=None):
        try:
            capsule = self.array.__dlpack__(max_version=max_version)
        except TypeError:  # numpy before 2.1
            capsule = self.array.__dlpack__()
        pointer = ctypes.pythonapi.PyCapsule_GetPointer
        pointer.argtypes, pointer.restype = (ctypes.py_object, ctypes.c_char_p), ctypes.c_void_p
        if "versioned" in repr(capsule):
            managed = _abi.DLManagedTensorVersioned.from_address(pointer(capsule, b"dltensor_versioned"))
            self.change(managed.dl_tensor)
        else:
            self.change(_abi.DLTensor.from_address(pointer(capsule, b"dltensor")))
        return capsule


class BeforeVersion1(Exported):
    def __dlpack__(self):
        return super().__dlpack__()


@pytest.mark.parametrize("kind", [Exported, BeforeVersion1])
def test_tensors_of_other_libraries_are_used_where_they_lie(layer, given, kind):
    for dtype in TYPES[:3]:
        x, out = random(2, 5, 20).astype(dtype)[:, ::-1, 2:10], np.zeros((D_MODEL, 5, 2), dtype).T
        tensor, taken = kind(x), kind(out)
        assert layer(tensor, out=taken) is taken
        assert given[-1] == (beginning(x), beginning(out))
        assert np.array_equal(out, layer(x))
        y = layer(tensor)
        assert type(y) is np.ndarray
        assert y.dtype == dtype
        assert np.array_equal(y, out)
        with Cache(layer, 2) as cache:
            token, result = kind(x[:, 0]), kind(out[:, 4])
            assert layer.step(token, cache, out=result) is result
            assert given[-1] == (beginning(x[:, 0]), beginning(out[:, 4]))
            assert np.array_equal(out[:, 4], y[:, 0])
        in_place = kind(x)
        assert layer(in_place, out=in_place) is in_place
        assert np.array_equal(x, y)


def test_a_capsule_gives_its_memory_back(layer):
    x = random(2, 5, D_MODEL)
    before = sys.getrefcount(x)
    layer(Exported(x), out=Exported(np.empty_like(x)))
    assert sys.getrefcount(x) == before


def test_tensors_of_other_libraries_that_are_refused(layer):
    x, out = random(2, 5, D_MODEL), np.zeros((2, 5, D_MODEL), np.float32)

    def on_a_gpu(tensor):
        tensor.device.device_type = 2

    with pytest.raises(lm.InvalidArgumentError, match=r"x->device is kDLCUDA \(2\)"):
        layer(Exported(x, on_a_gpu))
    with pytest.raises(lm.InvalidArgumentError, match="y->device is kDLCUDA"):
        layer(x, out=Exported(out, on_a_gpu))
    with pytest.raises(lm.UnsupportedError, match="x->dtype has code 0 and 32 bits"):
        layer(Exported(x.astype(np.int32)))
    with pytest.raises(ValueError, match=r"out has shape \(2, 4, 8\); it must have \(2, 5, 8\)"):
        layer(x, out=Exported(out[:, 1:]))
    with pytest.raises(ValueError, match=r"x has shape \(2, 5, 7\)"):
        layer(Exported(x[..., 1:]))
    with pytest.raises(lm.InvalidArgumentError, match="overlap"):
        layer(Exported(x[:, :4]), out=Exported(x[:, 1:]))
    with Cache(layer, 2) as cache, pytest.raises(ValueError, match=r"x has shape \(1, 8\)"):
        layer.step(Exported(x[:1, 0]), cache)
    assert not out.any()


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.1.0", reason="numpy does not export flags")
def test_a_tensor_that_cannot_be_written_is_no_output(layer):
    x, out = random(2, 5, D_MODEL), np.zeros((2, 5, D_MODEL), np.float32)
    out.setflags(write=False)
    assert layer(Exported(out)).shape == out.shape
    with pytest.raises(ValueError, match="out must be writeable"):
        layer(x, out=Exported(out))


def test_what_is_no_tensor_behind_dlpack(layer):
    class Nothing:
        def __dlpack__(self, **options):
            return None

    class Later(Exported):
        def __dlpack__(self, **options):
            def to_version_2(tensor):
                at = ctypes.addressof(tensor) - _abi.DLManagedTensorVersioned.dl_tensor.offset
                _abi.DLManagedTensorVersioned.from_address(at).version.major = 2

            self.change = to_version_2
            return super().__dlpack__(**options)

    with pytest.raises(TypeError, match="x has a __dlpack__ that gives no DLPack tensor"):
        layer(Nothing())
    if np.lib.NumpyVersion(np.__version__) >= "2.1.0":
        with pytest.raises(TypeError, match="x speaks DLPack 2"):
            layer(Later(random(2, 5, D_MODEL)))


def test_memory_that_dlpack_cannot_describe(layer):
    class OnAnotherDevice:
        def __dlpack__(self, **options):
            raise BufferError("it is on another device")

        def __dlpack_device__(self):
            return (2, 0)

    with pytest.raises(TypeError, match="x is a OnAnotherDevice that DLPack cannot describe: it is on"):
        layer(OnAnotherDevice())


def test_lists_are_numbers_of_float64(layer):
    y = layer([[0.5] * D_MODEL])
    assert y.dtype == np.float64
    assert np.array_equal(y, layer(np.full((1, D_MODEL), 0.5)))
    with pytest.raises(TypeError, match="x has dtype int64"):
        layer([[1] * D_MODEL])
    with pytest.raises(TypeError, match="x has dtype object"):
        layer(None)


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (
            np.empty((2, 3, D_MODEL + 1), np.float32),
            ValueError,
            r"out has shape \(2, 3, 9\); it must have \(2, 3, 8\)",
        ),
        (np.empty((6, D_MODEL), np.float32), ValueError, "out has shape"),
        (np.zeros((2, 3, D_MODEL + 1), np.float16), ValueError, "out has shape"),
        (np.broadcast_to(np.float32(0), (2, 3, 8)), ValueError, "out must be writeable"),
        (np.frombuffer(bytes(2 * 3 * D_MODEL * 4), np.float32).reshape(2, 3, 8), ValueError, "writeable"),
        (unaligned(np.zeros((2, 3, D_MODEL), np.float32)), ValueError, "aligned"),
        (as_strided(np.zeros(16, np.float32), (2, 3, 8), (0, 4, 4)), ValueError, "y has strides"),
        ([0.0], TypeError, "out is a list; it must be a numpy array or have __dlpack__"),
    ],
)
def test_outputs_that_are_refused(layer, out, error, message):
    with pytest.raises(error, match=message):
        layer(random(2, 3, D_MODEL), out=out)


def test_overlap_in_part_is_refused(layer):
    memory = random(3, 5, D_MODEL)
    before = memory.copy()
    with pytest.raises(lm.InvalidArgumentError, match="overlap"):
        layer(memory[:2], out=memory[1:])
    assert np.array_equal(memory, before)


def test_subclasses_of_numpys_array_are_arrays(layer):
    x = random(5, D_MODEL)
    y = layer(x.view(np.matrix))
    assert type(y) is np.ndarray
    assert np.array_equal(y, layer(x))
