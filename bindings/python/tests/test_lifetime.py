"""Every handle is freed once, and nothing is used that has been freed."""

import copy
import gc
import multiprocessing
import os
import pickle
import sys
import weakref
from collections import Counter

import numpy as np
import pytest
from support import random

import lite_mamba_native as lm
from lite_mamba_native import Cache, Config, InferenceParams, Layer, _library

CONFIG = Config(4, layer_idx=0)


@pytest.fixture
def freed(monkeypatch):
    """How often each function that frees has been called."""
    counts = Counter()
    lib = _library.lib

    def spy(name):
        function = getattr(lib, name)

        def call(pointer):
            counts[name, pointer] += 1
            function(pointer)

        monkeypatch.setattr(lib, name, call)

    for name in ("lm_destroy", "lm_free_cache", "lm_inference_params_free"):
        spy(name)
    return counts


def test_a_with_block_frees(freed):
    with Layer(CONFIG) as layer, Cache(layer) as cache, InferenceParams() as params:
        assert not any(thing.closed for thing in (layer, cache, params))
    assert layer.closed
    assert cache.closed
    assert params.closed
    assert sorted(name for name, _ in freed.elements()) == [
        "lm_destroy",
        "lm_free_cache",
        "lm_inference_params_free",
    ]


def test_an_error_frees_too(freed):
    with pytest.raises(ZeroDivisionError), Layer(CONFIG):
        raise ZeroDivisionError
    assert sum(freed.values()) == 1


def test_closing_twice_frees_once(freed):
    layer = Layer(CONFIG)
    layer.close()
    layer.close()
    del layer
    gc.collect()
    assert list(freed.values()) == [1]


def test_the_last_reference_frees_at_once(freed):
    gc.disable()  # There are no cycles to be found.
    try:
        layer = Layer(CONFIG)
        cache = Cache(layer)
        clone = cache.clone()
        params = InferenceParams()
        layer.forward(random(1, 2, 4), inference_params=params)
        gone = [weakref.ref(thing) for thing in (layer, cache, clone, params)]
        del layer, cache, clone, params
        assert [ref() for ref in gone] == [None] * 4
        assert [name for name, _ in freed.elements()].count("lm_free_cache") == 2
        assert sum(freed.values()) == 4
        assert set(freed.values()) == {1}
    finally:
        gc.enable()


def test_views_keep_what_they_show(freed):
    layer = Layer(CONFIG)
    parameters = layer.parameters
    params = InferenceParams()
    layer.forward(random(1, 2, 4), inference_params=params)
    cache = params.cache(0)
    del layer, params
    gc.collect()
    assert not freed
    assert parameters["D"].shape == (8,)
    assert cache.states["ssm_state"].shape == (1, 8, 16)
    del parameters, cache
    gc.collect()
    assert sum(freed.values()) == 2


def test_a_cache_does_not_need_its_layer():
    layer = Layer(CONFIG)
    cache = Cache(layer)
    y = layer.step(random(1, 4), cache)
    layer.close()
    assert cache.seqlen_offset == 1
    with Layer(CONFIG) as other:
        cache.reset()
        assert np.array_equal(other.step(random(1, 4), cache), y)


def test_nothing_closed_is_used():
    layer = Layer(CONFIG)
    cache = Cache(layer)
    params = InferenceParams()
    layer.forward(random(1, 2, 4), inference_params=params)
    borrowed = params.cache(0)
    open_cache = cache.clone()
    parameters, states = layer.parameters, cache.states
    saved = cache.save()
    x = random(1, 4)
    for thing in (layer, cache, params):
        thing.close()
    uses = {
        "layer": [
            lambda: layer(x),
            lambda: layer.step(x, open_cache),
            lambda: layer.save("never.safetensors"),
            lambda: layer.state_dict(),
            lambda: layer.load_state_dict({}),
            lambda: layer.parameters["D"],
            lambda: parameters["D"],
            lambda: Cache(layer),
            lambda: Cache.load(layer, saved),
            lambda: layer.forward_varlen(x, [0, 1]),
            lambda: parameters.info("conv1d.weight"),
        ],
        "cache": [
            cache.reset,
            cache.clone,
            lambda: copy.copy(cache),
            cache.save,
            lambda: cache.nbytes,
            lambda: cache.seqlen_offset,
            lambda: states["ssm_state"],
            lambda: open_cache.copy_lane(0, cache, 0),
            lambda: cache.copy_lane(0, open_cache, 0),
        ],
        "InferenceParams": [
            params.reset,
            lambda: params.cache(0),
            borrowed.reset,
            lambda: borrowed.nbytes,
        ],
    }
    for what, calls in uses.items():
        for call in calls:
            with pytest.raises(ValueError, match=f"this {what} is closed"):
                call()
    with Layer(CONFIG) as layer:
        for call in (
            lambda: layer.step(x, cache),
            lambda: layer(x, cache),
            lambda: layer(x, inference_params=params),
            lambda: layer(x, borrowed),
            lambda: layer.forward_varlen(x, [0, 1], cache),
        ):
            with pytest.raises(ValueError, match="is closed"):
                call()
        # What was refused has let go of the layer.
        layer.parameters["D"] = np.ones(8)


def test_closed_things_still_say_what_they_were():
    layer = Layer(CONFIG)
    cache = Cache(layer, 3)
    assert repr(cache) == "<Cache batch=3 seqlen_offset=0>"
    layer.close()
    cache.close()
    assert repr(layer).endswith(", closed>")
    assert repr(cache) == "<Cache batch=3, closed>"
    assert layer.config.d_model == layer.d_model == 4
    assert cache.batch == 3


@pytest.mark.parametrize("make", [Layer, lambda config: InferenceParams()])
def test_handles_are_not_pickled(make):
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(make(CONFIG))


def test_who_pickles_a_cache_is_told_how():
    with pytest.raises(TypeError, match=r"pickle save\(\), for Cache.load\(layer, data\)"):
        pickle.dumps(Cache(Layer(CONFIG)))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_nothing_leaks():
    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    config = Config(128, layer_idx=0)  # like its caches, about a megabyte

    def use():
        layer = Layer(config)
        cache = Cache(layer, 64)
        cache.clone().states["ssm_state"]
        saved = Cache.load(layer, cache.save()).save()
        layer.forward_varlen(random(64, 128), range(65), cache)
        params = InferenceParams(64)
        layer.forward(random(64, 2, 128), inference_params=params)
        layer.load_state_dict(layer.state_dict())
        for refused in (
            lambda: Layer(Config(128, d_conv=0)),
            lambda: Layer.load("never.safetensors"),
            lambda: Layer.load_memory(bytes(10_000)),
            lambda: Cache(layer, 2**40),
            lambda: layer.parameters["no"],
            lambda: layer(random(2, 2, 128), cache),
            lambda: layer.forward_varlen(random(2, 128), [0, 2], cache),
            lambda: Cache.load(layer, saved[:-1]),
        ):
            with pytest.raises(lm.LiteMambaError):
                refused()

    for _ in range(20):
        use()
    before = resident()
    for _ in range(200):
        use()
    # A leak of any one of the handles, each time, would be 100 MB or more.
    assert resident() - before < 20e6


def in_child(layer, cache, x, queue):
    queue.put(layer.step(x, cache).tobytes())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_computes_with_what_it_inherits():
    context = multiprocessing.get_context("fork")
    with Layer(Config(64, conv_dilations=(1, 2, 4))) as layer, Cache(layer, 32) as cache:
        layer(random(32, 200, 64), cache)  # The parent has its threads.
        x, queue = random(32, 64), context.SimpleQueue()
        child = context.Process(target=in_child, args=(layer, cache, x, queue))
        child.start()
        result = queue.get()
        child.join()
        assert child.exitcode == 0
        assert result == layer.step(x, cache).tobytes()
