"""The smallest useful program: a PTCN layer reads six tokens at once, then the same six one by one."""

import numpy as np

from lite_mamba_native import Cache, Config, Layer

layer = Layer(Config(32, conv_dilations=(1, 2, 4), seed=7))  # the initial weights of torch.manual_seed(7)
x = np.sin(0.3 * np.arange(6)[:, None] + 0.7 * np.arange(32)).astype(np.float32)
whole = layer(x)

cache = Cache(layer)
streamed = np.stack([layer.step(token, cache) for token in x])

assert np.array_equal(whole, streamed)
print(f"{len(streamed)} streamed tokens, bit for bit the forward pass")
