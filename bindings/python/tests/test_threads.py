"""Any number of threads on one layer, one on a cache; and nothing worse than an exception for the others."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
from support import random

import lite_mamba_native as lm
from lite_mamba_native import Cache, Config, InferenceParams, Layer

THREADS = 8


@pytest.fixture
def layer():
    with Layer(Config(16, conv_dilations=(1, 2, 4), layer_idx=0)) as layer:
        yield layer


def test_many_threads_on_one_layer(layer):
    inputs = [random(2, 40, 16, seed=i) for i in range(THREADS * 4)]
    expected = [layer(x) for x in inputs]

    def stream(x):
        with Cache(layer, 2) as cache:
            return np.stack([layer.step(x[:, t], cache) for t in range(40)], axis=1)

    with ThreadPoolExecutor(THREADS) as pool:

        def packed(x):
            return layer.forward_varlen(x.reshape(80, 16), [0, 40, 80]).reshape(x.shape)

        for compute in (layer, stream, packed):
            for y, exact in zip(pool.map(compute, inputs), expected):
                assert np.array_equal(y, exact)


def test_errors_are_those_of_the_thread(layer):
    """Each thread fails in a way of its own, many times, while the others do."""

    def fail(i):
        for _ in range(200):
            with pytest.raises(lm.NotFoundError, match=f'"parameter {i}"'):
                layer.parameters[f"parameter {i}"]
            with pytest.raises(lm.InvalidConfigError, match=f"dt_max is -{i}"):
                Layer(Config(4, dt_max=-float(i)))
        return True

    with ThreadPoolExecutor(THREADS) as pool:
        assert all(pool.map(fail, range(1, THREADS + 1)))


def while_busy(work, attempt):
    """What `attempt` raised in this thread while `work` was running in another.

    The interpreter is told to switch threads never by itself: this one runs only where the other lets go of
    the GIL, which is inside the library and nowhere else.
    """
    raised = []
    stop = threading.Event()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)

    def repeat():
        for _ in range(300):
            if stop.is_set():
                break
            work()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        for _ in range(100_000):
            try:
                attempt()
            except RuntimeError as error:
                raised.append(error)
                break
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert raised
    return str(raised[0])


def test_a_cache_in_use_is_refused_to_others(layer):
    x = random(4, 2000, 16)
    with Cache(layer, 4) as cache, Cache(layer, 4) as other:

        def work():
            # Nobody waits: this call may find that the other thread has the cache.
            with suppress(RuntimeError):
                layer(x, cache)

        for attempt in (
            cache.reset,
            lambda: cache.seqlen_offset,
            cache.save,
            lambda: layer.forward_varlen(x[0, :4], range(5), cache),
            lambda: cache.states["ssm_state"],
            lambda: other.copy_lane(0, cache, 0),
            lambda: layer.step(x[:, 0], cache),
        ):
            assert while_busy(work, attempt) == "this cache is in use by another thread"
        assert "Cache batch=4" in repr(cache)


def test_a_layer_in_use_is_neither_changed_nor_closed(layer):
    x = random(4, 2000, 16)
    d = layer.parameters["D"]

    def work():
        with suppress(RuntimeError):
            layer(x)

    def assign():
        layer.parameters["D"] = d

    for attempt in (assign, lambda: layer.load_state_dict(layer.state_dict())):
        assert while_busy(work, attempt) == "this layer is in use by another thread"

    # Closing only where it must fail: from within a call of another thread.
    with layer._handle.shared, pytest.raises(RuntimeError, match="in use"):
        layer.close()
    assert not layer.closed


def test_the_caches_of_a_model_are_one(layer):
    with InferenceParams() as params:
        layer.forward(random(1, 2, 16), inference_params=params)
        cache = params.cache(0)
        with params._handle.exclusive:
            assert repr(cache) == "<Cache batch=1, in use>"
            with pytest.raises(RuntimeError, match="this InferenceParams is in use"):
                cache.reset()
        cache.reset()
