"""A stream of tokens through a layer, each on from what came before."""

import numpy as np

from lite_mamba_native import Cache, Config, Layer

layer = Layer(Config(32, conv_dilations=(1, 2, 4)))  # the reference's defaults otherwise
cache = Cache(layer)  # the state of one stream

token = np.zeros(32, dtype=np.float32)
for t in range(6):
    token[0] = t
    layer.step(token, cache, out=token)  # in place
    print(t, token[:3])
