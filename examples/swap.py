"""Swap the layers of a model that knows nothing of fastconv, see what was swapped, and compare the outputs.

python examples/swap.py
"""

import torch
from torch import nn

import fastconv


def main() -> float:
    """Convert a small residual net; returns the largest difference between the two models' logits."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 32, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
        *(nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.Conv2d(32, 64, 1), nn.GELU()),
        *(nn.Conv2d(64, 64, 3, padding="same", dilation=2, padding_mode="circular"), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * 8 * 8, 10)),
    ).eval()
    images = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        before = model(images)
        print(fastconv.report(fastconv.convert(model)))
        after = model(images)
    difference = (after - before).abs().max().item()
    print(f"\nlargest difference of a logit: {difference:.1e}")
    fastconv.revert(model)
    return difference


if __name__ == "__main__":
    main()
