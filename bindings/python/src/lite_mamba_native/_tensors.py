"""Named tensors inside the library: the parameters of a layer, the states of a cache."""

from __future__ import annotations

import ctypes
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Callable

import numpy as np
import numpy.typing as npt

from . import _abi
from ._handles import Handle
from ._library import check, lib
from ._values import (
    DTYPE_NAMES,
    DTypeLike,
    Input,
    address,
    dtype_code,
    floats,
    output,
    packed,
    text,
    view,
)


@dataclass(frozen=True)
class TensorInfo:
    """What there is to know of a parameter or a state, its values apart."""

    name: str
    shape: tuple[int, ...]
    #: Type in which the values are held, such as "float32".
    dtype: str
    #: Whether a training's weight decay applies; False for states.
    weight_decay: bool


class _Tensors(Mapping[str, npt.NDArray[Any]]):
    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def info(self, name: str) -> TensorInfo:
        """What there is to know of one tensor.

        Raises
        ------
        NotFoundError
            A KeyError: there is none of this name.
        """
        c_name = text("name", name)
        own_name = self._own_name(name)
        if own_name not in self._infos:
            with self._handle.shared as pointer:
                # The library has the words for it.
                check(self._get(pointer, c_name, None, 0))
        return self._infos[own_name]

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        out = output("out", None, self.info(name).shape)
        with self._handle.shared as pointer:
            check(self._get(pointer, text("name", name), address(out), out.size))
        return out

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._own_name(name) in self._infos

    # As objects: the truth of an array's equality is no single one.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        shapes = ", ".join(f"{info.name} {info.shape}" for info in self._infos.values())
        return f"<{type(self).__name__}: {shapes}>"

    @cached_property
    @abstractmethod
    def _infos(self) -> dict[str, TensorInfo]: ...

    @property
    @abstractmethod
    def _get(self) -> Callable[[int, bytes, Any, int], int]: ...

    def _own_name(self, name: str) -> str:
        return name

    def _list(self, count: Callable[[int], int], describe: Callable[..., int]) -> dict[str, TensorInfo]:
        infos = {}
        with self._handle.shared as pointer:
            for i in range(count(pointer)):
                raw = _abi.TensorInfo()
                check(describe(pointer, i, raw, ctypes.sizeof(raw)))
                infos[raw.name.decode()] = TensorInfo(
                    name=raw.name.decode(),
                    shape=tuple(raw.shape[: raw.ndim]),
                    dtype=DTYPE_NAMES.get(raw.dtype, str(raw.dtype)),
                    weight_decay=raw.weight_decay,
                )
        return infos

    def _of_shape(self, name: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        shape = self.info(name).shape
        if array.shape != shape:
            raise ValueError(f"the array for {name} has shape {array.shape}; it must have {shape}")
        return array


class Parameters(_Tensors):
    """The parameters of a layer, by the names of the reference's state dict and in its order.

        d = layer.parameters["D"]        # a new array, exactly: float32, or float64 of a float64 layer
        layer.parameters["D"] = 2 * d    # float16, bfloat16, float32 or float64, of this shape
        layer.parameters.read("D")       # in the type that it is held in, or another: dtype="float64"
        layer.parameters.info("D").shape

    Of two names for one tensor, `conv1d.weight` and that of branch 0, both are understood and the second is
    listed. Nothing else may use the layer while a parameter is assigned, else RuntimeError. Caches stay as
    they are.
    """

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        if self.info(name).dtype == "float64":
            return self.read(name)
        return super().__getitem__(name)

    def read(self, name: str, *, dtype: DTypeLike | None = None) -> npt.NDArray[Any]:
        """A parameter in its own type, or in another: exactly where that can hold it, else rounded.

        numpy's "bfloat16" is the one of the package `ml_dtypes`.
        """
        info = self.info(name)
        numpy_type, code = dtype_code("dtype", info.dtype if dtype is None else dtype)
        out = np.empty(info.shape, numpy_type)
        with self._handle.shared as layer:
            check(lib.lm_get_parameter_typed(layer, text("name", name), code, out.ctypes.data, out.nbytes))
        return out

    def __setitem__(self, name: str, values: Input) -> None:
        self._write({name: self._checked(name, values)})

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        """Every parameter under every name that the reference's state dict has for it."""
        tensors = dict(self)
        for alias in ("conv1d.weight", "conv1d.bias"):
            if alias in self:
                tensors.setdefault(alias, tensors[self._own_name(alias)])
        return tensors

    def load_state_dict(self, tensors: Mapping[str, Input]) -> None:
        """Assigns every parameter, after all names, shapes and types have been checked."""
        checked = {name: self._checked(name, values) for name, values in tensors.items()}
        by_own_name: dict[str, npt.NDArray[Any]] = {}
        for name, (array, _) in checked.items():
            other = by_own_name.setdefault(self._own_name(name), array)
            if not np.array_equal(array, other, equal_nan=True):
                raise ValueError(f"{name} and {self._own_name(name)} are one parameter and must agree")
        missing = self._infos.keys() - by_own_name.keys()
        if missing:
            raise KeyError(f"there is no {min(missing)} among the tensors")
        self._write(checked)

    def _checked(self, name: str, values: Input) -> tuple[npt.NDArray[Any], _abi.DType]:
        array = packed(self._of_shape(name, view(f"the array for {name}", values)))
        _, code = dtype_code(f"the dtype of the array for {name}", array.dtype)
        return array, code

    def _write(self, tensors: Mapping[str, tuple[npt.NDArray[Any], _abi.DType]]) -> None:
        with self._handle.exclusive as layer:
            for name, (array, code) in tensors.items():
                values = array.ctypes.data
                if code == _abi.DType.F32:
                    check(lib.lm_set_parameter(layer, text("name", name), values, array.size))
                else:
                    check(lib.lm_set_parameter_typed(layer, text("name", name), code, values, array.nbytes))

    def _own_name(self, name: str) -> str:
        """The name in the list, of the two that a parameter may have."""
        if name in self._infos:
            return name
        try:
            c_name = text("name", name)
        except ValueError:
            return name  # that of nothing
        index = ctypes.c_size_t()
        with self._handle.shared as layer:
            if lib.lm_find_parameter(layer, c_name, index) != _abi.Status.OK:
                return name
        return list(self._infos)[index.value]

    @cached_property
    def _infos(self) -> dict[str, TensorInfo]:
        return self._list(lib.lm_num_parameters, lib.lm_parameter_info)

    @property
    def _get(self) -> Callable[[int, bytes, Any, int], int]:
        return lib.lm_get_parameter


class States(_Tensors):
    """The states of a cache in the reference's layout, as float32: "conv_state.0" and so on, and "ssm_state".

        s = cache.states["ssm_state"]    # a new array, (batch, d_inner, d_state)
        cache.states["ssm_state"] = s    # of the same shape; the number of tokens seen stays as it is

    "conv_state.i" is (batch, d_inner, (d_conv - 1) * dilation + 1), oldest input first. The branches of PTCN
    and DPWC share one history: assigning one of theirs sets its last inputs, so assign the longest.
    """

    def __setitem__(self, name: str, values: Input) -> None:
        array = self._of_shape(name, floats(f"the array for {name}", values))
        with self._handle.exclusive as cache:
            check(lib.lm_cache_set_state(cache, text("name", name), address(array), array.size))

    @cached_property
    def _infos(self) -> dict[str, TensorInfo]:
        return self._list(lib.lm_cache_num_states, lib.lm_cache_state_info)

    @property
    def _get(self) -> Callable[[int, bytes, Any, int], int]:
        return lib.lm_cache_get_state
