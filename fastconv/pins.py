"""Pins: kernels that were decided on for a problem, by hand or by measurement, instead of by the planner's model.

A pin is data: what it is about (the backend and the device, the pass, the problem, what float32 products are made of)
and the name of a kernel. The pins in force are one of the settings (settings.py), so that a plan made before a pin is
never served after it.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import machine, settings
from ._version import __version__
from .backends import backends, name_of

#: The layout of the files that :func:`save` writes.
FORMAT = 1

#: What makes a problem, by operation: attributes of the compiled modules' classes, and arguments of their constructors.
_GEOMETRY = ("n", "c", "input", "stride", "padding", "dilation", "dtype", "layout")
FIELDS = {
    "conv": (*_GEOMETRY, "k", "filter", "padding_high", "padding_mode", "groups"),
    "pool": (
        *_GEOMETRY,
        "kind",
        "window",
        "ceil_mode",
        "count_include_pad",
        "divisor_override",
        "adaptive_output",
    ),
}

#: Passes whose result for one sample must not depend on the batch it came in (csrc/include/fastconv/plan.h).
_PER_SAMPLE = ("fprop", "dgrad")


@dataclass(frozen=True)
class Pin:
    """``kernel`` is to run ``pass_`` of ``problem`` on ``device``."""

    backend: str
    device: str
    operation: str  # "conv" or "pool"
    pass_: str
    math: str  # what float32 products of a convolution are made of
    problem: tuple[tuple[str, Any], ...]  # (field, value) of FIELDS[operation], in that order
    kernel: str

    @property
    def batch(self) -> int:
        """The problem's N."""
        return self.problem[0][1]

    @property
    def subject(self) -> tuple[Any, ...]:
        """All but the kernel: of one subject there is one pin."""
        return (*self.layer, self.batch)

    @property
    def layer(self) -> tuple[Any, ...]:
        """The subject, whatever its batch."""
        return (self.backend, self.device, self.operation, self.pass_, self.math, self.problem[1:])

    def plan(self, **options: Any) -> Any:
        """The compiled module's plan of the subject: its own choice, or as ``options`` say."""
        module = backends()[self.backend].module
        fields = {name: value for name, value in self.problem if (name, value) != ("divisor_override", 0)}
        problem = getattr(module, "ConvProblem" if self.operation == "conv" else "PoolProblem")(**fields)
        if self.operation == "conv":
            options["math"] = self.math
        return getattr(module, f"{self.operation}_plan")(problem, self.pass_, **options)

    def __str__(self) -> str:
        """In one line."""
        texts = ("x".join(map(str, value)) if isinstance(value, tuple) else value for _, value in self.problem)
        about = ", ".join(f"{name} {text}" for (name, _), text in zip(self.problem, texts, strict=True))
        return f"{self.kernel} for {self.pass_} of {self.operation} {about}, {self.math}, {self.backend} {self.device}"


def device_of(backend: str, index: int = 0) -> str:
    """The name that pins know a device by. The emulator is one device, whatever it runs on."""
    return "emulator" if backend == "emulator" else machine.device_name(backend, index)


def pin_of(
    module: Any, operation: str, problem: Any, pass_: str, kernel: str, device: int = 0, math: str = "ieee", **_: Any
) -> Pin:
    """The pin that a planned pass could have; takes and ignores plan options that make no difference to it."""
    fields = ((name, getattr(problem, name)) for name in FIELDS[operation])
    values = tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in fields)
    backend = name_of(module)
    return Pin(backend, device_of(backend, device), operation, pass_, math, values, kernel)


def kernel_for(chosen: settings.Settings, plan: Any, about: Pin) -> str:
    """The kernel that the pins ask for, "" if none does; ``plan`` is what would run without them.

    Where a sample's result must not depend on its batch, a pin of a kernel that belongs to a family holds for every
    batch: at other batches than its own it asks for the cheapest kernel of the same family.
    """
    batches = chosen.pinned.get(about.layer)
    if batches is None:
        return ""
    if about.batch in batches:
        return batches[about.batch]
    family = _family(plan, next(iter(batches.values()))) if about.pass_ in _PER_SAMPLE else ""
    relatives = [each for each in plan.candidates if each.accepted and family and each.family == family]
    return min(relatives, key=lambda each: each.cost.microseconds).kernel if relatives else ""


def _family(plan: Any, kernel: str) -> str:
    return next((each.family for each in plan.candidates if each.kernel == kernel), "")


# ---- changing what is pinned ----
def add(new: Iterable[Pin]) -> None:
    """Pin; a new pin replaces the old one of its subject, and those of its layer's other batches whose kernels are of
    another family than its own, if a sample's result would else depend on its batch.
    """
    new = list(new)
    for pin in new:
        check(pin)
    with settings.lock:
        kept = {pin.subject: pin for pin in settings.current.pins}
        for pin in new:
            for other in [each for each in kept.values() if each.layer == pin.layer and _disagree(each, pin)]:
                del kept[other.subject]
            kept[pin.subject] = pin
        settings.change(pins=frozenset(kept.values()))


def check(pin: Pin) -> None:
    """Raises RuntimeError if the backend's table lacks the kernel, or has it and it refuses."""
    pin.plan(kernel=pin.kernel)


def _disagree(a: Pin, b: Pin) -> bool:
    if a.pass_ not in _PER_SAMPLE or a.kernel == b.kernel:
        return False
    plan = a.plan()
    families = _family(plan, a.kernel), _family(plan, b.kernel)
    return families[0] != families[1]


def drop(doomed: Iterable[Pin]) -> None:
    """Unpin, whatever their kernels are now."""
    subjects = {pin.subject for pin in doomed}
    with settings.lock:
        settings.change(pins=frozenset(pin for pin in settings.current.pins if pin.subject not in subjects))


# ---- files ----
def save(path: str | os.PathLike[str]) -> None:
    """Write the pins in force to a JSON file, so that :func:`load` finds them in another process.

    Raises:
        OSError: the file cannot be written; one that was there is left as it was.
    """
    path = Path(path)
    pins = sorted(settings.current.pins, key=str)
    entries = [{**vars(pin), "problem": dict(pin.problem)} for pin in pins]
    lines = ",\n  ".join(json.dumps(entry) for entry in entries)
    text = f'{{"format": {FORMAT}, "fastconv": {json.dumps(__version__)}, "pins": [\n  {lines}\n]}}'
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    beside.write_text(text + "\n")
    beside.replace(path)


def load(path: str | os.PathLike[str]) -> list[Pin]:
    """Pin what a file of :func:`save` says, beside what is pinned already; the file wins where both have a say.

    Warns (UserWarning) where the file was written by another version of fastconv, for its measurements may no longer
    hold; for each pin whose kernel this version lacks, or has and it refuses, which is then left out; and if pins are
    of a device that is not here: these have no effect, but :func:`save` keeps them.

    Returns:
        The pins that are now in force.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a file of this format.
    """
    try:
        found = json.loads(Path(path).read_text())
        if found["format"] != FORMAT:
            raise ValueError(f"format {found['format']!r}; this version reads format {FORMAT}")
        version, pins = found["fastconv"], [_read(entry) for entry in found["pins"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # ValueError: also what json raises
        raise ValueError(f"path: {str(path)!r} is no file of pins: {error or type(error).__name__}") from None
    if version != __version__:
        _warn(f"{path} was made by fastconv {version}, this is {__version__}: consider fastconv.tune")
    here, elsewhere = [], []
    for pin in pins:
        if not _is_here(pin):
            elsewhere.append(pin)
            continue
        try:
            check(pin)
            here.append(pin)
        except (RuntimeError, TypeError) as error:
            _warn(f"{path}: not pinned: {pin}: {str(error).splitlines()[0]}")
    if elsewhere:
        names = sorted({f"{pin.backend} ({pin.device})" for pin in elsewhere})
        _warn(f"{path}: {len(elsewhere)} pins have no effect, they are for {', '.join(names)}, which is not here")
    add(here)
    with settings.lock:
        settings.change(pins=settings.current.pins | set(elsewhere))
    return here


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=3)


def _read(entry: dict[str, Any]) -> Pin:
    """A pin from its JSON. Raises KeyError or TypeError for one that is malformed."""
    operation, problem = entry["operation"], entry["problem"]
    if not all(isinstance(entry[name], str) for name in ("backend", "device", "pass_", "math", "kernel")):
        raise TypeError(f"a pin's text is missing: {entry!r}")
    values = tuple((name, problem[name]) for name in FIELDS[operation])
    frozen = tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in values)
    return Pin(**{**entry, "problem": frozen})


def _is_here(pin: Pin) -> bool:
    """Whether this machine has the pin's device, and its backend works."""
    backend = backends().get(pin.backend)
    if backend is None or not backend.available:
        return False
    return any(device_of(pin.backend, index) == pin.device for index in range(machine.device_count(pin.backend)))
