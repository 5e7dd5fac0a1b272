"""Who may use a handle of the library, and when it is freed."""

from __future__ import annotations

import threading
import weakref
from types import TracebackType
from typing import Callable, TypeVar

_Self = TypeVar("_Self", bound="Owner")


class Handle:
    """A handle of the library. It is freed once: by `close`, or with this object.

    `with handle.shared as pointer` is a call that only reads, `with handle.exclusive as pointer` one that
    writes. The library asks that nothing else uses what a call writes; where several threads disagree, this
    raises RuntimeError in the one that comes late, and memory stays safe. None of them waits: tokens that
    arrive in an order of chance would be no sequence.
    """

    def __init__(
        self,
        what: str,
        pointer: int,
        free: Callable[[int], None] | None = None,
        owner: Handle | None = None,
    ) -> None:
        """A handle of its own, freed with `free`; or one borrowed from `owner`, which is used when it is."""
        self._guard: _Guard = owner._guard if owner else _Guard(what)
        self._owner = owner  # alive for as long as this is
        self.shared = _Shared(self._guard, pointer)
        self.exclusive = _Exclusive(self._guard, pointer)
        self._finalizer: weakref.finalize[[int], Handle] | None = None
        if free:
            self._finalizer = weakref.finalize(self, free, pointer)
            # At exit a daemon thread may still be inside a call.
            self._finalizer.atexit = False  # type: ignore[misc, unused-ignore]

    @property
    def closed(self) -> bool:
        """Whether `close` was called, on this handle or on the one that it is borrowed from."""
        return self._guard.closed

    def borrow(self, pointer: int) -> Handle:
        """A handle that belongs to this one."""
        return Handle(self._guard.what, pointer, owner=self)

    def used_with(self, other: Handle) -> bool:
        """Whether the two are one or belong together, so that whoever may use one may use the other."""
        return self._guard is other._guard

    def close(self) -> None:
        """Frees the handle unless it is borrowed. A second time does nothing."""
        if self._finalizer and self._finalizer.alive:
            with self.exclusive:
                self._guard.closed = True
                self._finalizer()


class Owner:
    """What ends with `close`, with a `with` block, or with the last reference to it."""

    _handle: Handle

    def close(self) -> None:
        """Frees the memory. Later uses raise ValueError; closing again does nothing."""
        self._handle.close()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._handle.closed

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _Guard:
    __slots__ = ("closed", "lock", "users", "what")

    def __init__(self, what: str) -> None:
        self.what = what
        self.lock = threading.Lock()
        self.users = 0  # calls that read; -1 for one that writes
        self.closed = False

    def refuse(self) -> Exception:
        if self.closed:
            return ValueError(f"this {self.what} is closed")
        return RuntimeError(f"this {self.what} is in use by another thread")


class _Shared:
    __slots__ = ("guard", "pointer")

    def __init__(self, guard: _Guard, pointer: int) -> None:
        self.guard, self.pointer = guard, pointer

    def __enter__(self) -> int:
        guard = self.guard
        with guard.lock:
            if guard.closed or guard.users < 0:
                raise guard.refuse()
            guard.users += 1
        return self.pointer

    def __exit__(self, *_: object) -> None:
        with self.guard.lock:
            self.guard.users -= 1


class _Exclusive(_Shared):
    __slots__ = ()

    def __enter__(self) -> int:
        guard = self.guard
        with guard.lock:
            if guard.closed or guard.users != 0:
                raise guard.refuse()
            guard.users = -1
        return self.pointer

    def __exit__(self, *_: object) -> None:
        with self.guard.lock:
            self.guard.users = 0
