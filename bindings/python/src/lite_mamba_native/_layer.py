"""The layer."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, Union, overload

import numpy as np
import numpy.typing as npt

from . import _abi, _dlpack
from ._cache import Cache, InferenceParams
from ._config import Config, from_c, to_c
from ._errors import IoError, MissingFileError
from ._handles import Handle, Owner
from ._library import check, create, lib
from ._tensors import Parameters
from ._values import FloatArray, Input, Output, Shape, address, floats, is_plain, output, text, view

if TYPE_CHECKING:
    from typing_extensions import Buffer

_Out = TypeVar("_Out", bound=Output)
PathLike = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]


class Layer(Owner):
    """A lite-mamba layer and its parameters.

        layer = Layer(Config(64, conv_dilations=(1, 2, 4)))       # with initial values
        layer = Layer.load("model.safetensors", "backbone.0")     # with those of a file

    Any number of threads may compute with one layer at a time; no call holds the GIL while it computes.

    Arrays are float32, float64, bfloat16 or float16 (another type is a TypeError), whatever the layer's type
    and each of its own. They are read and written where they lie: in whatever layout, and also those of other
    libraries, through `__dlpack__` (a `torch.Tensor` on the CPU, say), the buffer protocol or
    `__array_interface__`. Types that differ from the arithmetic (float64 in a float64 layer, else float32)
    are converted on their way, without a copy of the whole.

    The result is `out`, or without it a new numpy array of the type of the input (float32 for another
    library's bfloat16, which numpy does not have). `out` may be the input itself.

    An array of the wrong shape is a ValueError; what the library finds is a `LiteMambaError`.
    """

    def __init__(self, config: Config) -> None:
        self._take(create(lib.lm_create, to_c(config)))

    @classmethod
    def load(cls, path: PathLike, prefix: str | None = None, config: Config | None = None) -> Layer:
        """A layer from a safetensors file, such as the exporter and `save` write.

        Parameters
        ----------
        path
            The file.
        prefix
            What the layer's names begin with in the file, such as "layers.0.mixer".
        config
            The layer's, which is then checked against the file. The default takes it from the file.

        Raises
        ------
        IoError
            The file cannot be read. An OSError; FileNotFoundError if there is none.
        FormatError, ShapeMismatchError
            The file is damaged, or a tensor is not what it must be. ValueErrors.
        NotFoundError
            A tensor is missing. A KeyError.
        """
        try:
            return cls._of(create(lib.lm_load, _path(path), *_which(prefix, config)))
        except IoError as error:
            raise _with_file(error, path, needs=path) from None

    @classmethod
    def load_memory(cls, data: Buffer, prefix: str | None = None, config: Config | None = None) -> Layer:
        """`load` from a file's content: bytes, a memoryview, an mmap. It is not kept."""
        content = np.frombuffer(memoryview(data), np.uint8)
        return cls._of(create(lib.lm_load_memory, address(content), content.nbytes, *_which(prefix, config)))

    def save(self, path: PathLike) -> None:
        """Writes a safetensors file with the configuration in it, for `load` and PyTorch."""
        try:
            with self._handle.shared as layer:
                check(lib.lm_save(layer, _path(path)))
        except IoError as error:
            raise _with_file(error, path, needs=os.path.dirname(os.fspath(path)) or os.curdir) from None

    @classmethod
    def _of(cls, pointer: int) -> Layer:
        layer = cls.__new__(cls)
        layer._take(pointer)
        return layer

    def _take(self, pointer: int) -> None:
        self._handle = Handle("layer", pointer, lib.lm_destroy)
        raw = _abi.Config()
        with self._handle.shared as layer:
            check(lib.lm_get_config(layer, raw, ctypes.sizeof(raw)))
            self._d_inner = int(lib.lm_d_inner(layer))
        self._config = from_c(raw)
        self._d_model = self._config.d_model

    @property
    def config(self) -> Config:
        """What the layer was made with; `dt_rank` is a number."""
        return self._config

    @property
    def d_model(self) -> int:
        """Width of the input and the output."""
        return self._d_model

    @property
    def d_inner(self) -> int:
        """The inner width: expand * d_model, truncated."""
        return self._d_inner

    @cached_property
    def parameters(self) -> Parameters:
        """The parameters by name: arrays, copied out and in."""
        return Parameters(self._handle)

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        """Copies of all parameters, under all names that the reference's state dict has.

        float32, which holds what shorter types do; float64 for a float64 layer.
        """
        return self.parameters.state_dict()

    def load_state_dict(self, tensors: Mapping[str, Input]) -> None:
        """Replaces all parameters, with those of a PyTorch layer on the CPU for example.

        Nothing is replaced unless every name, shape and type is right.
        """
        self.parameters.load_state_dict(tensors)

    @overload
    def forward(
        self,
        x: Input,
        cache: Cache | None = ...,
        *,
        inference_params: InferenceParams | None = ...,
        out: _Out,
    ) -> _Out: ...
    @overload
    def forward(
        self,
        x: Input,
        cache: Cache | None = ...,
        *,
        inference_params: InferenceParams | None = ...,
        out: None = ...,
    ) -> npt.NDArray[Any]: ...
    def forward(
        self,
        x: Input,
        cache: Cache | None = None,
        *,
        inference_params: InferenceParams | None = None,
        out: Any = None,
    ) -> Any:
        """The output for every token of `x`, (batch, seqlen, d_model). `layer(x)` is the same.

        Parameters
        ----------
        x
            (batch, seqlen, d_model), or (seqlen, d_model) for one sequence.
        cache
            The sequences continue from its state, whatever their length, and it moves on. Without it they
            begin here and are not continued.
        inference_params
            In place of a cache: uses the one that is kept there for the layer's `layer_idx`. Arrays are then
            numpy's of float32; an `x` that is not contiguous costs a copy.
        out
            Of the shape of `x`, to be written and returned. May be `x`.
        """
        if cache is not None and inference_params is not None:
            raise TypeError("cache and inference_params cannot be given both")
        if inference_params is None and not (is_plain(x) and (out is None or is_plain(out))):
            return self._forward_dlpack(x, cache, out)
        x = floats("x", x)
        shape = x.shape
        self._check_tokens(shape)
        batch = shape[0] if len(shape) == 3 else 1
        out = output("out", out, shape)
        sizes = address(x), batch, shape[-2]
        with self._handle.shared as layer:
            if cache is not None:
                with cache._handle.exclusive as state:
                    check(lib.lm_forward(layer, *sizes, state, address(out)))
            elif inference_params is not None:
                with inference_params._handle.exclusive as params:
                    check(lib.lm_forward_inference(layer, *sizes, params, address(out)))
            else:
                check(lib.lm_forward(layer, *sizes, None, address(out)))
        return out

    def _forward_dlpack(self, x: Input, cache: Cache | None, out: Any) -> Any:
        given = _dlpack.readable("x", x)
        self._check_tokens(given.shape)
        out = _dlpack.new(given.shape, given) if out is None else out
        taken = _dlpack.writeable("out", out, given.shape)
        tensors = given.described(3), taken.described(3)
        with self._handle.shared as layer:
            if cache is None:
                check(lib.lm_forward_dlpack(layer, tensors[0], None, tensors[1], None))
            else:
                with cache._handle.exclusive as state:
                    check(lib.lm_forward_dlpack(layer, tensors[0], state, tensors[1], None))
        return out

    def _check_tokens(self, shape: Shape) -> None:
        if len(shape) not in (2, 3) or shape[-1] != self._d_model:
            raise ValueError(
                f"x has shape {shape}; it must have (batch, seqlen, d_model) or (seqlen, d_model), "
                f"d_model being {self._d_model}"
            )

    __call__ = forward

    def forward_varlen(
        self,
        x: Input,
        cu_seqlens: Input,
        cache: Cache | None = None,
        *,
        out: FloatArray | None = None,
    ) -> FloatArray:
        """`forward` of sequences of different lengths, packed one after the other: each to the bit as alone.

        Arrays are numpy's of float32; an `x` that is not contiguous costs a copy.

        Parameters
        ----------
        x
            (total, d_model), where total is `cu_seqlens[-1]`.
        cu_seqlens
            Integers, one more than there are sequences, the first 0 and none less than the one before:
            sequence i is `x[cu_seqlens[i] : cu_seqlens[i + 1]]`. It may be empty.
        cache
            Of a batch of as many sequences, which continue from its state and move it on. Without it they
            begin here and are not continued.
        out
            Of the shape of `x`, to be written and returned. May be `x`.
        """
        x = floats("x", x)
        numbers = _integers("cu_seqlens", cu_seqlens)
        if not numbers.size:
            raise ValueError("cu_seqlens is empty; it must have one number more than there are sequences")
        shape = x.shape
        expected = int(numbers[-1]), self._d_model
        if shape != expected:
            raise ValueError(f"x has shape {shape}; it must have (cu_seqlens[-1], d_model), {expected}")
        out = output("out", out, shape)
        sequences = address(x), address(numbers), numbers.size - 1
        with self._handle.shared as layer:
            if cache is None:
                check(lib.lm_forward_varlen(layer, *sequences, None, address(out)))
            else:
                with cache._handle.exclusive as state:
                    check(lib.lm_forward_varlen(layer, *sequences, state, address(out)))
        return out

    @overload
    def step(self, x: Input, cache: Cache, *, lanes: Sequence[int] | None = ..., out: _Out) -> _Out: ...
    @overload
    def step(
        self, x: Input, cache: Cache, *, lanes: Sequence[int] | None = ..., out: None = ...
    ) -> npt.NDArray[Any]: ...
    def step(
        self,
        x: Input,
        cache: Cache,
        *,
        lanes: Sequence[int] | None = None,
        out: Any = None,
    ) -> Any:
        """The output for the next token of every sequence: `forward` with a seqlen of 1, to the bit.

        Parameters
        ----------
        x
            (batch, d_model) with the cache's batch, or (d_model,) where that is 1.
        cache
            The state, which moves on by one token.
        lanes
            Only these sequences of the cache are due: different numbers in any order. `x` is then
            (len(lanes), d_model), and the others stay where they are. Arrays are then numpy's of float32; an
            `x` that is not contiguous costs a copy.
        out
            Of the shape of `x`, to be written and returned. May be `x`.
        """
        if lanes is None and not (is_plain(x) and (out is None or is_plain(out))):
            return self._step_dlpack(x, cache, out)
        x = floats("x", x)
        numbers = None if lanes is None else _integers("lanes", lanes)
        count = cache._batch if numbers is None else numbers.size
        self._check_token(x.shape, count)
        out = output("out", out, x.shape)
        with self._handle.shared as layer, cache._handle.exclusive as state:
            if numbers is None:
                check(lib.lm_step(layer, address(x), state, address(out)))
            else:
                check(lib.lm_step_lanes(layer, address(x), address(numbers), count, state, address(out)))
        return out

    def _step_dlpack(self, x: Input, cache: Cache, out: Any) -> Any:
        given = _dlpack.readable("x", x)
        self._check_token(given.shape, cache._batch)
        out = _dlpack.new(given.shape, given) if out is None else out
        taken = _dlpack.writeable("out", out, given.shape)
        with self._handle.shared as layer, cache._handle.exclusive as state:
            check(lib.lm_step_dlpack(layer, given.described(2), state, taken.described(2), None))
        return out

    def _check_token(self, shape: Shape, count: int) -> None:
        d_model = self._d_model
        if shape != (count, d_model) and not (count == 1 and shape == (d_model,)):
            raise ValueError(f"x has shape {shape}; it must have {(count, d_model)}")

    def __repr__(self) -> str:
        config = self._config
        return (
            f"<Layer {config.variant} {config.dtype} d_model={self._d_model} d_state={config.d_state}"
            f" d_conv={config.d_conv} conv_dilations={config.conv_dilations}"
            f"{', closed' if self.closed else ''}>"
        )


def _path(path: PathLike) -> bytes:
    return text("path", os.fspath(path))


def _which(prefix: str | None, config: Config | None) -> tuple[bytes | None, _abi.Config | None]:
    return (
        None if prefix is None else text("prefix", prefix),
        None if config is None else to_c(config),
    )


def _with_file(error: IoError, path: PathLike, needs: Any) -> IoError:
    if not os.path.exists(needs):
        error = MissingFileError(str(error))
    error.filename = os.fspath(path)
    return error


def _integers(name: str, values: Input) -> npt.NDArray[np.uintp]:
    numbers = view(name, values)
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
        raise TypeError(f"{name} is {values!r}; it must be a sequence of integers")
    if numbers.size and numbers.min() < 0:
        raise ValueError(f"{name} has {numbers.min()}; it must have none below 0")
    return np.ascontiguousarray(numbers, np.uintp)
