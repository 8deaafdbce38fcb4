"""The compiled backends, and which of them a tensor uses.

A CUDA tensor uses ``_cuda``, a CPU tensor ``_cpu``; with ``use_backend("emulator")`` (or ``FASTCONV_BACKEND=emulator``)
CPU tensors run through the emulated CUDA kernels instead. A module that is absent or unusable keeps the reason why.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch

from . import settings

#: What the compiled modules take: torch's dtype -> their name for it.
DTYPES = {
    torch.float64: "float64",
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}

#: backend -> the type of device whose memory it addresses
_DEVICE_TYPE = {"cpu": "cpu", "emulator": "cpu", "cuda": "cuda"}

#: the types of device whose tensors may have a backend at all
DEVICE_TYPES = frozenset(_DEVICE_TYPE.values())


#: A table of kernels for each.
OPERATIONS = ("conv", "pool", "separable")


@dataclass(frozen=True)
class Backend:
    """One compiled module: ``available``, or not and the ``reason`` why."""

    name: str
    module: ModuleType | None
    available: bool
    reason: str
    devices: list[str] = field(default_factory=list)
    details: dict[str, str] = field(default_factory=dict)

    @property
    def device_type(self) -> str:
        """The type of torch device whose tensors this backend can address."""
        return _DEVICE_TYPE[self.name]

    def kernels(self, operation: str) -> list[tuple[str, str]]:
        """(name, summary) of each entry of the backend's table; ``operation`` is one of OPERATIONS."""
        return [] if self.module is None else getattr(self.module, f"{operation}_kernels")()


def _load(name: str) -> Backend:
    try:
        module = importlib.import_module(f"fastconv._{name}")
    except ImportError as error:
        return Backend(name, None, False, f"fastconv._{name} is not built: {error}")
    info: dict[str, Any] = module.info()
    return Backend(name, module, info["available"], info["reason"], info["devices"], info["details"])


_BACKENDS = {name: _load(name) for name in _DEVICE_TYPE}


def backends() -> dict[str, Backend]:
    """Every backend by name, usable or not."""
    return dict(_BACKENDS)


def name_of(module: ModuleType) -> str:
    """The backend whose compiled module this is."""
    return next(name for name, backend in _BACKENDS.items() if backend.module is module)


def select(device: torch.device) -> tuple[Backend | None, str]:
    """The backend for tensors on ``device``, of one of DEVICE_TYPES, or None and the reason why it is not available."""
    chosen = settings.current.backend
    name = chosen if chosen is not None and _DEVICE_TYPE[chosen] == device.type else device.type
    backend = _BACKENDS[name]
    return (backend, "") if backend.available else (None, backend.reason)


class use_backend(settings.Choice):
    """Choose the backend: ``use_backend("emulator")``, as a call or in a ``with`` block; None restores the default.

    The choice holds for tensors whose memory the backend can address (``"cpu"`` and ``"emulator"``: CPU tensors;
    ``"cuda"``: CUDA tensors); other tensors keep their device's own backend.

    Raises:
        ValueError: no backend has this name.
        RuntimeError: the backend is not available; the message says why.
    """

    field = "backend"

    def __init__(self, name: str | None) -> None:
        """Apply the choice now; leaving a ``with`` block restores the one before it."""
        super().__init__(name)

    def check(self, value: Any) -> str | None:
        """``value``, if it names a usable backend."""
        if value is None:
            return None
        if value not in _BACKENDS:
            raise ValueError(f"backend: expected one of {', '.join(_BACKENDS)}, got {value!r}")
        if not _BACKENDS[value].available:
            raise RuntimeError(f"backend: {value!r} is not available: {_BACKENDS[value].reason}")
        return value


class use_kernel(settings.Choice):
    """Force a kernel: ``use_kernel("direct")``, as a call or in a ``with`` block; None restores the free choice.

    The name is an entry of the backends' tables (``python -m fastconv info`` lists them); operations whose table lacks
    it keep their free choice. ``"native"`` means any kernel but PyTorch's own (``"aten"``), the cheapest of them.
    A forced kernel that refuses a problem is an error with the reason in its message, never a silent replacement.

    Raises:
        ValueError: no backend has a kernel of this name.
    """

    field = "kernel"

    def __init__(self, name: str | None) -> None:
        """Apply the choice now; leaving a ``with`` block restores the one before it."""
        super().__init__(name)

    def check(self, value: Any) -> str | None:
        """``value``, if some backend's table has it."""
        if value is None or value == "native":
            return value
        tables = [backend.kernels(operation) for backend in _BACKENDS.values() for operation in OPERATIONS]
        known = sorted({name for table in tables for name, _ in table})
        if value not in known:
            raise ValueError(f"kernel: expected one of native, {', '.join(known)}, got {value!r}")
        return value


use_backend(os.environ.get("FASTCONV_BACKEND") or None)
