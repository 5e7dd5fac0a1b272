"""What a step costs by way of Python: `python bench.py`.

The smallest layer that there is leaves little but the way into the library and back; ctypes alone, with the
addresses taken beforehand, is the least that Python can do. The best of many short runs.
"""

import timeit

import numpy as np

from lite_mamba_native import Cache, Config, Layer, build_info
from lite_mamba_native._library import lib


def measure(config):
    """Prints what the calls of one layer take."""
    layer = Layer(config)
    cache = Cache(layer)
    x = np.zeros((1, config.d_model), np.float32)
    y = np.empty_like(x)
    with layer._handle.shared as a, cache._handle.shared as b:
        bare = (a, x.ctypes.data, b, y.ctypes.data)
    calls = {
        "step(x, cache)": lambda: layer.step(x, cache),
        "step(x, cache, out=y)": lambda: layer.step(x, cache, out=y),
        "ctypes alone": lambda: lib.lm_step(*bare),
    }
    for name, call in calls.items():
        seconds = min(timeit.repeat(call, number=200, repeat=3000)) / 200
        print(f"d_model {config.d_model:3}  {name:22} {seconds * 1e9:6.0f} ns")


if __name__ == "__main__":
    print(build_info())
    measure(Config(1, d_state=1, d_conv=1))
    measure(Config(64, conv_dilations=(1, 2, 4)))
