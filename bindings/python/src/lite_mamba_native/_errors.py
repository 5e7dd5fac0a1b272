"""The library's status codes as exceptions."""

from __future__ import annotations

from ._abi import Status


class LiteMambaError(Exception):
    """A call into the library failed.

    Every status code has a subclass, which is also the built-in exception that a Python program would
    expect. The message is the library's: it names the argument, what it was and what it must be.
    """

    #: The status code; an `int` for one that a later version of the library has added.
    code: int = Status.INTERNAL

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code

    # KeyError would show the message in quotes.
    def __str__(self) -> str:
        return str(self.args[0])


class NullPointerError(LiteMambaError, ValueError):
    """A pointer is NULL that must not be."""

    code = Status.NULL_POINTER


class InvalidConfigError(LiteMambaError, ValueError):
    """A field of the configuration is out of its range, or contradicts another."""

    code = Status.INVALID_CONFIG


class InvalidArgumentError(LiteMambaError, ValueError):
    """Another argument is out of its range."""

    code = Status.INVALID_ARGUMENT


class ShapeMismatchError(LiteMambaError, ValueError):
    """Sizes do not fit together: a cache of another layer's shape, a tensor of another shape."""

    code = Status.SHAPE_MISMATCH


class UnsupportedError(LiteMambaError, NotImplementedError):
    """Valid, but not something this version or this build of the library can do."""

    code = Status.UNSUPPORTED


class NotFoundError(LiteMambaError, KeyError):
    """No such parameter, state or tensor."""

    code = Status.NOT_FOUND


class IoError(LiteMambaError, OSError):
    """A file could not be opened, read or written. `filename` says which."""

    code = Status.IO


class MissingFileError(IoError, FileNotFoundError):
    """A file does not exist."""


class FormatError(LiteMambaError, ValueError):
    """A file's content is not what it must be."""

    code = Status.FORMAT


class OutOfMemoryError(LiteMambaError, MemoryError):
    """More memory was asked for than can be had."""

    code = Status.OUT_OF_MEMORY


class BufferTooSmallError(LiteMambaError, ValueError):
    """The buffer given is too small for the result."""

    code = Status.BUFFER_TOO_SMALL


class CudaError(LiteMambaError, RuntimeError):
    """The GPU, its driver or its memory: missing, too old or out of it."""

    code = Status.CUDA


class InternalError(LiteMambaError, RuntimeError):
    """A bug of the library. The cache that the call used refuses further use until its `reset`."""

    code = Status.INTERNAL


_BY_CODE: dict[int, type[LiteMambaError]] = {
    cls.code: cls
    for cls in (
        NullPointerError,
        InvalidConfigError,
        InvalidArgumentError,
        ShapeMismatchError,
        UnsupportedError,
        NotFoundError,
        IoError,
        FormatError,
        OutOfMemoryError,
        BufferTooSmallError,
        CudaError,
        InternalError,
    )
}


def error_of(code: int, name: str, message: str) -> LiteMambaError:
    """The exception for a status code, which has a name in the library."""
    if code in _BY_CODE:
        return _BY_CODE[code](message)
    return LiteMambaError(f"{name}: {message}", code)
