"""LeNet-5 (LeCun et al., 1998) over any module that has torch.nn's layers, and scikit-learn's handwritten digits."""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LeNet5(nn.Module):
    """The paper's C1 to F6 and a linear output, on 32×32 images; S2 subsamples by maximum, S4 by mean as in the paper.

    The activation is the paper's tanh, and not for nostalgia: the demo compares two trainings step by step, and each
    kink of a ReLU turns a last-bit difference into a jump that training then amplifies.

    ``layers`` supplies Conv2d, MaxPool2d and AvgPool2d: ``torch.nn`` or ``fastconv.nn``; the ``state_dict`` is the
    same. Input [N, 1, 32, 32], output [N, 10] logits.
    """

    def __init__(self, layers: ModuleType):
        """Build the net from ``layers``."""
        super().__init__()
        self.c1 = layers.Conv2d(1, 6, 5)
        self.s2 = layers.MaxPool2d(2)
        self.c3 = layers.Conv2d(6, 16, 5)
        self.s4 = layers.AvgPool2d(2)
        self.c5 = layers.Conv2d(16, 120, 5)
        self.f6 = nn.Linear(120, 84)
        self.output = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        x = self.s2(torch.tanh(self.c1(x)))
        x = self.s4(torch.tanh(self.c3(x)))
        x = torch.tanh(self.c5(x)).flatten(1)
        return self.output(torch.tanh(self.f6(x)))


class Digits(NamedTuple):
    """Images [N, 1, 32, 32] float32 with zero mean and unit variance, labels [N] int64; a fifth is held out."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load_digits(seed: int = 0, device: str = "cpu") -> Digits:
    """The 1,797 digits of scikit-learn (8×8, from the UCI repository), resized to LeNet's 32×32 and split 80 to 20."""
    from sklearn.datasets import load_digits as load
    from sklearn.model_selection import train_test_split

    raw = load()
    images = torch.from_numpy(raw.images).float().unsqueeze(1)
    images = F.interpolate(images, size=(32, 32), mode="bilinear", align_corners=False)
    images = (images - images.mean()) / images.std()
    labels = torch.from_numpy(raw.target).long()
    train, test = train_test_split(range(len(labels)), test_size=0.2, random_state=seed, stratify=raw.target)
    parts = images[train], labels[train], images[test], labels[test]
    return Digits(*(part.to(device) for part in parts))
