"""The process-wide choices that planning depends on: backend, kernel, precision.

They are kept in one interned, immutable object, so that the plan cache can use it as a key by identity: changing a
setting and changing it back finds the old plans again. Like ``torch.backends`` flags, settings belong to the process,
not to a thread (autograd runs backward passes in threads of its own).
"""

from __future__ import annotations

from typing import Any


class Settings:
    """An immutable combination of choices, compared and hashed by identity. Get one with :func:`intern`."""

    __slots__ = ("backend", "kernel", "precision")

    def __init__(self, backend: str | None, kernel: str | None, precision: str) -> None:
        """Not for users: see :func:`intern`."""
        self.backend, self.kernel, self.precision = backend, kernel, precision

    def __repr__(self) -> str:
        """Its values."""
        return f"Settings(backend={self.backend!r}, kernel={self.kernel!r}, precision={self.precision!r})"


_interned: dict[tuple[str | None, str | None, str], Settings] = {}


def intern(backend: str | None, kernel: str | None, precision: str) -> Settings:
    """The one Settings object with these values."""
    key = (backend, kernel, precision)
    return _interned.setdefault(key, Settings(*key))


#: What is in force now. Read it as ``settings.current``: it is rebound by the context managers.
current: Settings = intern(None, None, "torch")


class Choice:
    """A setting that holds from the call on; as a context manager, only until the block ends.

    Subclasses name the field and check the value.
    """

    field: str

    def __init__(self, value: Any) -> None:
        """Apply ``value`` now."""
        global current
        self._previous = getattr(current, self.field)
        current = self._with(self.check(value))

    def check(self, value: Any) -> Any:
        """The value to store; raises ValueError or RuntimeError if it cannot be had."""
        raise ValueError(f"{self.field}: cannot be set to {value!r}")

    def _with(self, value: Any) -> Settings:
        fields = {name: getattr(current, name) for name in Settings.__slots__}
        return intern(**{**fields, self.field: value})

    def __enter__(self) -> Choice:
        """The choice holds already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the choice before it."""
        global current
        current = self._with(self._previous)
