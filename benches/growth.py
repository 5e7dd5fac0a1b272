"""How time and memory grow with the length of the sequence, and what the first call costs.

    python benches/growth.py target/release/liblite_mamba.so [--threads 1 2]

Nanoseconds a token (medians) and the memory that a forward of L tokens adds beyond its input and output; then the
first forward of a layer just loaded from its file, in a fresh process each, beside a warm one.
"""

import argparse
import ctypes
import os
import statistics
import subprocess
import sys
import tempfile
import time

from compare import CASES, PTCN, Call


def load(path, threads):
    lib = ctypes.CDLL(os.path.abspath(path))
    lib.lm_set_num_threads(ctypes.c_size_t(threads))
    return lib


def memory(field):
    """VmRSS, the resident set, or VmHWM, its largest since `forget_peak`, in bytes (Linux)."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))


def forget_peak():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def growth(lib, threads):
    base = None
    for seqlen in (128, 512, 2048, 8192, 32768, 65536):
        call = Call(lib, (PTCN, 1, seqlen, 256, 4, (1, 2, 4)))
        ctypes.memset(call.y, 1, ctypes.sizeof(call.y))
        forget_peak()
        before = memory("VmRSS")
        call()
        added = memory("VmHWM") - before
        times = [call.seconds(max(1, 2048 // seqlen)) for _ in range(15)]
        token = statistics.median(times) / seqlen
        base = base or token
        print(
            f"threads {threads} L {seqlen:6}: {token * 1e9:8.1f} ns a token ({token / base:.3f} of L 128), "
            f"memory beyond x and y {added / 1e6:.2f} MB",
            flush=True,
        )


FIRST = """
import ctypes, statistics, sys
sys.path.insert(0, sys.argv[1])
import growth, compare
lib = growth.load(sys.argv[2], int(sys.argv[3]))
call = compare.Call(lib, compare.CASES[sys.argv[5]])
layer = ctypes.c_void_p()
call.check(lib.lm_load(sys.argv[4].encode(), None, None, ctypes.byref(layer)))
call.layer = layer
first = call.seconds(1)
print(first, statistics.median(call.seconds(1) for _ in range(25)))
"""


def first(path, threads, name):
    lib = load(path, threads)
    here = os.path.dirname(os.path.abspath(__file__))
    with tempfile.TemporaryDirectory() as directory:
        file = os.path.join(directory, "layer.safetensors")
        call = Call(lib, CASES[name])
        call.check(lib.lm_save(call.layer, file.encode()))
        command = [sys.executable, "-c", FIRST, here, path, str(threads), file, name]
        runs = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(9)]
    pairs = [tuple(map(float, run.split())) for run in runs]
    first, warm = (statistics.median(values) for values in zip(*pairs))
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"{name} threads {threads}: first {first * 1e3:.2f} ms, warm {warm * 1e3:.2f} ms, ratio {ratio:.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    for threads in args.threads:
        growth(load(args.library, threads), threads)
        for name in ("C1", "C2", "C3", "C4"):
            first(args.library, threads, name)


if __name__ == "__main__":
    begin = time.perf_counter()
    main()
    print(f"{time.perf_counter() - begin:.0f} s")
