"""The demo's picture: losses, accuracies, first-layer filters, and how far the nets come apart."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure

from fastconv.demo.training import Race

OURS, THEIRS, TRUTH = "#0b6e99", "#e07a1f", "#777777"
# Where the two nets agree their curves coincide: torch's is drawn broad, fastconv's thin and on top of it.
UNDER = {"color": THEIRS, "linewidth": 5, "alpha": 0.5}
OVER = {"color": OURS, "linewidth": 1.6, "marker": "o", "markersize": 4}
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}


def draw(race: Race, title: str, path: Path) -> None:
    """Write the picture of a finished race as a PNG."""
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(12, 8), layout="constrained")
        figure.suptitle(title, x=0.01, ha="left", fontsize=13)
        grid = figure.add_gridspec(2, 2)
        _losses(figure.add_subplot(grid[0, 0]), race)
        _accuracies(figure.add_subplot(grid[0, 1]), race)
        _filters(figure.add_subfigure(grid[1, 0]), race)
        _differences(figure.add_subplot(grid[1, 1]), race)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=130)
        plt.close(figure)


def _losses(axes: Axes, race: Race) -> None:
    ours, theirs = race["fastconv"], race["torch.nn"]
    steps = np.arange(1, len(ours.losses) + 1)
    epochs = np.arange(1, len(ours.epoch_losses) + 1) * len(steps) / len(ours.epoch_losses)
    axes.semilogy(steps, ours.losses, color=OURS, alpha=0.25, linewidth=0.8)
    axes.semilogy(epochs, theirs.epoch_losses, **UNDER, label="torch.nn, mean of an epoch")
    axes.semilogy(epochs, ours.epoch_losses, **OVER, label="fastconv, the same")
    axes.set(title="Training loss", xlabel="step", ylabel="cross entropy")
    axes.legend()


def _accuracies(axes: Axes, race: Race) -> None:
    ours, theirs = race["fastconv"], race["torch.nn"]
    epochs = np.arange(1, len(ours.accuracies) + 1)
    axes.plot(epochs, theirs.accuracies, **UNDER, label="torch.nn")
    axes.plot(epochs, ours.accuracies, **OVER, label="fastconv")
    axes.set(title="Accuracy on the held-out digits", xlabel="epoch", ylabel="accuracy")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.annotate(
        f"{ours.accuracies[-1]:.4f}", (epochs[-1], ours.accuracies[-1]), (0, -16), textcoords="offset points",
        ha="right", color=OURS,
    )  # fmt: skip
    axes.legend(loc="lower right")


def _filters(figure: SubFigure, race: Race) -> None:
    """Each net's six 5×5 filters, and their difference on a scale of its own, which the row's name tells."""
    weights = (race[name].model.c1.weight for name in ("fastconv", "torch.nn"))
    ours, theirs = (weight.detach().cpu().double().numpy()[:, 0] for weight in weights)
    apart = ours - theirs
    scale, tiny = np.abs(theirs).max(), max(np.abs(apart).max(), 1e-30)
    figure.suptitle("First-layer filters (C1)", x=0.01, ha="left", fontsize=11, fontweight="bold")
    rows = [("fastconv", ours, scale), ("torch.nn", theirs, scale), (f"difference\n× {scale / tiny:.0e}", apart, tiny)]
    axes = figure.subplots(len(rows), len(ours))
    for line, (name, filters, limit) in zip(axes, rows, strict=True):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        for cell, image in zip(line, filters, strict=True):
            cell.imshow(image, cmap="RdBu_r", vmin=-limit, vmax=limit)
            cell.set(xticks=[], yticks=[])
            cell.spines[:].set_visible(False)


def _differences(axes: Axes, race: Race) -> None:
    """The control is torch itself: how far its float32 training strays from the same training in float64."""
    styles = {
        ("torch.nn", "float64"): (THEIRS, 4, 0.5, "torch.nn − float64 (the control)"),
        ("fastconv", "float64"): (TRUTH, 1.2, 1, "fastconv − float64"),
        ("fastconv", "torch.nn"): (OURS, 1.6, 1, "fastconv − torch.nn"),
    }
    for pair, (color, width, alpha, label) in styles.items():
        values = race.differences[pair]
        axes.semilogy(np.arange(1, len(values) + 1), values, color=color, linewidth=width, alpha=alpha, label=label)
    axes.set(title="Largest relative difference of a parameter", xlabel="step", ylabel="max |a − b| / max |b|")
    axes.legend(loc="lower right")
