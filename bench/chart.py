"""The bar chart of a report: a panel for each pass and layout, a bar for each layer, logarithmic around 1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bench.suite import Row

FASTER, EVEN, SLOWER = "#0b6e99", "#9aa5ab", "#c8553d"
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
}


def draw(rows: Sequence[Row], environment: dict[str, Any], path: Path) -> None:
    """Write the chart as a PNG."""
    layers = list(dict.fromkeys(row.layer for row in rows))
    passes = list(dict.fromkeys(row.pass_ for row in rows))
    layouts = list(dict.fromkeys(row.layout for row in rows))
    ratios = [row.ratio for row in rows if row.ratio]
    low, high = min([0.8, *ratios]) / 1.9, max([1.25, *ratios]) * 1.9  # room for the figures at the bars' ends
    with plt.rc_context(STYLE):
        size = (3.2 + 3.6 * len(layouts), 1.2 + (0.9 + 0.27 * len(layers)) * len(passes))
        figure, grid = plt.subplots(
            len(passes), len(layouts), figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
        )
        for axes_of_pass, pass_ in zip(grid, passes, strict=True):
            for axes, layout in zip(axes_of_pass, layouts, strict=True):
                by_layer = {row.layer: row for row in rows if (row.pass_, row.layout) == (pass_, layout)}
                _panel(axes, layers, by_layer)
                axes.set_title(f"{pass_}, {layout.upper()}")
                axes.set_xlim(low, high)
        for axes in grid[-1]:
            axes.set_xlabel("torch's time / fastconv's")
        threads = environment["threads"]
        figure.suptitle(
            f"fastconv beside torch {environment['versions']['torch']}, {rows[0].dtype}\n"
            f"{environment['device']}, {threads} CPU thread{'s' * (threads != 1)}",
            x=0.01, ha="left",
        )  # fmt: skip
        figure.savefig(path, dpi=130)
        plt.close(figure)


def _panel(axes: Axes, layers: list[str], by_layer: dict[str, Row]) -> None:
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    for position, layer in enumerate(layers):
        row = by_layer.get(layer)
        if row is None or row.ratio is None:
            axes.text(1, position, "  not measured" if row else "  –", va="center", color=EVEN, fontsize=8)
            continue
        color = FASTER if row.ratio > 1.1 else SLOWER if row.ratio < 0.9 else EVEN
        axes.barh(position, row.ratio - 1, left=1, height=0.68, color=color)
        right = row.ratio >= 1
        axes.annotate(
            f"{row.ratio:.2f}" if row.ratio < 9.95 else f"{row.ratio:.0f}",
            (row.ratio, position), (3 if right else -3, 0), textcoords="offset points",
            ha="left" if right else "right", va="center", fontsize=8,
        )  # fmt: skip
    axes.set_yticks(range(len(layers)), layers)
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(FixedLocator(TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
