#!/usr/bin/env python3
"""Makes the files of PTX from layer.cu with NVRTC, or with --check says whether they belong together.

    build.py LIBNVRTC [--check]

LIBNVRTC: libnvrtc.so.12 of CUDA 12.0, as in PyPI's nvidia-cuda-nvrtc-cu12==12.0.140. A driver refuses PTX that is newer
than itself; that of 12.0 is taken by every driver from 525 on. The kernels that begin early, which need one of CUDA 12.3 or
later anyway, use an instruction of PTX 8.1, one more than NVRTC 12.0 knows of; it hands on assembly unread.
"""

import ctypes
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
SOURCE = HERE / "layer.cu"
STORAGES = {"f32": "float", "bf16": "bf16", "f16": "f16"}
# Kernels and target of a file of each storage type. Drivers translate whole files: a device takes one of the two of steps.
PARTS = {"layer": ("OTHERS", "compute_80"), "steps": ("STEPS", "compute_80"), "early_steps": ("STEPS", "compute_90")}
VERSION = (12, 0)


def compile_ptx(nvrtc: ctypes.CDLL, architecture: str, options: list[bytes]) -> str:
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
    ptx = text.value.decode()
    return ptx.replace(".version 8.0", ".version 8.1") if architecture == "compute_90" else ptx


def main() -> None:
    nvrtc = ctypes.CDLL(sys.argv[1])
    for part, (kernels, architecture) in PARTS.items():
        for name, storage in STORAGES.items():
            target = HERE / f"{part}.{name}.ptx"
            more = {("STEPS", True): "_AND_TF32", ("OTHERS", False): "_AND_DT"}.get((kernels, name == "f32"), "")
            options = [f"--gpu-architecture={architecture}", "--std=c++17"]
            options += [f"-DKERNELS={kernels}{more}", f"-DSTORAGE={storage}", f"-DNAME={name}"]
            ptx = compile_ptx(nvrtc, architecture, [option.encode() for option in options])
            if "--check" not in sys.argv:
                target.write_text(ptx)
            elif target.read_text() != ptx:
                sys.exit(f"src/cuda/kernels/{target.name} is not what layer.cu compiles to: run `make kernels`")


if __name__ == "__main__":
    main()
