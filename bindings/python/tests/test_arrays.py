"""Which memory the library is given: the caller's own wherever it can be."""

import array
import ctypes
import tracemalloc

import numpy as np
import pytest
from support import random

import lite_mamba_native as lm
from lite_mamba_native import Cache, Config, Layer, _library

D_MODEL = 8


@pytest.fixture
def layer():
    with Layer(Config(D_MODEL, conv_dilations=(1, 2))) as layer:
        yield layer


@pytest.fixture
def given(monkeypatch):
    """The addresses of x and y in the calls of lm_forward and lm_step."""
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
    return addresses


def address(argument):
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


@pytest.mark.parametrize(
    "layout",
    [np.asfortranarray, lambda x: x[::-1], lambda x: x.repeat(2, axis=2)[..., ::2], unaligned],
    ids=["Fortran", "backwards", "every second", "unaligned"],
)
def test_another_layout_is_copied_once_and_left_as_it_was(layer, layout):
    x = layout(random(64, 512, D_MODEL))
    assert not x.flags.carray
    before, out = x.tobytes(), np.empty(x.shape, np.float32)
    assert 0.99 < peak(lambda: layer(x, out=out)) / x.nbytes < 1.01
    assert x.tobytes() == before
    assert np.array_equal(out, layer(np.array(x, order="C")))


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


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32", ">f4", "complex64", "object"])
def test_no_other_type_is_converted(layer, dtype):
    x = np.zeros((1, 2, D_MODEL), dtype)
    with pytest.raises(TypeError, match=r"x has dtype .*; it must be float32: convert it with astype"):
        layer(x)
    with pytest.raises(TypeError, match=r"out has dtype .*; it must be float32"):
        layer(np.zeros((1, 2, D_MODEL), np.float32), out=x)
    with Cache(layer) as cache, pytest.raises(TypeError, match="x has dtype"):
        layer.step(x[0, :1], cache)


def test_memory_that_numpy_cannot_view(layer):
    class OnAnotherDevice:
        def __dlpack__(self, **options):
            raise BufferError("it is on another device")

        def __dlpack_device__(self):
            return (2, 0)

    with pytest.raises(TypeError, match="x is a OnAnotherDevice that numpy cannot view"):
        layer(OnAnotherDevice())


def test_lists_are_numbers_of_float64(layer):
    with pytest.raises(TypeError, match="x has dtype float64"):
        layer([[0.5] * D_MODEL])
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
        (np.empty((D_MODEL, 3, 2), np.float32).T, ValueError, "out must be C-contiguous"),
        (np.frombuffer(bytes(2 * 3 * D_MODEL * 4), np.float32).reshape(2, 3, 8), ValueError, "writeable"),
        (unaligned(np.zeros((2, 3, D_MODEL), np.float32)), ValueError, "aligned"),
        ([0.0], TypeError, "out is a list; it must be a numpy array"),
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
