"""Does the library compute what the PyTorch layers do? Before a model leaves the place where it was trained.

Needs torch and lite-mamba 0.2.6 besides this package. `check` takes any lite-mamba layer of yours, and
inputs that it will see; the program tries it on a layer of each kind.
"""

import copy
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from lite_mamba import BaselineMamba, DPWCMamba, PTCNMamba, STCNMamba

from lite_mamba_native import Cache, Layer, build_info

sys.path.append(str(Path(__file__).resolve().parents[1]))
from export import save_layer

# Of each type that a module may be of. In 16 bits PyTorch rounds after every stage, this library does not.
BOUNDS = {torch.float32: 1e-5, torch.float64: 1e-6, torch.bfloat16: 2e-2, torch.float16: 4e-3}


def check(module, x):
    """The largest difference between a PyTorch layer and the file that it is exported to, as the library runs
    it: all at once and token by token. In parts of the largest output. `x` is (batch, seqlen, d_model)."""
    with torch.no_grad():
        expected = module(x.to(module.in_proj.weight.dtype)).double().numpy()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer.safetensors"
        save_layer(module, path)
        layer = Layer.load(path)

    whole = layer(x)  # a tensor on the CPU is read where it lies
    cache = Cache(layer, batch=len(x))
    streamed = np.stack([layer.step(x[:, t], cache) for t in range(x.shape[1])], axis=1)
    assert np.array_equal(whole, streamed), "a step and a forward differ"
    return np.abs(whole - expected).max() / np.abs(expected).max()


def main():
    print(build_info())
    torch.manual_seed(0)
    modules = [
        PTCNMamba(32, conv_dilations=(1, 2, 4)),
        STCNMamba(32, conv_dilations=(1, 2, 4)),
        DPWCMamba(32, conv_dilations=(1, 2, 4)),
        BaselineMamba(32),
    ]
    worst = 0
    for module in modules:
        for dtype, bound in BOUNDS.items():
            x = torch.randn(3, 100, 32).to(dtype).float()
            difference = check(copy.deepcopy(module).to(dtype), x)
            print(f"{type(module).__name__:14} {dtype} differs by {difference:.1e} of the largest output")
            worst = max(worst, difference / bound)
    return 0 if worst <= 1 else 1


if __name__ == "__main__":
    sys.exit(main())
