"""Finding and opening the shared library, and what it says about itself."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

from . import _abi
from ._errors import error_of
from ._values import size

_VARIABLE = "LITE_MAMBA_LIBRARY"

# The names carry the ABI's version where the platform has a place for it.
if sys.platform == "win32":
    _NAMES = ("lite_mamba.dll", "liblite_mamba.dll")
elif sys.platform == "darwin":
    _NAMES = (f"liblite_mamba.{_abi.ABI_VERSION}.dylib", "liblite_mamba.dylib")
else:
    _NAMES = (f"liblite_mamba.so.{_abi.ABI_VERSION}",)


def open_library() -> ctypes.CDLL:
    """The library, its functions declared.

    It is the file that LITE_MAMBA_LIBRARY names; without that variable what the platform's loader finds
    under the library's name, or else what lies in the directory that pkg-config gives.

    Raises
    ------
    ImportError
        It is nowhere, or not one that this package can use. The message says what was tried.
    """
    given = os.environ.get(_VARIABLE)
    # Whoever names a file wants that one or an error.
    tried = [] if given else [f"{_VARIABLE} is not set"]
    for name in [given] if given else _places(tried):
        try:
            # CDLL lets go of the GIL during every call.
            library = ctypes.CDLL(name)
        except OSError as error:
            tried.append(str(error))
        else:
            return _declare(library, name)
    raise ImportError(
        "\n  ".join(["the lite-mamba library was not found:", *tried])
        + f"\nInstall it where the loader or pkg-config looks, or set {_VARIABLE} to the file."
    )


def _places(tried: list[str]) -> Iterator[str]:
    yield from _NAMES
    command = [os.environ.get("PKG_CONFIG", "pkg-config"), "--variable=libdir", "lite_mamba"]
    try:
        libdir = subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()
    except OSError as error:
        tried.append(f"{command[0]}: {error.strerror}")
    except subprocess.CalledProcessError as error:
        tried.append(f"{' '.join(command)}: {error.stderr.strip() or 'failed'}")
    else:
        yield from (str(Path(libdir) / name) for name in _NAMES)


def _declare(library: ctypes.CDLL, name: str) -> ctypes.CDLL:
    try:
        version = library.lm_abi_version
    except AttributeError:
        raise ImportError(f"{name} is no lite-mamba library: it has no lm_abi_version", path=name) from None
    version.restype, version.argtypes = ctypes.c_uint32, ()
    if version() != _abi.ABI_VERSION:
        raise ImportError(
            f"{name} has ABI version {version()}, lite_mamba_native needs {_abi.ABI_VERSION}", path=name
        )
    for function, (restype, *argtypes) in _abi.PROTOTYPES.items():
        try:
            declared = getattr(library, function)
        except AttributeError:
            raise ImportError(f"{name} is too old: it has no {function}", path=name) from None
        declared.restype, declared.argtypes = restype, argtypes
    return library


lib = open_library()


def check(status: int) -> None:
    """Raises what a status stands for; nothing for OK.

    The message belongs to the thread, and Python's threads are the system's: it is that of the call.
    """
    if status:
        message = lib.lm_last_error().decode()
        raise error_of(status, lib.lm_status_name(status).decode(), message)


def create(function: Callable[..., int], *arguments: Any) -> int:
    """The handle that a function gives through its last argument."""
    pointer = ctypes.c_void_p()
    check(function(*arguments, pointer))
    return pointer.value or 0


def library_version() -> str:
    """The version of the library that was loaded, such as "0.1.0"."""
    return str(lib.lm_version().decode())


def build_info() -> str:
    """One line for a log or a bug report: version, instruction set, threads, and why CUDA cannot be used."""
    return str(lib.lm_build_info().decode())


def cuda_available() -> bool:
    """Whether layers on "cuda" can be created here. If not, `build_info` says why."""
    return bool(lib.lm_cuda_available())


def set_num_threads(n: int) -> None:
    """Sets how many threads a call may compute on, 4096 at most; 0, the default, is one per core.

    It changes no bit of any result, and holds for calls that start afterwards.
    """
    check(lib.lm_set_num_threads(size("n", n)))
