"""What the classes do, beyond the numbers, and how they refuse."""

import copy
import ctypes
import json
import mmap
import pickle
import sys
from dataclasses import fields, replace

import ml_dtypes
import numpy as np
import pytest
from support import GOLDEN, random, read_safetensors

import lite_mamba_native as lm
from lite_mamba_native import Cache, Config, InferenceParams, Layer, Status, _abi, _config, _errors
from lite_mamba_native._library import lib

VARIANTS = {
    "PTCN": Config(6, conv_dilations=(1, 4), variant="PTCN"),
    "STCN": Config(6, conv_dilations=(2, 1), variant="STCN"),
    "DPWC": Config(6, conv_dilations=(1, 3), variant="DPWC"),
    "Baseline": Config(6, variant="Baseline"),
}


@pytest.fixture(params=VARIANTS)
def layer(request):
    with Layer(VARIANTS[request.param]) as layer:
        yield layer


@pytest.fixture
def file(tmp_path, layer):
    layer.save(tmp_path / "layer.safetensors")
    return tmp_path / "layer.safetensors"


# Configuration


def test_defaults_are_the_librarys():
    raw = _abi.Config()
    assert lib.lm_config_init(raw, ctypes.sizeof(raw)) == 0
    raw.d_model = 5
    assert replace(_config.from_c(raw), dt_rank="auto") == Config(5)


def test_every_field_reaches_the_layer():
    config = Config(
        d_model=48,
        d_state=5,
        d_conv=3,
        conv_dilations=[1, 3],
        expand=1.5,
        dt_rank=2,
        dt_min=0.002,
        dt_max=0.2,
        dt_init="constant",
        dt_scale=0.5,
        dt_init_floor=0.003,
        conv_bias=False,
        bias=True,
        use_fast_path=True,
        layer_idx=7,
        dtype="bfloat16",
        variant="DPWC",
        math="tf32",
        seed=9,
    )
    default = Config(1)
    left_out = {"device", "device_index"}
    for field in fields(Config):
        if field.name not in left_out:
            assert getattr(config, field.name) != getattr(default, field.name), field.name
    with Layer(config) as layer:
        assert layer.config == config
        assert layer.d_model == 48
        assert layer.d_inner == 72


def test_dt_rank_is_resolved():
    assert Layer(Config(40)).config.dt_rank == 3


def test_numbers_of_numpy_are_numbers():
    config = Config(np.int64(8), conv_dilations=np.array([1, 2]), expand=np.float32(2), bias=np.bool_(True))
    assert Layer(config).config.conv_dilations == (1, 2)


def test_a_negative_seed_is_the_one_of_torch():
    with Layer(Config(4, seed=-1)) as a, Layer(Config(4, seed=2**64 - 1)) as b:
        assert np.array_equal(a.parameters["in_proj.weight"], b.parameters["in_proj.weight"])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"d_model": 0}, lm.InvalidConfigError, "d_model is 0"),
        ({"d_model": -1}, ValueError, "d_model is -1"),
        ({"d_model": 2**64}, ValueError, "d_model is 18446744073709551616"),
        ({"d_model": 2**62}, (lm.InvalidConfigError, lm.OutOfMemoryError), "."),
        ({"d_model": 2**40}, lm.OutOfMemoryError, "memory"),
        ({"d_model": 8.0}, TypeError, "d_model is 8.0; it must be an integer"),
        ({"conv_dilations": ()}, lm.InvalidConfigError, "conv_dilations is empty"),
        ({"conv_dilations": (1, 0)}, lm.InvalidConfigError, r"conv_dilations\[1\] is 0"),
        ({"conv_dilations": (1, -2)}, ValueError, r"conv_dilations\[1\] is -2"),
        ({"variant": "Baseline", "conv_dilations": (1, 2)}, lm.InvalidConfigError, "conv_dilations"),
        ({"variant": "ptcn"}, ValueError, "variant is 'ptcn'; it must be one of PTCN, STCN"),
        ({"expand": float("nan")}, lm.InvalidConfigError, "expand is NaN"),
        ({"expand": "2"}, TypeError, "expand is '2'"),
        ({"dt_rank": 0}, ValueError, "dt_rank is 0"),
        ({"dt_rank": "big"}, TypeError, "dt_rank is 'big'"),
        ({"dt_init": "zero"}, ValueError, "dt_init is 'zero'"),
        ({"layer_idx": -1}, ValueError, "layer_idx is -1"),
        ({"seed": 2**64}, ValueError, "seed is"),
        ({"dtype": "int8"}, ValueError, "dtype is 'int8'; it must be one of float32, float64, bfloat16"),
        ({"dtype": np.int8}, ValueError, "dtype is .*int8.*; it must be one of"),
        ({"dtype": ">f4"}, ValueError, "dtype is '>f4'"),
        ({"dtype": None}, ValueError, "dtype is None"),
        ({"device": "cuda"}, (lm.UnsupportedError, lm.CudaError), "."),
    ],
)
def test_configurations_that_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        Layer(Config(**{"d_model": 8, **changes}))


# Types

TYPES = ["float32", "float64", "bfloat16", "float16"]


class TorchType:
    """As PyTorch's types are: known by the name alone."""

    __module__ = "torch"

    def __init__(self, name):
        self.name = name

    def __str__(self):
        return f"torch.{self.name}"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        *[(name, name) for name in TYPES],
        *[(TorchType(name), name) for name in TYPES],
        (np.float32, "float32"),
        (np.dtype("f8"), "float64"),
        (float, "float64"),
        ("<f2" if np.little_endian else ">f2", "float16"),
        (ml_dtypes.bfloat16, "bfloat16"),
    ],
)
def test_types_by_any_name(given, name):
    config = Config(4, dtype=given)
    assert config == Config(4, dtype=name)
    assert config.dtype == name
    with Layer(config) as layer, Cache(layer, dtype=given) as cache:
        assert layer.config.dtype == name
        assert cache.dtype == name


@pytest.mark.parametrize("dtype", ["int8", "float", np.int8, ">f4", 3, TorchType("int8"), "torch.float16"])
def test_types_that_a_cache_cannot_be_held_in(layer, dtype):
    if dtype == "float":  # which is numpy's name of float64
        assert Cache(layer, dtype=dtype).dtype == "float64"
        return
    with pytest.raises(ValueError, match=r"dtype is .*; it must be one of float32, float64"):
        Cache(layer, dtype=dtype)


@pytest.mark.parametrize("dtype", TYPES)
def test_layers_of_every_type(layer, dtype, tmp_path):
    config = replace(layer.config, dtype=dtype)
    x = random(2, 7, 6)
    with Layer(config) as typed, Cache(typed, 2) as cache:
        assert f" {dtype} " in repr(typed)
        kept = {name: typed.parameters.info(name).dtype for name in typed.parameters}
        assert kept["in_proj.weight"] == kept["dt_proj.bias"] == dtype
        assert kept["A_log"] == kept["D"] == ("float64" if dtype == "float64" else "float32")
        assert cache.dtype == ("float64" if dtype == "float64" else "float32")

        y = typed(x)
        assert np.abs(y - layer(x)).max() < {"bfloat16": 0.02, "float16": 0.002}.get(dtype, 1e-5)
        assert (dtype == "float32") == np.array_equal(y, layer(x))
        stepped = np.stack([typed.step(x[:, t], cache) for t in range(7)], axis=1)
        assert np.array_equal(stepped, y)

        # Files keep the type, or convert where they are told another.
        typed.save(tmp_path / "typed.safetensors")
        with Layer.load(tmp_path / "typed.safetensors") as loaded:
            assert loaded.config == replace(config, seed=0)
            assert np.array_equal(loaded(x), y)
            for name in typed.parameters:
                assert loaded.parameters.read(name).tobytes() == typed.parameters.read(name).tobytes()
        with Layer.load(tmp_path / "typed.safetensors", config=layer.config) as widened:
            assert widened.config.dtype == "float32"
            weight = typed.parameters["in_proj.weight"].astype(np.float32)
            assert np.array_equal(widened.parameters["in_proj.weight"], weight)


@pytest.mark.parametrize("dtype", TYPES)
def test_parameters_are_given_exactly(layer, dtype):
    with Layer(replace(layer.config, dtype=dtype)) as typed, Layer(typed.config) as other:
        third = np.full(typed.parameters.info("out_proj.weight").shape, 1 / 3)
        typed.parameters["out_proj.weight"] = third
        exact = {
            "float32": np.float32(1 / 3),
            "float64": 1 / 3,
            "bfloat16": 0.333984375,
            "float16": 0.333251953125,
        }
        given = typed.parameters["out_proj.weight"]
        assert given.dtype == (np.float64 if dtype == "float64" else np.float32)
        assert (given == exact[dtype]).all()
        held = typed.parameters.read("out_proj.weight")
        assert held.dtype.name == dtype
        assert np.array_equal(held.astype(np.float64), given)
        assert (typed.parameters.read("out_proj.weight", dtype="float64") == exact[dtype]).all()
        assert typed.parameters.read("out_proj.weight", dtype="bfloat16").dtype == ml_dtypes.bfloat16
        # Every value goes over, none is rounded on the way.
        other.load_state_dict(typed.state_dict())
        for name in typed.parameters:
            assert other.parameters.read(name).tobytes() == typed.parameters.read(name).tobytes()


def test_bfloat16_without_ml_dtypes(monkeypatch):
    with Layer(Config(4, dtype="bfloat16")) as layer, Cache(layer, dtype="bfloat16") as cache:
        monkeypatch.setitem(sys.modules, "ml_dtypes", None)
        assert layer.step(random(1, 4), cache).shape == (1, 4)
        assert layer.parameters["in_proj.weight"].dtype == np.float32
        assert cache.states["ssm_state"].dtype == np.float32
        with pytest.raises(TypeError, match="numpy has no bfloat16 without the package ml_dtypes"):
            layer.parameters.read("in_proj.weight")
        assert layer.parameters.read("D").dtype == np.float32


def test_caches_of_every_type(layer):
    x = random(2, 7, 6)
    y = layer(x)
    sizes = {}
    for dtype in TYPES:
        with Cache(layer, 2, dtype=dtype) as cache:
            stepped = np.stack([layer.step(x[:, t], cache) for t in range(7)], axis=1)
            assert cache.dtype == cache.states.info("conv_state.0").dtype == dtype
            assert cache.states["ssm_state"].dtype == np.float32
            assert cache.clone().dtype == dtype
            assert Cache.load(layer, cache.save()).dtype == dtype
            sizes[dtype] = cache.nbytes
            if dtype in ("float32", "float64"):
                assert np.array_equal(stepped, y)
            else:
                assert 0 < np.abs(stepped - y).max() < 0.05
            # Values go from a cache to one of another type.
            with Cache(layer, 2) as other:
                other.copy_lane(0, cache, 1)
                assert np.array_equal(other.states["ssm_state"][0], cache.states["ssm_state"][1])
    assert sizes["bfloat16"] == sizes["float16"]
    assert sizes["float64"] - sizes["float32"] == 2 * (sizes["float32"] - sizes["float16"])


# Forward and step


def test_a_sequence_alone_needs_no_batch(layer):
    x = random(5, 6)
    y = layer(x)
    assert y.shape == (5, 6)
    assert np.array_equal(y, layer(x[None])[0])
    with Cache(layer) as cache:
        for t in range(5):
            assert np.array_equal(layer.step(x[t], cache), y[t])


def test_empty_batches_and_sequences(layer):
    assert layer(np.empty((0, 5, 6), np.float32)).shape == (0, 5, 6)
    with Cache(layer, 2) as cache:
        assert layer(np.empty((2, 0, 6), np.float32), cache).shape == (2, 0, 6)
        assert layer.step(np.empty((0, 6), np.float32), cache, lanes=[]).shape == (0, 6)
        assert cache.seqlen_offset == 0
    with Cache(layer, 0) as cache:
        assert layer.step(np.empty((0, 6), np.float32), cache).shape == (0, 6)


def test_lanes(layer):
    x = random(4, 6)
    with Cache(layer, 4) as cache, Cache(layer, 4) as alone:
        y = layer.step(x, alone)
        for lanes in ([2, 0], (3,), np.array([1], np.int8)):
            assert np.array_equal(layer.step(x[list(lanes)], cache, lanes=lanes), y[list(lanes)])
        assert np.array_equal(cache.states["ssm_state"], alone.states["ssm_state"])


@pytest.mark.parametrize(
    ("lanes", "error", "message"),
    [
        ([-1], ValueError, "lanes has -1"),
        ([4], lm.InvalidArgumentError, "4"),
        ([1, 1], ValueError, "has shape"),
        ([0.5], TypeError, "integers"),
        ([[0]], TypeError, "sequence"),
        (3, TypeError, "sequence"),
    ],
)
def test_lanes_that_are_refused(layer, lanes, error, message):
    with Cache(layer, 4) as cache:
        with pytest.raises(error, match=message):
            layer.step(random(1, 6), cache, lanes=lanes)
        with pytest.raises(lm.InvalidArgumentError, match="there already"):
            layer.step(random(2, 6), cache, lanes=[1, 1])
        assert cache.seqlen_offset == 0


@pytest.mark.parametrize("shape", [(), (6,), (2, 3, 5), (1, 2, 3, 6), (0,)])
def test_shapes_that_forward_refuses(layer, shape):
    with pytest.raises(ValueError, match=r"x has shape \(.*\); it must have .* d_model being 6"):
        layer(np.zeros(shape, np.float32))


@pytest.mark.parametrize("shape", [(), (6,), (1, 6), (3, 6), (2, 5), (2, 1, 6)])
def test_shapes_that_step_refuses(layer, shape):
    with Cache(layer, 2) as cache, pytest.raises(ValueError, match=r"must have \(2, 6\)"):
        layer.step(np.zeros(shape, np.float32), cache)


def test_caches_that_do_not_fit(layer):
    with Cache(layer, 2) as cache, Layer(Config(6, d_state=3)) as other:
        with pytest.raises(lm.ShapeMismatchError, match="batch"):
            layer(random(3, 4, 6), cache)
        with pytest.raises(lm.ShapeMismatchError):
            other(random(2, 4, 6), cache)
        with InferenceParams() as params, pytest.raises(TypeError, match="both"):
            layer(random(2, 4, 6), cache, inference_params=params)
    with pytest.raises(lm.OutOfMemoryError):
        Cache(layer, 2**40)
    with pytest.raises(ValueError, match="batch is -1"):
        Cache(layer, -1)


def test_not_a_number_stays_in_its_lane(layer):
    x = random(2, 4, 6)
    expected = layer(x)[1]
    x[0, 1] = np.nan
    y = layer(x)
    assert np.isnan(y[0, 1:]).all()
    assert np.array_equal(y[1], expected)


@pytest.mark.parametrize("integers", [list, tuple, np.array, lambda numbers: np.array(numbers, np.int32)])
def test_packed_sequences(layer, integers):
    cu_seqlens = [0, 3, 3, 4, 11]
    x = random(11, 6)
    expected = np.concatenate([layer(x[a:b]) for a, b in zip(cu_seqlens, cu_seqlens[1:])])
    y = layer.forward_varlen(x, integers(cu_seqlens))
    assert np.array_equal(y, expected)
    with Cache(layer, 4) as cache, Cache(layer) as alone:
        assert np.array_equal(layer.forward_varlen(x, integers(cu_seqlens), cache), expected)
        assert cache.seqlen_offset == 7
        # Each goes on by itself.
        z = random(4, 6, seed=1)
        following = layer.forward_varlen(z, [0, 1, 2, 2, 4], cache)
        layer(x[4:], alone)
        assert np.array_equal(following[2:], layer(z[2:], alone))
        assert np.array_equal(following[1:2], layer(z[1:2]))
        out = np.empty_like(x)
        cache.reset()
        assert layer.forward_varlen(x, cu_seqlens, cache, out=out) is out
        assert np.array_equal(out, expected)
    assert layer.forward_varlen(x, cu_seqlens, out=x) is x
    assert np.array_equal(x, expected)


def test_no_packed_sequences(layer):
    empty = np.empty((0, 6), np.float32)
    with Cache(layer, 2) as cache:
        assert layer.forward_varlen(empty, [0, 0, 0], cache).shape == (0, 6)
        assert layer.forward_varlen(empty, [0]).shape == (0, 6)
        assert cache.seqlen_offset == 0


@pytest.mark.parametrize(
    ("x", "cu_seqlens", "error", "message"),
    [
        (random(5, 6), [], ValueError, "cu_seqlens is empty"),
        (random(5, 6), [1, 5], lm.InvalidArgumentError, r"cu_seqlens\[0\] is 1; it must be 0"),
        (random(5, 6), [0, 6, 5], lm.InvalidArgumentError, r"cu_seqlens\[2\] is 5"),
        (random(5, 6), np.array([0, 2**63, 5], np.uint64), lm.InvalidArgumentError, r"cu_seqlens\[2\] is 5"),
        (random(5, 6), [0, -1, 5], ValueError, "cu_seqlens has -1; it must have none below 0"),
        (random(5, 6), [0, 2.0, 5], TypeError, "cu_seqlens is .*; it must be a sequence of integers"),
        (random(5, 6), [[0, 5]], TypeError, "integers"),
        (random(5, 6), 5, TypeError, "integers"),
        (random(5, 6), [0, 4], ValueError, r"x has shape \(5, 6\); it must have .*, \(4, 6\)"),
        (random(5, 6), [0, 2**62], ValueError, "x has shape"),
        (random(5, 5), [0, 5], ValueError, "x has shape"),
        (random(1, 5, 6), [0, 5], ValueError, "x has shape"),
        (random(5, 6).astype(float), [0, 5], TypeError, "x has dtype float64"),
    ],
)
def test_packed_sequences_that_are_refused(layer, x, cu_seqlens, error, message):
    with pytest.raises(error, match=message):
        layer.forward_varlen(x, cu_seqlens)


def test_packed_sequences_and_caches_that_do_not_fit(layer):
    x = random(5, 6)
    with Cache(layer, 2) as cache, Layer(Config(6, d_state=3)) as other:
        for cu_seqlens in ([0, 5], [0, 1, 2, 5]):
            with pytest.raises(lm.ShapeMismatchError, match="batch"):
                layer.forward_varlen(x, cu_seqlens, cache)
        with pytest.raises(lm.ShapeMismatchError, match="cache"):
            other.forward_varlen(x, [0, 1, 5], cache)
        with pytest.raises(lm.InvalidArgumentError, match="overlap"):
            layer.forward_varlen(x[:4], [0, 1, 4], cache, out=x[1:])
        assert cache.seqlen_offset == 0


# Caches


@pytest.mark.parametrize("dtype", TYPES)
def test_a_saved_cache_goes_on(layer, dtype):
    x = random(2, 9, 6)
    with Layer(replace(layer.config, dtype=dtype)) as typed, Cache(typed, 2) as cache:
        typed(x[:, :5], cache)
        typed.step(x[:1, 5], cache, lanes=[0])
        saved = cache.save()
        assert type(saved) is bytes
        assert cache.save() == cache.clone().save() == saved
        after = typed(x[:, 5:], cache)
        for data in (saved, bytearray(saved), memoryview(saved), np.frombuffer(saved, np.uint8)):
            with Cache.load(typed, data) as loaded:
                assert (loaded.batch, loaded.seqlen_offset, loaded.dtype) == (2, 6, cache.dtype)
                assert loaded.save() == saved
                assert np.array_equal(typed(x[:, 5:], loaded), after)
                assert loaded.save() == cache.save()
        moved = pickle.loads(pickle.dumps(saved))
        assert Cache.load(typed, moved).save() == saved
        with Cache(typed, 0) as empty:
            assert Cache.load(typed, empty.save()).batch == 0


def test_saved_caches_that_are_refused(layer):
    with Cache(layer, 2) as cache:
        layer.step(random(2, 6), cache)
        saved = cache.save()
    for data in (b"", saved[:-1], saved[:30], saved + b"\0", bytes(100), saved[:-1] + bytes([saved[-1] ^ 1])):
        with pytest.raises(lm.FormatError):
            Cache.load(layer, data)
    with pytest.raises(lm.UnsupportedError, match="version 2"):
        Cache.load(layer, saved[:8] + b"\2" + saved[9:])
    for changes in ({"d_state": 3}, {"dtype": "float64"}, {"d_conv": 3}):
        with Layer(replace(layer.config, **changes)) as other, pytest.raises(lm.ShapeMismatchError):
            Cache.load(other, saved)
    with pytest.raises(TypeError):
        Cache.load(layer, "text")


def test_clones_and_copies_go_on_alone(layer):
    x = random(3, 2, 6)
    with Cache(layer, 2) as cache:
        layer.step(x[0], cache)
        copies = [cache.clone(), copy.copy(cache), copy.deepcopy(cache)]
        y = layer.step(x[1], cache)
        for other in copies:
            assert other.seqlen_offset == 1
            assert np.array_equal(layer.step(x[1], other), y)


def test_reset_and_copy_lane(layer):
    x = random(3, 2, 6)
    with Cache(layer, 2) as cache, Cache(layer, 3) as other:
        first = layer.step(x[0], cache)
        second = layer.step(x[1], cache)
        cache.reset(lane=1)
        assert np.array_equal(layer.step(x[0], cache)[1], first[1])
        cache.reset()
        assert cache.seqlen_offset == 0
        layer.step(x[0], cache)
        cache.copy_lane(0, cache, 1)
        other.copy_lane(2, cache, 1)
        assert np.array_equal(layer.step(x[1, [1, 1]], cache), second[[1, 1]])
        assert np.array_equal(layer.step(x[1, 1], other, lanes=[2]), second[1])
        for arguments in ((2, cache, 0), (0, cache, 2)):
            with pytest.raises(lm.InvalidArgumentError, match="lane"):
                cache.copy_lane(*arguments)
        with pytest.raises(lm.InvalidArgumentError, match="lane"):
            cache.reset(lane=2)
        with pytest.raises(ValueError, match="lane is -1"):
            cache.reset(lane=-1)
        with Layer(Config(4)) as small, Cache(small) as source, pytest.raises(lm.ShapeMismatchError):
            cache.copy_lane(0, source, 0)


def test_states_move_a_stream(layer):
    x = random(2, 9, 6)
    y = layer(x)
    with Cache(layer, 2) as cache, Cache(layer, 2) as other:
        layer(x[:, :7], cache)
        assert list(cache.states)[-1] == "ssm_state"
        assert len(cache.states) == len(layer.config.conv_dilations) + 1
        # The longest history last, because some variants share one.
        for name in sorted(cache.states, key=lambda name: cache.states.info(name).shape):
            other.states[name] = cache.states[name]
        assert other.seqlen_offset == 0
        assert np.array_equal(layer(x[:, 7:], other), y[:, 7:])
        info = cache.states.info("ssm_state")
        assert (info.shape, info.dtype, info.weight_decay) == ((2, 12, 16), "float32", False)
        assert cache.nbytes > 0
        with pytest.raises(KeyError, match="nowhere"):
            cache.states["nowhere"]
        with pytest.raises(ValueError, match=r"the array for ssm_state has shape \(12, 16\)"):
            cache.states["ssm_state"] = random(12, 16)
        with pytest.raises(TypeError, match="float64"):
            cache.states["ssm_state"] = np.zeros((2, 12, 16))


def test_a_model_of_several_layers():
    layers = [Layer(Config(4, layer_idx=i, seed=i)) for i in range(3)]
    x = random(2, 5, 4)
    y = x
    for layer in layers:
        y = layer(y)
    with InferenceParams(2, 100) as params:
        assert params.batch == 2
        assert params.cache(0) is None
        for part in (slice(0, 3), slice(3, 5)):
            h = x[:, part]
            for layer in layers:
                h = layer(h, inference_params=params)
            assert np.array_equal(h, y[:, part])
        cache = params.cache(2)
        assert (cache.batch, cache.seqlen_offset) == (2, 5)
        # Layer 2's own cache: usable as any other, and not its own owner.
        assert layers[2].step(random(2, 4), cache).shape == (2, 4)
        with cache:
            pass
        assert cache.seqlen_offset == 6
        params.reset()
        assert cache.seqlen_offset == 0
        cache.copy_lane(0, params.cache(1), 1)
        with pytest.raises(lm.ShapeMismatchError, match="batch"):
            layers[0](random(1, 3, 4), inference_params=params)
        with Layer(Config(4)) as numberless, pytest.raises(lm.InvalidArgumentError, match="layer_idx"):
            numberless(x, inference_params=params)
        with Layer(Config(4, layer_idx=1)) as twin, pytest.raises(lm.InvalidArgumentError, match="layer_idx"):
            twin(x, inference_params=params)
        with pytest.raises(ValueError, match="layer_idx is -1"):
            params.cache(-1)
    with pytest.raises(ValueError, match="closed"):
        cache.reset()


# Parameters


def test_parameters_by_name(layer):
    parameters = layer.parameters
    assert [name for name in parameters if not parameters.info(name).weight_decay] == ["A_log", "D"]
    assert parameters["D"].tolist() == [1.0] * 12
    d = random(12)
    parameters["D"] = d
    assert np.array_equal(layer.parameters["D"], d)
    assert parameters.info("D").dtype == "float32"
    assert "D" in parameters
    assert "E" not in parameters
    assert 3 not in parameters
    assert parameters.get("E") is None
    with Layer(layer.config) as twin:
        assert parameters != twin.parameters
        assert len({parameters, twin.parameters, layer.parameters}) == 2
    assert "in_proj.weight (24, 6)" in repr(parameters)
    assert len(dict(parameters)) == len(parameters)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_parameters_of_other_types(layer, dtype):
    d = random(12).astype(dtype)
    layer.parameters["D"] = d
    assert np.array_equal(layer.parameters["D"], d.astype(np.float32))
    assert layer.parameters.read("D", dtype=dtype).dtype == dtype
    assert np.array_equal(layer.parameters.read("D", dtype=dtype), d.astype(np.float32).astype(dtype))
    layer.parameters["D"] = d[::-1]
    assert np.array_equal(layer.parameters["D"], d[::-1].astype(np.float32))


def test_bfloat16_is_the_one_of_ml_dtypes(layer):
    d = random(12).astype(ml_dtypes.bfloat16)
    layer.parameters["D"] = d
    assert np.array_equal(layer.parameters["D"], d.astype(np.float32))
    assert layer.parameters.read("D", dtype=ml_dtypes.bfloat16).tobytes() == d.tobytes()


@pytest.mark.parametrize(
    ("name", "values", "error", "message"),
    [
        (
            "D",
            np.zeros(11, np.float32),
            ValueError,
            r"the array for D has shape \(11,\); it must have \(12,\)",
        ),
        ("D", np.zeros(12, np.int32), TypeError, "int32"),
        ("D", np.zeros(12, ">f4"), TypeError, ">f4"),
        ("D", ["a"] * 12, TypeError, "<U1"),
        ("E", np.zeros(12, np.float32), lm.NotFoundError, '"E"'),
        ("D\0", np.zeros(12, np.float32), ValueError, "NUL"),
        (3, np.zeros(12, np.float32), TypeError, "name is 3; it must be a string"),
        ("", np.zeros(12, np.float32), KeyError, '""'),
    ],
)
def test_parameters_that_are_refused(layer, name, values, error, message):
    with pytest.raises(error, match=message):
        layer.parameters[name] = values
    assert layer.parameters["D"].tolist() == [1.0] * 12


def test_the_other_name_of_branch_0():
    for variant, branch in (
        ("PTCN", "conv1d_layers.0"),
        ("STCN", "conv1d_layers.0"),
        ("DPWC", "dw_conv1d_layers.0"),
    ):
        with Layer(VARIANTS[variant]) as layer:
            parameters = layer.parameters
            assert "conv1d.weight" not in list(parameters)
            assert "conv1d.weight" in parameters
            values = random(12, 1, 4)
            parameters["conv1d.weight"] = values
            assert np.array_equal(parameters[f"{branch}.weight"], values)
            assert np.array_equal(parameters["conv1d.weight"], values)
            assert np.array_equal(parameters.read("conv1d.weight", dtype="f8"), values)
            assert parameters.info("conv1d.weight") == parameters.info(f"{branch}.weight")
            assert parameters.info("conv1d.weight").name == f"{branch}.weight"
            for nobodys in ("conv1d.", "conv1d.weights", "conv1d.weight\0", "\udcff", ""):
                assert nobodys not in parameters
            with pytest.raises(lm.NotFoundError, match='"conv1d"'):
                parameters.info("conv1d")
            state_dict = layer.state_dict()
            assert np.array_equal(state_dict["conv1d.bias"], state_dict[f"{branch}.bias"])


def test_state_dicts_go_over(layer):
    with Layer(replace(layer.config, seed=5)) as other:
        x = random(2, 4, 6)
        assert not np.array_equal(layer(x), other(x))
        other.load_state_dict(layer.state_dict())
        assert np.array_equal(layer(x), other(x))
        # Either name of branch 0 is enough.
        other.load_state_dict(dict(layer.parameters))


def test_state_dicts_that_are_refused_change_nothing(layer):
    before = layer.state_dict()

    def refused(error, message, changes):
        tensors = {name: values + 1 for name, values in before.items()} | changes
        with pytest.raises(error, match=message):
            layer.load_state_dict({name: values for name, values in tensors.items() if values is not None})
        for name, values in layer.state_dict().items():
            assert np.array_equal(values, before[name]), name

    refused(KeyError, "there is no out_proj.weight", {"out_proj.weight": None})
    refused(KeyError, '"extra"', {"extra": random(1)})
    refused(ValueError, "the array for out_proj.weight has shape", {"out_proj.weight": random(2, 2)})
    refused(TypeError, "int64", {"D": np.ones(12, np.int64)})
    if layer.config.variant != "Baseline":
        refused(ValueError, "must agree", {"conv1d.weight": before["conv1d.weight"]})


# Files


def test_a_file_holds_the_whole_layer(layer, file):
    with Layer.load(file) as loaded, Layer.load(str(file).encode()) as again:
        assert loaded.config == replace(layer.config, seed=0)
        x = random(2, 4, 6)
        assert np.array_equal(loaded(x), layer(x))
        assert np.array_equal(again(x), layer(x))
    tensors, metadata = read_safetensors(file)
    assert Config(**json.loads(metadata["lite_mamba.config"])).variant == layer.config.variant
    assert tensors.keys() == layer.state_dict().keys()


def test_a_file_in_memory(layer, file):
    data = file.read_bytes()
    x = random(2, 4, 6)
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        for content in (data, bytearray(data), memoryview(data), np.frombuffer(data, np.uint8), mapped):
            with Layer.load_memory(content) as loaded:
                assert np.array_equal(loaded(x), layer(x))
            del content
    for cut in (0, 7, 100, len(data) - 1):
        with pytest.raises(lm.FormatError, match="cut short"):
            Layer.load_memory(data[:cut])


def test_a_given_configuration_is_checked(file, layer):
    with Layer.load(file, config=layer.config) as loaded:
        assert loaded.config.variant == layer.config.variant
    with pytest.raises(lm.ShapeMismatchError, match="A_log"):
        Layer.load(file, config=replace(layer.config, d_state=3))


def test_files_that_are_refused(tmp_path, file, layer):
    missing = tmp_path / "missing.safetensors"
    with pytest.raises(FileNotFoundError, match=r"missing\.safetensors") as caught:
        Layer.load(missing)
    assert isinstance(caught.value, lm.IoError)
    assert caught.value.filename == str(missing)
    assert caught.value.code is Status.IO
    with pytest.raises(OSError, match="directory") as caught:
        Layer.load(tmp_path)
    assert not isinstance(caught.value, FileNotFoundError)
    with pytest.raises(FileNotFoundError):
        layer.save(tmp_path / "no" / "directory")
    with pytest.raises(lm.IoError):
        layer.save(tmp_path)
    with pytest.raises(lm.NotFoundError, match="backbone"):
        Layer.load(file, "backbone.0")
    with pytest.raises(ValueError, match="NUL"):
        Layer.load("a\0b")
    with pytest.raises(ValueError, match="NUL"):
        Layer.load(file, "a\0b")
    with pytest.raises(UnicodeEncodeError):
        Layer.load("\udcff")
    with pytest.raises(TypeError):
        Layer.load(3)


def test_the_prefix_may_end_in_a_dot():
    Layer.load(GOLDEN[0], "layer.").close()


# The library


def test_what_the_library_says():
    assert lm.library_version() in lm.build_info()
    assert lm.cuda_available() in (True, False)


def test_threads_change_no_bit(layer):
    x = random(4, 200, 6)
    y = layer(x)
    try:
        for n in (1, 2, 3):
            lm.set_num_threads(n)
            assert np.array_equal(layer(x), y)
        with pytest.raises(lm.InvalidArgumentError, match="5000"):
            lm.set_num_threads(5000)
        with pytest.raises(ValueError, match="n is -1"):
            lm.set_num_threads(-1)
    finally:
        lm.set_num_threads(0)


# Errors


def test_every_status_has_an_exception():
    for status in set(Status) - {Status.OK}:
        error = _errors.error_of(status, "LM_ERR", "it is so")
        assert type(error) is not lm.LiteMambaError
        assert error.code is status
        assert str(error) == "it is so"
        assert type(error).__name__ in lm.__all__
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.code) == (type(error), str(error), error.code)


def test_a_status_of_a_later_version_is_an_error_too():
    error = _errors.error_of(99, "LM_ERR_NEW", "it is so")
    assert type(error) is lm.LiteMambaError
    assert error.code == 99
    assert str(error) == "LM_ERR_NEW: it is so"
    assert pickle.loads(pickle.dumps(error)).code == 99


def test_the_librarys_names_of_the_codes():
    for status in Status:
        name = lib.lm_status_name(status).decode()
        assert name == ("LM_OK" if status is Status.OK else f"LM_ERR_{status.name}")
