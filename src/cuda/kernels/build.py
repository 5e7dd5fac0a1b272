#!/usr/bin/env python3
"""Makes layer.ptx and steps.ptx from layer.cu with NVRTC, or with --check says whether they belong together.

    build.py LIBNVRTC [--check]

LIBNVRTC: libnvrtc.so.12 of CUDA 12.0, as in PyPI's nvidia-cuda-nvrtc-cu12==12.0.140. A driver refuses PTX that is newer
than itself; that of 12.0 is taken by every driver from 525 on.
"""

import ctypes
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
SOURCE = HERE / "layer.cu"
TARGETS = {
    HERE / "layer.ptx": [b"--gpu-architecture=compute_80", b"--std=c++17"],
    HERE / "steps.ptx": [b"--gpu-architecture=compute_90", b"--std=c++17", b"-DSTEPS_ONLY"],
}
VERSION = (12, 0)


def compile_ptx(nvrtc: ctypes.CDLL, options: list[bytes]) -> str:
    version = ctypes.c_int(), ctypes.c_int()
    nvrtc.nvrtcVersion(ctypes.byref(version[0]), ctypes.byref(version[1]))
    if (version[0].value, version[1].value) != VERSION:
        sys.exit(f"NVRTC is {version[0].value}.{version[1].value}; it must be {VERSION[0]}.{VERSION[1]}")
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), SOURCE.read_bytes(), b"layer.cu", 0, None, None)
    status = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    size = ctypes.c_size_t()
    get_size, get = (
        (nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog) if status else (nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX)
    )
    get_size(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    get(program, text)
    if status:
        sys.exit(text.value.decode())
    return text.value.decode()


def main() -> None:
    nvrtc = ctypes.CDLL(sys.argv[1])
    for target, options in TARGETS.items():
        ptx = compile_ptx(nvrtc, options)
        if "--check" not in sys.argv:
            target.write_text(ptx)
        elif target.read_text() != ptx:
            sys.exit(f"src/cuda/kernels/{target.name} is not what layer.cu compiles to: run `make kernels`")


if __name__ == "__main__":
    main()
