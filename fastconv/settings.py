"""The process-wide choices that planning depends on: backend, kernel, precision, pins.

They are kept in one interned, immutable object, so that the plan cache can use it as a key by identity: changing a
setting and changing it back finds the old plans again. Like ``torch.backends`` flags, settings belong to the process,
not to a thread (autograd runs backward passes in threads of its own).
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Any


class Settings:
    """An immutable combination of choices, compared and hashed by identity. Get one with :func:`intern`."""

    FIELDS = ("backend", "kernel", "precision", "pins")
    __slots__ = (*FIELDS, "pinned")

    def __init__(self, backend: str | None, kernel: str | None, precision: str, pins: frozenset[Any]) -> None:
        """Not for users: see :func:`intern`."""
        self.backend, self.kernel, self.precision, self.pins = backend, kernel, precision, pins
        #: layer -> batch -> kernel: the pins (pins.py) by what they are about
        self.pinned: dict[Hashable, dict[int, str]] = {}
        for pin in pins:
            self.pinned.setdefault(pin.layer, {})[pin.batch] = pin.kernel

    def __repr__(self) -> str:
        """Its values."""
        chosen = f"backend={self.backend!r}, kernel={self.kernel!r}, precision={self.precision!r}"
        return f"Settings({chosen}, {len(self.pins)} pins)"


_interned: dict[tuple[Any, ...], Settings] = {}


def intern(backend: str | None, kernel: str | None, precision: str, pins: frozenset[Any] = frozenset()) -> Settings:
    """The one Settings object with these values."""
    key = (backend, kernel, precision, pins)
    return _interned.get(key) or _interned.setdefault(key, Settings(*key))


#: What is in force now. Read it as ``settings.current``: it is rebound by the context managers.
current: Settings = intern(None, None, "torch")

#: Held while ``current`` is replaced by something made of it.
lock = threading.RLock()


def change(**fields: Any) -> None:
    """Replace some fields of what is in force."""
    global current
    with lock:
        current = intern(**{**{name: getattr(current, name) for name in Settings.FIELDS}, **fields})


class Choice:
    """A setting that holds from the call on; as a context manager, only until the block ends.

    Subclasses name the field and check the value.
    """

    field: str

    def __init__(self, value: Any) -> None:
        """Apply ``value`` now."""
        self._previous = getattr(current, self.field)
        change(**{self.field: self.check(value)})

    def check(self, value: Any) -> Any:
        """The value to store; raises ValueError or RuntimeError if it cannot be had."""
        raise ValueError(f"{self.field}: cannot be set to {value!r}")

    def __enter__(self) -> Choice:
        """The choice holds already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the choice before it."""
        change(**{self.field: self._previous})
