"""The streaming state of a layer, and that of a model of several layers."""

from __future__ import annotations

import ctypes
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ._abi import DType
from ._handles import Handle, Owner
from ._library import check, create, lib
from ._tensors import States
from ._values import DTYPES, DTypeLike, address, dtype_name, integer, size

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ._layer import Layer


class Cache(Owner):
    """What a layer remembers of a batch of sequences between calls. It does not grow with them.

        cache = Cache(layer, batch=4)
        y = layer.forward(prompt, cache)     # (4, seqlen, d_model): any number of tokens
        y = layer.step(x, cache)             # (4, d_model): the next token of each

    Every layer of the same variant, shape and type can use it, one thread at a time (else RuntimeError).

    Parameters
    ----------
    layer
        The layer it is for, which need not outlive it.
    batch
        Number of sequences.
    max_seqlen
        Accepted for the reference's sake, without effect.
    dtype
        In which the state is held, as `Config.dtype`. The default is the type of the layer's arithmetic,
        float64 for a float64 layer, float32 for every other one. "bfloat16" and "float16" take half the
        memory of float32; each call then rounds the states that it leaves, so that how a sequence is cut into
        calls changes its results.
    """

    def __init__(
        self, layer: Layer, batch: int = 1, max_seqlen: int = 0, dtype: DTypeLike | None = None
    ) -> None:
        batch, max_seqlen = size("batch", batch), size("max_seqlen", max_seqlen)
        held = DType.DEFAULT
        if dtype is not None:
            name = dtype_name(dtype)
            if name is None:
                raise ValueError(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPES)}")
            held = DTYPES[name]
        with layer._handle.shared as of:
            pointer = create(lib.lm_alloc_cache, of, batch, max_seqlen, held)
        self._take(Handle("cache", pointer, lib.lm_free_cache))

    @classmethod
    def load(cls, layer: Layer, data: Buffer) -> Cache:
        """A cache from what `save` gave: bytes, a memoryview, an mmap. They are not kept.

        Parameters
        ----------
        layer
            A layer of the variant, shape and type that the cache was of.
        data
            Exactly what `save` gave.

        Raises
        ------
        FormatError
            A ValueError: `save` did not give this; it was cut short or altered.
        UnsupportedError
            A later version of the library saved it, in a form that this one cannot read.
        ShapeMismatchError
            A ValueError: the layer is of another variant, shape or type.
        """
        content = np.frombuffer(memoryview(data), np.uint8)
        with layer._handle.shared as of:
            pointer = create(lib.lm_cache_load, of, address(content), content.nbytes)
        return cls._of(Handle("cache", pointer, lib.lm_free_cache))

    @classmethod
    def _of(cls, handle: Handle) -> Cache:
        cache = cls.__new__(cls)
        cache._take(handle)
        return cache

    def _take(self, handle: Handle) -> None:
        self._handle = handle
        with handle.shared as cache:
            self._batch = int(lib.lm_cache_batch(cache))

    @property
    def batch(self) -> int:
        """Number of sequences."""
        return self._batch

    @property
    def seqlen_offset(self) -> int:
        """Number of tokens since the beginning, of the sequence that has had most."""
        with self._handle.shared as cache:
            return int(lib.lm_cache_seqlen_offset(cache))

    @property
    def nbytes(self) -> int:
        """Memory that the state takes."""
        with self._handle.shared as cache:
            return int(lib.lm_cache_bytes(cache))

    @property
    def dtype(self) -> str:
        """Type in which the state is held, such as "float32"."""
        return self.states.info("ssm_state").dtype

    @cached_property
    def states(self) -> States:
        """The state itself: arrays by name, in the reference's layout."""
        return States(self._handle)

    def reset(self, lane: int | None = None) -> None:
        """Returns every sequence to its beginning, or only the one numbered `lane`."""
        with self._handle.exclusive as cache:
            if lane is None:
                check(lib.lm_cache_reset(cache))
            else:
                check(lib.lm_cache_reset_lane(cache, size("lane", lane)))

    def clone(self) -> Cache:
        """A copy that continues from the same state on its own."""
        with self._handle.shared as cache:
            pointer = create(lib.lm_cache_clone, cache)
        return Cache._of(Handle("cache", pointer, lib.lm_free_cache))

    def __copy__(self) -> Cache:
        return self.clone()

    def __deepcopy__(self, memo: dict[int, Any]) -> Cache:
        return self.clone()

    def save(self) -> bytes:
        """The state as bytes, from which `Cache.load` makes it again.

        In this process or another, on this machine or another, with this version of the library or a later
        one, the streams go on with the same bits. The same state gives the same bytes.
        """
        length = ctypes.c_size_t()
        with self._handle.shared as cache:
            check(lib.lm_cache_save(cache, None, 0, length))
            data = np.empty(length.value, np.uint8)
            check(lib.lm_cache_save(cache, address(data), data.nbytes, length))
        return data.tobytes()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Cache is not pickled, for want of its layer: pickle save(), for Cache.load(layer, data)"
        )

    def copy_lane(self, lane: int, source: Cache, source_lane: int) -> None:
        """Makes the sequence `lane` go on from where `source_lane` of `source` is; that one does as well.

        `source` may be this cache, or another of layers of the same variant, shape and type, of any batch and
        `dtype`.
        """
        lane, source_lane = size("lane", lane), size("source_lane", source_lane)
        with self._handle.exclusive as cache:
            if source._handle.used_with(self._handle):
                check(lib.lm_cache_copy_lane(cache, lane, source._handle.exclusive.pointer, source_lane))
            else:
                with source._handle.shared as other:
                    check(lib.lm_cache_copy_lane(cache, lane, other, source_lane))

    def __repr__(self) -> str:
        try:
            offset = f" seqlen_offset={self.seqlen_offset}"
        except (ValueError, RuntimeError):
            offset = ", closed" if self.closed else ", in use"
        return f"<Cache batch={self.batch}{offset}>"


class InferenceParams(Owner):
    """The caches of all layers of one model, found by `layer_idx` and made at first use.

        params = InferenceParams(batch=1)
        for layer in layers:                       # each with a layer_idx of its own
            x = x + layer.forward(x, inference_params=params)

    One thread at a time can use it or any of its caches (else RuntimeError).

    Parameters
    ----------
    batch
        Number of sequences.
    max_seqlen
        Accepted for the reference's sake, without effect.
    """

    def __init__(self, batch: int = 1, max_seqlen: int = 0) -> None:
        self._batch = size("batch", batch)
        pointer = create(lib.lm_inference_params_create, self._batch, size("max_seqlen", max_seqlen))
        self._handle = Handle("InferenceParams", pointer, lib.lm_inference_params_free)

    @property
    def batch(self) -> int:
        """Number of sequences."""
        return self._batch

    def reset(self) -> None:
        """Returns every sequence to its beginning."""
        with self._handle.exclusive as params:
            check(lib.lm_inference_params_reset(params))

    def cache(self, layer_idx: int) -> Cache | None:
        """The cache of the layer of that number; None before its first forward.

        It ends with these InferenceParams: closing it alone does nothing.
        """
        with self._handle.exclusive as params:
            pointer = lib.lm_inference_params_cache(params, integer("layer_idx", layer_idx, 0, 2**63 - 1))
        return Cache._of(self._handle.borrow(pointer)) if pointer else None

    def __repr__(self) -> str:
        return f"<InferenceParams batch={self.batch}{', closed' if self.closed else ''}>"
