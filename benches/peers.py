"""Times this library beside the PyTorch reference, interleaved in one process, and prints both beside the floor.

    python benches/peers.py target/release/liblite_mamba.so [--threads 1 2] [--cases C1 C2] [--compile]

Needs torch, numpy, safetensors and lite-mamba 0.2.6. Both sides run the same weights and the outputs are
compared first. The floor of a forward is its matrix products as torch computes them at these shapes in the same
run, plus its exponentials at the rate given; of a step, its matrix products as torch computes them, which is
what reading the weights once takes it.
Medians, and the spread from the 25th to the 75th percentile.
"""

import argparse
import ctypes
import os
import statistics
import sys
import tempfile
import time

import torch

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "bindings", "python"))
from export import save_layer  # noqa: E402
from lite_mamba import BaselineMamba, DPWCMamba, PTCNMamba, STCNMamba  # noqa: E402

FORWARD = {
    # name: (class, batch, seqlen, d_model, d_conv, dilations)
    "C1": (PTCNMamba, 2, 128, 512, 3, (1, 2, 4, 8)),
    "C2": (PTCNMamba, 1, 1024, 256, 4, (1, 2, 4)),
    "C3": (PTCNMamba, 1, 2048, 768, 4, (1,)),
    "C4": (PTCNMamba, 8, 512, 256, 4, (1, 2, 4, 8, 16)),
    "C1-STCN": (STCNMamba, 2, 128, 512, 3, (1, 2, 4, 8)),
    "C1-DPWC": (DPWCMamba, 2, 128, 512, 3, (1, 2, 4, 8)),
}
STEP = {
    "S256": (PTCNMamba, 1, 0, 256, 4, (1, 2, 4)),
    "S512": (PTCNMamba, 1, 0, 512, 3, (1, 2, 4, 8)),
    "S768": (PTCNMamba, 1, 0, 768, 4, (1,)),
    "S512x16": (PTCNMamba, 16, 0, 512, 3, (1, 2, 4, 8)),
}


class Library:
    """The few functions of the C ABI that the comparison calls."""

    def __init__(self, path):
        self.lib = ctypes.CDLL(path)
        for name in ("lm_last_error", "lm_build_info"):
            getattr(self.lib, name).restype = ctypes.c_char_p

    def check(self, status):
        if status != 0:
            raise RuntimeError(self.lib.lm_last_error().decode())

    def load(self, module):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "layer.safetensors")
            save_layer(module, path)
            layer = ctypes.c_void_p()
            self.check(self.lib.lm_load(path.encode(), None, None, ctypes.byref(layer)))
        return layer

    def cache(self, layer, batch):
        cache = ctypes.c_void_p()
        arguments = (ctypes.c_size_t(batch), ctypes.c_size_t(0), ctypes.c_uint32(0))
        self.check(self.lib.lm_alloc_cache(layer, *arguments, ctypes.byref(cache)))
        return cache

    def forward(self, layer, x, y, cache=None):
        batch, seqlen, _ = x.shape
        sizes = (ctypes.c_size_t(batch), ctypes.c_size_t(seqlen))
        self.check(self.lib.lm_forward(layer, pointer(x), *sizes, cache, pointer(y)))

    def step(self, layer, x, cache, y):
        self.check(self.lib.lm_step(layer, pointer(x), cache, pointer(y)))


def pointer(tensor):
    return ctypes.c_void_p(tensor.data_ptr())


def measure(calls, rounds, budget):
    """Seconds of each call by name: medians and quartiles over interleaved rounds, at least 15 of them.

    Before a call is timed it is made once, so that none pays for what another has put into the caches; but not where
    it takes so long that this is nothing to it.
    """
    times = {name: [] for name in calls}
    slow = {name: timed(call, 1) > 0.1 for name, call in calls.items()}
    start = time.perf_counter()
    for i in range(rounds):
        if i >= 15 and time.perf_counter() - start > budget:
            break
        for name, call in calls.items():
            if not slow[name]:
                call()
            times[name].append(timed(call, 1))
    return {name: quartiles(values) for name, values in times.items()}


def quartiles(values):
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return low, middle, high


def products(module, rows):
    """The layer's matrix products as (weight, input) pairs."""
    weights = [module.in_proj.weight, module.x_proj.weight, module.dt_proj.weight, module.out_proj.weight]
    weights += [layer.weight.squeeze(-1) for layer in getattr(module, "pw_conv1d_layers", [])]
    return [(weight.detach(), torch.randn(rows, weight.shape[1])) for weight in weights]


def timed(call, repeats):
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - begin) / repeats


def make(case):
    kind, batch, seqlen, d_model, d_conv, dilations = case
    torch.manual_seed(0)
    module = kind(d_model=d_model, d_conv=d_conv, conv_dilations=dilations).eval()
    return module, batch, seqlen, d_model


def compare_forward(library, name, arguments):
    module, batch, seqlen, d_model = make(FORWARD[name])
    layer = library.load(module)
    x = torch.randn(batch, seqlen, d_model)
    y = torch.empty_like(x)
    library.forward(layer, x, y)
    reference = module(x)
    difference = float((y - reference).abs().max() / reference.abs().max())
    assert difference < 1e-5, difference

    pairs = products(module, batch * seqlen)
    outputs = [torch.empty(x.shape[0], w.shape[0]) for w, x in pairs]

    def multiply():
        for (weight, rows), out in zip(pairs, outputs):
            torch.mm(rows, weight.t(), out=out)

    calls = {"ours": lambda: library.forward(layer, x, y), "products": multiply}
    if not arguments.no_reference:
        calls["eager"] = lambda: module(x)
    if arguments.compile:
        compiled = torch.compile(module)
        begin = time.perf_counter()
        compiled(x)
        print(f"   torch.compile took {time.perf_counter() - begin:.1f} s")
        calls["compiled"] = lambda: compiled(x)
    result = measure(calls, arguments.rounds, arguments.seconds)
    count = batch * seqlen * module.d_inner * module.d_state
    rate = arguments.exponentials * 1e9 * torch.get_num_threads()
    report(name, result, result["products"][1] + count / rate)


def compare_step(library, name, arguments):
    module, batch, _, d_model = make(STEP[name])
    layer = library.load(module)
    cache = library.cache(layer, batch)
    x = torch.randn(batch, 1, d_model)
    y = torch.empty_like(x)
    conv_state, ssm_state = module.allocate_inference_cache(batch, 1)
    pairs = products(module, batch)
    outputs = [torch.empty(x.shape[0], w.shape[0]) for w, x in pairs]
    library.step(layer, x, cache, y)
    reference, _, _ = module.step(x, conv_state, ssm_state)
    difference = float((y - reference).abs().max() / reference.abs().max())
    assert difference < 1e-5, difference

    def steps():
        for _ in range(20):
            library.step(layer, x, cache, y)

    def multiply():
        for _ in range(20):
            for (weight, rows), out in zip(pairs, outputs):
                torch.mm(rows, weight.t(), out=out)

    def eager():
        for _ in range(20):
            module.step(x, conv_state, ssm_state)

    calls = {"ours": steps, "products": multiply}
    if not arguments.no_reference:
        calls["eager"] = eager
    if arguments.compile:
        compiled = torch.compile(module.step)
        begin = time.perf_counter()
        compiled(x, conv_state, ssm_state)
        print(f"   torch.compile took {time.perf_counter() - begin:.1f} s")

        def compiled_steps():
            for _ in range(20):
                compiled(x, conv_state, ssm_state)

        calls["compiled"] = compiled_steps
    result = measure(calls, arguments.rounds, arguments.seconds)
    result = {name: tuple(value / 20 for value in values) for name, values in result.items()}
    report(name, result, result["products"][1])


def report(name, result, floor):
    ours = result["ours"][1]
    unit, scale = ("ms", 1e3) if ours > 1e-3 else ("µs", 1e6)
    line = f"{name:9} threads {torch.get_num_threads():2}"
    for key, (low, middle, high) in result.items():
        line += f" | {key} {middle * scale:.3f} {unit} [{low * scale:.3f}, {high * scale:.3f}]"
        if key in ("eager", "compiled"):
            line += f" = {middle / ours:.1f} x"
    line += f" | floor {floor * scale:.3f}, ours is {ours / floor:.2f} x"
    print(line, flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("library")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--cases", nargs="+", default=[*FORWARD, *STEP])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--seconds", type=float, default=20.0, help="time limit a case")
    parser.add_argument(
        "--exponentials", type=float, default=8.0, help="10^9 a second and core: 2^v in L1 as benches/stages.rs measures it"
    )
    parser.add_argument("--compile", action="store_true", help="also torch.compile")
    parser.add_argument("--no-reference", action="store_true", help="ours and the matrix products only")
    arguments = parser.parse_args()
    library = Library(arguments.library)
    print(f"torch {torch.__version__}; {library.lib.lm_build_info().decode()}")
    torch.set_grad_enabled(False)
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        library.check(library.lib.lm_set_num_threads(ctypes.c_size_t(threads)))
        for name in arguments.cases:
            (compare_forward if name in FORWARD else compare_step)(library, name, arguments)


if __name__ == "__main__":
    main()
