"""What crosses into the library: arrays, sizes and text, checked before they do."""

from __future__ import annotations

import ctypes
import operator
from typing import Any, Protocol, Union

import numpy as np
import numpy.typing as npt

from . import _abi

FloatArray = npt.NDArray[np.float32]
Shape = tuple[int, ...]


class SupportsDLPack(Protocol):
    """An array of another library, such as a `torch.Tensor`."""

    def __dlpack__(self) -> Any: ...


#: What is taken for an array: numpy's own; whatever it can see without a copy, through DLPack, the buffer
#: protocol, `__array_interface__` or `__array__`.
Input = Union[npt.ArrayLike, SupportsDLPack]

#: What an output is written into: a numpy array, or the tensor of another library.
Output = Union[npt.NDArray[Any], SupportsDLPack]

#: What is taken for one of the library's types: its name, such as "bfloat16", or numpy's or PyTorch's type.
DTypeLike = Any

#: The library's types by the names that numpy and PyTorch give them. As a type of numpy, `bfloat16` is the
#: one of the package `ml_dtypes`.
DTYPES = {
    "float32": _abi.DType.F32,
    "float64": _abi.DType.F64,
    "bfloat16": _abi.DType.BF16,
    "float16": _abi.DType.F16,
}
DTYPE_NAMES = {value: name for name, value in DTYPES.items()}

_FLOAT32 = np.dtype(np.float32)
_SIZE_MAX = ctypes.c_size_t(-1).value
_NO_BYTES = ctypes.c_char * 0


def view(name: str, x: Input) -> npt.NDArray[Any]:
    """`x` as numpy's array, over the same memory wherever `x` has memory to show."""
    foreign: Any = x
    if isinstance(x, np.ndarray) or not hasattr(x, "__dlpack__"):
        return np.asarray(x)
    try:
        return np.from_dlpack(foreign)
    except (BufferError, RuntimeError) as error:
        raise TypeError(f"{name} is a {type(x).__name__} that numpy cannot view: {error}") from error


def packed(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array itself where it is contiguous in C's order and aligned, otherwise one copy that is."""
    flags = array.flags
    return array if flags.c_contiguous and flags.aligned else np.array(array, order="C")


def floats(name: str, x: Input) -> FloatArray:
    """`x` as contiguous float32. No value is changed on the way: other types are refused."""
    array = x if type(x) is np.ndarray else view(name, x)
    if array.dtype != _FLOAT32:
        raise TypeError(f"{name} has dtype {array.dtype}; it must be float32: convert it with astype")
    return packed(array)


def output(name: str, out: FloatArray | None, shape: Shape) -> FloatArray:
    """`out` if it can be written to as it is; a new array if there is none."""
    if out is None:
        return np.empty(shape, _FLOAT32)
    if not isinstance(out, np.ndarray):
        raise TypeError(f"{name} is a {type(out).__name__}; it must be a numpy array")
    if out.dtype != _FLOAT32:
        raise TypeError(f"{name} has dtype {out.dtype}; it must be float32")
    if out.shape != shape:
        raise ValueError(f"{name} has shape {out.shape}; it must have {shape}")
    if not out.flags.carray:
        raise ValueError(f"{name} must be C-contiguous, aligned and writeable")
    return out


def is_plain(array: object) -> bool:
    """Whether the functions on `float *` can use it as it is: float32 without gaps."""
    if type(array) is not np.ndarray or array.dtype != _FLOAT32:
        return False
    flags = array.flags
    return bool(flags.c_contiguous and flags.aligned)


def address(array: Any) -> Any:
    """Where an array begins, for an argument of type `void *`."""
    # ndarray.ctypes takes four times as long, which counts in a step.
    return _NO_BYTES.from_buffer(array) if array.flags.writeable else array.ctypes.data


def integer(name: str, value: int, least: int, most: int) -> int:
    """`value` as an int within these bounds. ctypes would cut another to its low bits."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}; it must be an integer") from None
    if not least <= number <= most:
        raise ValueError(f"{name} is {number}; it must be between {least} and {most}")
    return number


def size(name: str, value: int, least: int = 0) -> int:
    """`value` as a size_t."""
    return integer(name, value, least, _SIZE_MAX)


def text(name: str, value: str | bytes) -> bytes:
    """`value` as UTF-8, to which C adds the NUL."""
    if not isinstance(value, (str, bytes)):
        raise TypeError(f"{name} is {value!r}; it must be a string")
    encoded = value.encode() if isinstance(value, str) else value
    if b"\0" in encoded:
        raise ValueError(f"{name} is {value!r}; it must not contain a NUL")
    return encoded


def dtype_name(dtype: DTypeLike) -> str | None:
    """The name of the library's type that `dtype` stands for; None for anything else."""
    if isinstance(dtype, str) and dtype in DTYPES:
        return dtype
    if dtype is None:
        return None  # which numpy would take for float64
    name = str(dtype).removeprefix("torch.")
    if name in DTYPES and type(dtype).__module__ == "torch":
        return name
    try:
        found = np.dtype(dtype)
    except TypeError:
        return None
    # By name, because bfloat16 is no type of numpy itself; not for float32 with its bytes swapped.
    return found.name if found.name in DTYPES and found.isnative else None


def dtype_code(name: str, dtype: DTypeLike) -> tuple[np.dtype[Any], _abi.DType]:
    """A type as numpy's and as the library's."""
    known = dtype_name(dtype)
    if known is None:
        raise TypeError(f"{name} is {dtype!s}; it must be one of {', '.join(DTYPES)}")
    return numpy_type(known), DTYPES[known]


def numpy_type(name: str) -> np.dtype[Any]:
    """The type of numpy with the name of one of the library's."""
    if name != "bfloat16":
        return np.dtype(name)
    try:
        import ml_dtypes
    except ImportError:
        raise TypeError("numpy has no bfloat16 without the package ml_dtypes; read another type") from None
    found: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return found
