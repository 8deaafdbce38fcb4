"""What a command raises to end with one clear line instead of a traceback."""

from __future__ import annotations

from types import ModuleType

from fastconv.backends import backends


class CommandError(Exception):
    """A command cannot go on. ``status`` is the exit status: 1 it failed, 2 the request was wrong."""

    def __init__(self, message: str, status: int = 1):
        """Keep the one-line message and the exit status."""
        super().__init__(message)
        self.status = status


def backend_module(name: str) -> ModuleType:
    """The compiled module of backend ``name``, usable or not: planning needs no device.

    Raises:
        CommandError: it was not built, or does not load.
    """
    backend = backends()[name]
    if backend.module is None:
        raise CommandError(f"backend {name}: {backend.reason}")
    return backend.module
