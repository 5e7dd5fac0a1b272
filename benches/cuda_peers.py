#!/usr/bin/env python3
"""lite-mamba on a GPU beside mamba_ssm, in one process: the scan alone, forward and the step in a CUDA graph.

    cuda_peers.py liblite_mamba.so [CASE ...]

The library is one built with the feature `cuda`. Needs torch with CUDA and mamba_ssm with causal_conv1d, from PyPI or
built from their source. mamba_ssm has one branch, ours all of the case's. The time of our scan is that of its kernels as
torch's profiler sees them; mamba_ssm's is its call between two events. A graph has several steps, so that launching it is
not what is measured.
"""

import ctypes
import statistics
import sys

import torch
from cuda_library import Library, Tensor, stream
from mamba_ssm.modules.mamba_simple import Mamba
from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
from torch.profiler import ProfilerActivity, profile

CASES = {  # batch, seqlen, d_model, d_conv, dilations
    "G1": (2, 128, 512, 3, (1, 2, 4, 8)),
    "G2": (8, 2048, 1024, 4, (1, 2, 4, 8)),
    "G4": (1, 8192, 768, 4, (1, 2, 4, 8)),
    "G5": (32, 512, 256, 4, (1, 2, 4, 8, 16)),
}
PRECISIONS = {"f32": (torch.float32, False), "tf32": (torch.float32, True), "bf16": (torch.bfloat16, False)}


def microseconds(call, times, rounds=15):
    call()
    torch.cuda.synchronize()
    medians = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(times):
            call()
        end.record()
        end.synchronize()
        medians.append(start.elapsed_time(end) * 1e3 / times)
    return statistics.median(medians)


STEPS = 10  # of a graph


def captured(call):
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(STEPS):
            call()
    return graph


def scan_kernels(call, times=10):
    call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(times):
            call()
        torch.cuda.synchronize()
    spent = [e.self_device_time_total for e in profiler.key_averages() if e.key.startswith(("scan_", "summary_"))]
    return sum(spent) / times


def scan_of_mamba_ssm(case, dtype):
    batch, seqlen, d_model, *_ = case
    e, n = 2 * d_model, 16
    u, delta, z = (torch.randn(batch, e, seqlen, device="cuda", dtype=dtype) for _ in range(3))
    a = -torch.arange(1, n + 1, device="cuda", dtype=torch.float32).repeat(e, 1)
    b, c = (torch.randn(batch, 1, n, seqlen, device="cuda", dtype=dtype) for _ in range(2))
    d, bias = torch.ones(e, device="cuda"), torch.randn(e, device="cuda") - 4
    return microseconds(lambda: selective_scan_fn(u, delta, a, b, c, d, z, bias, True), 5)


def main():
    library = Library(sys.argv[1])
    torch.manual_seed(0)
    print(torch.cuda.get_device_name(), "; us; ours / mamba_ssm = times faster")
    for name in sys.argv[2:] or CASES:
        case = CASES[name]
        batch, seqlen, d_model, d_conv, dilations = case
        for label, precision in PRECISIONS.items():
            dtype, tf32 = precision
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
            layer = library.layer(dtype, tf32, dilations, d_model=d_model, d_conv=d_conv)
            peer = Mamba(d_model, d_conv=d_conv, layer_idx=0, device="cuda", dtype=dtype)
            x = torch.randn(batch, seqlen, d_model, device="cuda", dtype=dtype)
            y = torch.empty_like(x)
            tensors = Tensor(x), Tensor(y)

            def forward():
                library.lm_forward_dlpack(layer, ctypes.byref(tensors[0]), None, ctypes.byref(tensors[1]), stream())

            with torch.no_grad():
                pairs = {"forward": (microseconds(forward, 5), microseconds(lambda: peer(x), 5))}
                if not tf32:
                    pairs["scan"] = (scan_kernels(forward), scan_of_mamba_ssm(case, dtype))
                for steps in (1, 8, 32):
                    cache = library.cache(layer, steps)
                    h = torch.randn(steps, 1, d_model, device="cuda", dtype=dtype)
                    h0 = h[:, 0].contiguous()
                    out = torch.empty_like(h0)
                    of_step = Tensor(h0), Tensor(out)
                    conv, ssm = peer.allocate_inference_cache(steps, 1, dtype=dtype)
                    ours = captured(
                        lambda: library.lm_step_dlpack(
                            layer, ctypes.byref(of_step[0]), cache, ctypes.byref(of_step[1]), stream()
                        )
                    )
                    theirs = captured(lambda: peer.step(h, conv, ssm))
                    pairs[f"step {steps}"] = [microseconds(graph.replay, 20) / STEPS for graph in (ours, theirs)]
                    torch.cuda.synchronize()
                    del ours, theirs
                    library.lib.lm_free_cache(cache)
            line = "; ".join(f"{what} {a:.1f} / {b:.1f} = {b / a:.2f}" for what, (a, b) in pairs.items())
            print(f"{name} {label}: {line}", flush=True)
            torch.cuda.synchronize()
            library.lib.lm_destroy(layer)


if __name__ == "__main__":
    main()
