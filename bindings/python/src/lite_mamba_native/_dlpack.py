"""Tensors of any type and layout, numpy's and those of other libraries, as DLPack describes them."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _abi
from ._values import DTYPES, Input, Output, Shape

#: Codes and bits of the library's types, by name.
_TYPES = {"float32": (2, 32), "float64": (2, 64), "bfloat16": (4, 16), "float16": (2, 16)}
_NAMES = {given: name for name, given in _TYPES.items()}
_CPU = (1, 0)


@dataclass
class Tensor:
    """Memory that somebody has, and what lies there."""

    data: int
    byte_offset: int
    device: tuple[int, int]
    dtype: tuple[int, int, int]
    shape: Shape
    #: In elements. None for those of a contiguous tensor.
    strides: Shape | None
    writeable: bool
    #: What the memory lives with.
    owner: object

    @property
    def name(self) -> str | None:
        """Of the type, if the library has it."""
        code, bits, lanes = self.dtype
        return _NAMES.get((code, bits)) if lanes == 1 else None

    def described(self, ndim: int) -> _abi.DLTensor:
        """For the library, with sides of 1 before the others where there are fewer."""
        before = (1,) * (ndim - len(self.shape))
        sides = ctypes.c_int64 * ndim
        return _abi.DLTensor(
            data=self.data,
            device=_abi.DLDevice(*self.device),
            ndim=ndim,
            dtype=_abi.DLDataType(*self.dtype),
            shape=sides(*before, *self.shape),
            strides=None if self.strides is None else sides(*before, *self.strides),
            byte_offset=self.byte_offset,
        )


def readable(name: str, x: Input) -> Tensor:
    """`x` where it lies. A copy only of what DLPack cannot describe."""
    if not isinstance(x, np.ndarray) and hasattr(x, "__dlpack__"):
        return _exported(name, x)
    array = np.asarray(x)
    _check_type(name, array)
    return _of_array(array if _is_describable(array) else np.array(array, order="C"))


def writeable(name: str, out: Output, shape: Shape) -> Tensor:
    """`out` where it lies, if it can be written to and has this shape."""
    if isinstance(out, np.ndarray):
        _check_type(name, out)
        if not _is_describable(out):
            raise ValueError(f"{name} must be aligned, its strides whole elements")
        tensor = _of_array(out)
    elif hasattr(out, "__dlpack__"):
        tensor = _exported(name, out)
    else:
        raise TypeError(f"{name} is a {type(out).__name__}; it must be a numpy array or have __dlpack__")
    if not tensor.writeable:
        raise ValueError(f"{name} must be writeable")
    if tensor.shape != shape:
        raise ValueError(f"{name} has shape {tensor.shape}; it must have {shape}")
    return tensor


def new(shape: Shape, like: Tensor) -> npt.NDArray[Any]:
    """An array for the output, of the type of the input. Of float32, where numpy does not have that."""
    array = like.owner
    if isinstance(array, np.ndarray):
        return np.empty(shape, array.dtype)
    name = like.name
    return np.empty(shape, np.float32 if name in (None, "bfloat16") else name)


def _check_type(name: str, array: npt.NDArray[Any]) -> None:
    if array.dtype.name not in DTYPES or not array.dtype.isnative:
        raise TypeError(f"{name} has dtype {array.dtype}; it must be one of {', '.join(DTYPES)}")


def _is_describable(array: npt.NDArray[Any]) -> bool:
    return array.flags.aligned and all(stride % array.itemsize == 0 for stride in array.strides)


def _of_array(array: npt.NDArray[Any]) -> Tensor:
    return Tensor(
        data=array.ctypes.data,
        byte_offset=0,
        device=_CPU,
        dtype=(*_TYPES[array.dtype.name], 1),
        shape=array.shape,
        strides=tuple(stride // array.itemsize for stride in array.strides),
        writeable=array.flags.writeable,
        owner=array,
    )


def _exported(name: str, x: Any) -> Tensor:
    try:
        try:
            capsule = x.__dlpack__(max_version=(_abi.DLPACK_MAJOR_VERSION, 0))
        except TypeError:
            # Of the time before DLPack 1.0.
            capsule = x.__dlpack__()
    except (BufferError, RuntimeError) as error:
        raise TypeError(f"{name} is a {type(x).__name__} that DLPack cannot describe: {error}") from error
    tensor, flags = _content(name, capsule)
    sides = range(tensor.ndim)
    return Tensor(
        data=tensor.data or 0,
        byte_offset=tensor.byte_offset,
        device=(tensor.device.device_type, tensor.device.device_id),
        dtype=(tensor.dtype.code, tensor.dtype.bits, tensor.dtype.lanes),
        shape=tuple(tensor.shape[i] for i in sides),
        strides=tuple(tensor.strides[i] for i in sides) if tensor.strides else None,
        writeable=not flags & _abi.DLPACK_FLAG_BITMASK_READ_ONLY,
        # Left as it is, the capsule gives the memory back when nothing refers to it any more.
        owner=capsule,
    )


def _content(name: str, capsule: object) -> tuple[_abi.DLTensor, int]:
    """The tensor in a capsule, and its flags."""
    valid, pointer = ctypes.pythonapi.PyCapsule_IsValid, ctypes.pythonapi.PyCapsule_GetPointer
    valid.argtypes = pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
    valid.restype, pointer.restype = ctypes.c_int, ctypes.c_void_p
    if valid(capsule, b"dltensor_versioned"):
        managed = _abi.DLManagedTensorVersioned.from_address(pointer(capsule, b"dltensor_versioned"))
        if managed.version.major != _abi.DLPACK_MAJOR_VERSION:
            version = f"{managed.version.major}.{managed.version.minor}"
            raise TypeError(f"{name} speaks DLPack {version}; it must speak {_abi.DLPACK_MAJOR_VERSION}")
        return managed.dl_tensor, int(managed.flags)
    if valid(capsule, b"dltensor"):
        return _abi.DLTensor.from_address(pointer(capsule, b"dltensor")), 0
    raise TypeError(f"{name} has a __dlpack__ that gives no DLPack tensor")
