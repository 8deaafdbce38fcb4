"""LeNet-5 on real digits, trained side by side through fastconv, torch.nn and (as the control) torch.nn in float64.

lenet.py     the net and the data
training.py  the race: same start, same batches, the differences at every step
kernels.py   which kernel ran each layer
report.py    what is printed
figure.py    the picture
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import fastconv
import fastconv.nn
from fastconv.demo import figure, report
from fastconv.demo.kernels import kernels_of
from fastconv.demo.lenet import Digits, LeNet5, load_digits
from fastconv.demo.training import Contestant, Race


@dataclass(frozen=True)
class Settings:
    """What a run is.

    ``kernel`` is given to ``fastconv.use_kernel``: None leaves the choice to the planner, which on a CPU may hand a
    layer to PyTorch's own operator ("aten"); "native" keeps those out of fastconv's net.
    ``train_count`` limits the training digits (None: all); ``threshold`` is the accuracy to reach.
    """

    backend: str
    kernel: str | None
    epochs: int
    batch_size: int
    seed: int
    train_count: int | None
    threshold: float
    out: Path
    json: bool

    @property
    def device(self) -> str:
        """The device whose memory the nets live in."""
        return "cuda" if self.backend == "cuda" else "cpu"


def run(settings: Settings) -> dict[str, Any]:
    """Train, report, draw; returns the figures. ``figures["passed"]`` says whether both nets reached the threshold."""
    console = Console()
    torch.manual_seed(settings.seed)
    data = _limited(load_digits(settings.seed, settings.device), settings.train_count)
    race = _race(settings)
    title = f"LeNet-5 on handwritten digits, {len(data.train_labels)} to train and {len(data.test_labels)} held out"
    console.print(f"[bold]{title}[/]; backend {settings.backend}", highlight=False)
    # tf32 would hide in its rounding the very differences that the demo is about.
    exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    with exact, _in_force(settings):
        kernels = kernels_of(race["fastconv"].model, data.train_images[: settings.batch_size])
        _train(console, race, data, settings)
    picture = settings.out / "demo.png"
    figure.draw(race, f"{title} · backend {settings.backend}", picture)
    console.print()
    console.print(report.kernel_table(kernels, settings.backend))
    console.print(report.result_table(race.contestants, len(data.test_labels)))
    console.print(f"picture: {picture}", highlight=False)
    figures = _figures(race, settings, kernels)
    if settings.json:
        path = settings.out / "demo.json"
        path.write_text(json.dumps(figures, indent=2) + "\n")
        console.print(f"figures: {path}", highlight=False)
    return figures


@contextmanager
def _in_force(settings: Settings) -> Iterator[None]:
    """The backend and the kernels of the run; the emulator without its memory counters, four times as fast."""
    with fastconv.use_backend(settings.backend), fastconv.use_kernel(settings.kernel):
        if settings.backend != "emulator":
            yield
            return
        emulator = fastconv.backends()["emulator"].module
        before = emulator.configure(count=False)
        try:
            yield
        finally:
            emulator.configure(**before)


def _limited(data: Digits, count: int | None) -> Digits:
    return data._replace(train_images=data.train_images[:count], train_labels=data.train_labels[:count])


def _race(settings: Settings) -> Race:
    """Three nets with the same weights: fastconv's, torch's, and torch's in float64 to judge both by."""
    theirs = LeNet5(torch.nn).to(settings.device)
    ours = LeNet5(fastconv.nn).to(settings.device)
    ours.load_state_dict(theirs.state_dict())
    contestants = [
        Contestant("fastconv", ours),
        Contestant("torch.nn", theirs),
        Contestant("float64", copy.deepcopy(theirs).double()),
    ]
    return Race(contestants, [("fastconv", "torch.nn"), ("fastconv", "float64"), ("torch.nn", "float64")])


def _train(console: Console, race: Race, data: Digits, settings: Settings) -> None:
    steps = -(-len(data.train_labels) // settings.batch_size)
    times = TimeElapsedColumn(), TimeRemainingColumn()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *times
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("steps", total=settings.epochs * steps)
        report.epoch_header(progress.console)
        schedule = settings.epochs, settings.batch_size, settings.seed
        for epoch in race.train(data, *schedule, advance=lambda: progress.advance(bar)):
            report.epoch_line(progress.console, race, epoch)


def _figures(race: Race, settings: Settings, kernels: list[Any]) -> dict[str, Any]:
    accuracy = {each.name: each.accuracies[-1] for each in race.contestants}
    return {
        "backend": settings.backend,
        "kernel": settings.kernel,
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "seed": settings.seed,
        "threshold": settings.threshold,
        "passed": accuracy["fastconv"] >= settings.threshold,
        "test_accuracy": accuracy,
        "training_seconds": {each.name: each.seconds for each in race.contestants},
        "epoch_losses": {each.name: each.epoch_losses for each in race.contestants},
        "largest_differences": {" - ".join(pair): max(values) for pair, values in race.differences.items()},
        "kernels": [row._asdict() for row in kernels],
    }
