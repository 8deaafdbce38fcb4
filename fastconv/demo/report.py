"""What the demo prints, with rich: the epochs as they pass, then the two tables."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from fastconv import units
from fastconv.demo.kernels import LayerKernels
from fastconv.demo.training import Contestant, Race


def epoch_header(console: Console) -> None:
    """The titles over the lines of :func:`epoch_line`; as those, 80 columns wide."""
    console.print("[bold]              loss                accuracy          largest difference of[/]")
    console.print("[bold]epoch  fastconv  torch.nn   fastconv  torch.nn   the two  torch.nn to float64[/]")


def epoch_line(console: Console, race: Race, epoch: int) -> None:
    """One epoch: the losses, the accuracies, and how far the nets have come apart."""
    ours, theirs = race["fastconv"], race["torch.nn"]
    apart, control = (race.differences[pair][-1] for pair in (("fastconv", "torch.nn"), ("torch.nn", "float64")))
    console.print(
        f"{epoch:5d}  {ours.epoch_losses[-1]:8.5f}  {theirs.epoch_losses[-1]:8.5f}"
        f"   {ours.accuracies[-1]:8.4f}  {theirs.accuracies[-1]:8.4f}   {apart:7.1e}  {control:19.1e}",
        highlight=False,
    )


def kernel_table(rows: list[LayerKernels], backend: str) -> Table:
    """Which kernel ran each layer, forward and backward."""
    table = Table(title=f"Kernels of backend {backend}", title_justify="left", title_style="bold")
    for column in ("layer", "", "forward", "input grad", "weight grad"):
        table.add_column(column)
    for row in rows:
        table.add_row(row.name, row.layer, row.forward, row.input_gradient or "–", row.weight_gradient or "–")
    return table


def result_table(contestants: list[Contestant], test_count: int) -> Table:
    """Accuracy and time of each net."""
    table = Table(title=f"After training ({test_count} held-out digits)", title_justify="left", title_style="bold")
    table.add_column("")
    for column in ("test accuracy", "wrong", "training time", "a step"):
        table.add_column(column, justify="right")
    for each in contestants:
        accuracy = each.accuracies[-1]
        table.add_row(
            each.name,
            f"{accuracy:.4f}",
            str(round((1 - accuracy) * test_count)),
            units.microseconds(each.seconds * 1e6),
            units.microseconds(each.seconds / len(each.losses) * 1e6),
        )
    return table
