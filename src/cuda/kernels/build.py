#!/usr/bin/env python3
"""Makes layer.ptx from layer.cu with NVRTC, or with --check says whether they belong together.

    build.py LIBNVRTC [--check]

LIBNVRTC: libnvrtc.so.12 of CUDA 12.0, as in PyPI's nvidia-cuda-nvrtc-cu12==12.0.140. A driver refuses PTX that is newer
than itself; that of 12.0 is taken by every driver from 525 on.
"""

import ctypes
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
SOURCE, TARGET = HERE / "layer.cu", HERE / "layer.ptx"
OPTIONS = [b"--gpu-architecture=compute_80", b"--std=c++17"]
VERSION = (12, 0)


def compile_ptx(nvrtc: ctypes.CDLL) -> str:
    version = ctypes.c_int(), ctypes.c_int()
    nvrtc.nvrtcVersion(ctypes.byref(version[0]), ctypes.byref(version[1]))
    if (version[0].value, version[1].value) != VERSION:
        sys.exit(f"NVRTC is {version[0].value}.{version[1].value}; it must be {VERSION[0]}.{VERSION[1]}")
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), SOURCE.read_bytes(), b"layer.cu", 0, None, None)
    status = nvrtc.nvrtcCompileProgram(program, len(OPTIONS), (ctypes.c_char_p * len(OPTIONS))(*OPTIONS))
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
    ptx = compile_ptx(ctypes.CDLL(sys.argv[1]))
    if "--check" not in sys.argv:
        TARGET.write_text(ptx)
    elif TARGET.read_text() != ptx:
        sys.exit("src/cuda/kernels/layer.ptx is not what layer.cu compiles to: run `make kernels`")


if __name__ == "__main__":
    main()
