"""Swap the layers of a whole model, in place: ``fastconv.convert(model)``, and back: ``fastconv.revert(model)``.

Only a module's class changes. Everything a module *is* (parameters, buffers, hooks, name, dtype, device, mode, whatever
the user hung on it) stays the same object, so optimizers, weight tying and shared modules never notice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from .nn import LAYERS

Model = TypeVar("Model", bound=torch.nn.Module)

#: The methods that our layers replace; a subclass with its own must keep it.
_REPLACED = ("forward", "_conv_forward", "__call__")

_ORIGINAL = {ours: theirs for theirs, ours in LAYERS.items()}


def _torch_layer(cls: type) -> type | None:
    """The layer among LAYERS that ``cls`` is or derives from."""
    return next((layer for layer in LAYERS if issubclass(cls, layer)), None)


def why_not(module: torch.nn.Module) -> str:
    """Why :func:`convert` leaves a module alone; empty if it does not."""
    cls = type(module)
    layer = _torch_layer(cls)
    if layer is None:
        return f"fastconv has no {cls.__name__}"
    if isinstance(module, LazyModuleMixin):
        return "lazy: it becomes a real layer at its first call; convert afterwards"
    if "forward" in vars(module):
        return "its forward was replaced on the instance"
    for method in _REPLACED:
        if getattr(cls, method, None) is not getattr(layer, method, None):
            return f"{cls.__qualname__} has its own {method}"
    return ""


# ---- classes ----
_swapped: dict[type, type] = {}


def _rebuild(cls: type[torch.nn.Module]) -> torch.nn.Module:
    """Unpickling: an empty module of the swapped class of ``cls``, whose state follows."""
    swapped = _swap(cls)
    return swapped.__new__(swapped)


def _reduce_ex(self: Any, protocol: Any) -> tuple[Any, ...]:
    state = self.__getstate__() if hasattr(self, "__getstate__") else vars(self)
    return _rebuild, (type(self).__fastconv_original__,), state


def _swap(cls: type) -> type:
    """The class that does what ``cls`` does, with our forward. One for each ``cls``, ever."""
    if cls in LAYERS:
        return LAYERS[cls]
    if cls not in _swapped:
        # A user's subclass stays in front, so that all it defines still holds; ours comes before torch's layer.
        bases = (cls, LAYERS[_torch_layer(cls)])
        members = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
        members |= {"__fastconv_original__": cls, "__reduce_ex__": _reduce_ex}
        _swapped[cls] = type(cls.__name__, bases, members)
    return _swapped[cls]


def _unswap(cls: type) -> type:
    return _ORIGINAL.get(cls) or vars(cls)["__fastconv_original__"]


def _is_ours(cls: type) -> bool:
    return cls in _ORIGINAL or "__fastconv_original__" in vars(cls)


def _change(module: torch.nn.Module, change: Any) -> None:
    """``module.__class__ = change(its class)``, underneath torch's parametrization if there is one: that is a class of
    the one module's own, whose only base is the layer's class, and torch removes it by going back to the base.
    """
    cls = type(module)
    if not parametrize.is_parametrized(module):
        module.__class__ = change(cls)
        return
    members = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
    base = change(cls.__bases__[0])
    module.__class__ = type(f"Parametrized{base.__name__}", (base,), members)


def _layer_class(module: torch.nn.Module) -> type:
    """The module's class, without the one that a parametrization puts on top."""
    cls = type(module)
    return cls.__bases__[0] if parametrize.is_parametrized(module) else cls


def convert(model: Model) -> Model:
    """Make every layer in ``model`` that fastconv.nn has run on fastconv, in place.

    User subclasses that keep torch's forward are converted too and stay instances of their class; layers that cannot
    be converted are left as they are, and :func:`report` says why. Converting twice changes nothing more.

    Args:
        model: any module; it may itself be one of these layers.

    Returns:
        The same ``model``. ``print(fastconv.report(model))`` shows what became of each layer.

    Raises:
        TypeError: ``model`` is not a torch.nn.Module.
    """
    for _, module in _modules(model):
        if not _is_ours(_layer_class(module)) and not why_not(module):
            _change(module, _swap)
    return model


def revert(model: Model) -> Model:
    """Undo :func:`convert`, in place: every fastconv layer in ``model`` becomes the torch layer it stands for.

    Returns:
        The same ``model``.

    Raises:
        TypeError: ``model`` is not a torch.nn.Module.
    """
    for _, module in _modules(model):
        if _is_ours(_layer_class(module)):
            _change(module, _unswap)
    return model


def _modules(model: Any) -> Iterator[tuple[str, torch.nn.Module]]:
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    return model.named_modules()


# ---- report ----
@dataclass(frozen=True)
class Layer:
    """One line of a report: ``reason`` says why a layer is not on fastconv, and is empty if it is."""

    name: str
    layer: str
    on_fastconv: bool
    reason: str


@dataclass(frozen=True)
class Report:
    """Every convolution and pooling layer of a model; print it."""

    layers: list[Layer]

    @property
    def converted(self) -> int:
        """How many layers run on fastconv."""
        return sum(layer.on_fastconv for layer in self.layers)

    def __str__(self) -> str:
        """A line a layer."""
        lines = [f"{self.converted} of {len(self.layers)} convolution and pooling layers run on fastconv"]
        width = max((len(layer.name) for layer in self.layers), default=0)
        for layer in self.layers:
            state = "fastconv" if layer.on_fastconv else f"torch: {layer.reason}"
            lines.append(f"  {layer.name:<{width}}  {layer.layer}  -> {state}")
        return "\n".join(lines)


def report(model: torch.nn.Module) -> Report:
    """What runs each convolution and pooling layer of ``model`` now, and why those not on fastconv are not.

    Raises:
        TypeError: ``model`` is not a torch.nn.Module.
    """
    layers = []
    for name, module in _modules(model):
        if isinstance(module, tuple(LAYERS)):
            ours = _is_ours(_layer_class(module))
            reason = "" if ours else why_not(module) or "not converted"
            layers.append(Layer(name or "(model)", repr(module).split("\n")[0], ours, reason))
    return Report(layers)
