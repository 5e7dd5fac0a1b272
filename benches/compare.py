"""Times builds of the library beside each other, their calls interleaved, and prints medians and ratios to the first.

    python benches/compare.py before.so after.so [--threads 1 2] [--cases C1 S512] [--seconds 2] [--isa avx2]

Needs nothing but Python and the shared libraries. The cases are those of benches/layer.rs.
"""

import argparse
import array
import ctypes
import os
import statistics
import time

PTCN, STCN, DPWC = 0, 1, 2
CASES = {
    # name: (variant, batch, seqlen (0: a step), d_model, d_conv, dilations)
    "C1": (PTCN, 2, 128, 512, 3, (1, 2, 4, 8)),
    "C2": (PTCN, 1, 1024, 256, 4, (1, 2, 4)),
    "C3": (PTCN, 1, 2048, 768, 4, (1,)),
    "C4": (PTCN, 8, 512, 256, 4, (1, 2, 4, 8, 16)),
    "C1-STCN": (STCN, 2, 128, 512, 3, (1, 2, 4, 8)),
    "C1-DPWC": (DPWC, 2, 128, 512, 3, (1, 2, 4, 8)),
    "S64": (PTCN, 1, 0, 64, 4, (1, 2, 4)),
    "S256": (PTCN, 1, 0, 256, 4, (1, 2, 4)),
    "S512": (PTCN, 1, 0, 512, 3, (1, 2, 4, 8)),
    "S768": (PTCN, 1, 0, 768, 4, (1,)),
    "S512x16": (PTCN, 16, 0, 512, 3, (1, 2, 4, 8)),
}


class Config(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("variant", ctypes.c_uint32),
        ("dtype", ctypes.c_uint32),
        ("d_model", ctypes.c_size_t),
        ("d_state", ctypes.c_size_t),
        ("d_conv", ctypes.c_size_t),
        ("conv_dilations", ctypes.POINTER(ctypes.c_size_t)),
        ("num_conv_dilations", ctypes.c_size_t),
        ("expand", ctypes.c_double),
        ("dt_rank", ctypes.c_size_t),
        ("dt_min", ctypes.c_double),
        ("dt_max", ctypes.c_double),
        ("dt_scale", ctypes.c_double),
        ("dt_init_floor", ctypes.c_double),
        ("dt_init", ctypes.c_uint32),
        ("conv_bias", ctypes.c_bool),
        ("bias", ctypes.c_bool),
        ("use_fast_path", ctypes.c_bool),
        ("layer_idx", ctypes.c_int64),
        ("device", ctypes.c_uint32),
        ("device_index", ctypes.c_uint32),
        ("math", ctypes.c_uint32),
        ("seed", ctypes.c_uint64),
    ]


class Call:
    """One case on one library."""

    def __init__(self, lib, case):
        variant, self.batch, self.seqlen, d_model, d_conv, dilations = case
        self.lib = lib
        config = Config()
        self.check(lib.lm_config_init(ctypes.byref(config), ctypes.c_size_t(ctypes.sizeof(config))))
        branches = (ctypes.c_size_t * len(dilations))(*dilations)
        config.variant, config.d_model, config.d_conv = variant, d_model, d_conv
        config.conv_dilations, config.num_conv_dilations = branches, len(dilations)
        self.layer, self.cache = ctypes.c_void_p(), ctypes.c_void_p()
        self.check(lib.lm_create(ctypes.byref(config), ctypes.byref(self.layer)))
        count = self.batch * max(self.seqlen, 1) * d_model
        noise = array.array("f", ((i * 7919 % 2003) / 1001 - 1 for i in range(2003)))
        self.x = (ctypes.c_float * count).from_buffer(noise * (count // len(noise) + 1))
        self.y = (ctypes.c_float * count)()
        if self.seqlen == 0:
            batch = ctypes.c_size_t(self.batch)
            self.check(lib.lm_alloc_cache(self.layer, batch, ctypes.c_size_t(0), 0, ctypes.byref(self.cache)))
        self.size_args = ctypes.c_size_t(self.batch), ctypes.c_size_t(self.seqlen)

    def check(self, status):
        if status != 0:
            self.lib.lm_last_error.restype = ctypes.c_char_p
            raise SystemExit(self.lib.lm_last_error().decode())

    def __call__(self):
        if self.seqlen == 0:
            self.check(self.lib.lm_step(self.layer, self.x, self.cache, self.y))
        else:
            self.check(self.lib.lm_forward(self.layer, self.x, *self.size_args, None, self.y))

    def seconds(self, repeats):
        begin = time.perf_counter()
        for _ in range(repeats):
            self()
        return (time.perf_counter() - begin) / repeats


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("libraries", nargs="+")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--seconds", type=float, default=2.0, help="for each case and number of threads")
    parser.add_argument("--isa", help="an instruction set instead of the fastest one")
    args = parser.parse_args()
    if args.isa:
        os.environ["LITE_MAMBA_ISA"] = args.isa
    libraries = [ctypes.CDLL(os.path.abspath(path)) for path in args.libraries]
    for threads in args.threads:
        for lib in libraries:
            lib.lm_set_num_threads(ctypes.c_size_t(threads))
        for name in args.cases:
            calls = [Call(lib, CASES[name]) for lib in libraries]
            # A round of steps is long enough for its weights to be where they are between steps.
            repeats = [max(1, int(1e-3 / call.seconds(3))) for call in calls]
            times = [[] for _ in calls]
            end = time.perf_counter() + args.seconds
            while time.perf_counter() < end or len(times[0]) < 9:
                for call, repeat, samples in zip(calls, repeats, times):
                    samples.append(call.seconds(repeat))
            medians = [statistics.median(samples) for samples in times]
            print(f"{name:8} threads {threads:2}", end="")
            for median, samples in zip(medians, times):
                low, _, high = statistics.quantiles(samples, n=4)
                print(
                    f" | {median * 1e6:9.1f} µs [{low * 1e6:.1f}, {high * 1e6:.1f}] {median / medians[0]:.3f}",
                    end="",
                )
            print(flush=True)


if __name__ == "__main__":
    main()
