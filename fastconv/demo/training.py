"""Training copies of one net side by side: the same start, the same batches, the differences at every step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastconv.demo.lenet import Digits

LEARNING_RATE, MOMENTUM, SHIFT = 0.05, 0.9, 2


@dataclass
class Contestant:
    """One net in training, and its record."""

    name: str
    model: nn.Module
    seconds: float = 0.0  # in its training steps alone
    losses: list[float] = field(default_factory=list)  # a step
    epoch_losses: list[float] = field(default_factory=list)  # the mean of an epoch's steps
    accuracies: list[float] = field(default_factory=list)  # on the held-out digits, an epoch

    def __post_init__(self) -> None:
        """Give it its optimiser."""
        self.optimizer = torch.optim.SGD(self.model.parameters(), LEARNING_RATE, momentum=MOMENTUM, nesterov=True)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its parameters."""
        return next(self.model.parameters()).dtype

    def schedule(self, steps: int) -> None:
        """Let the learning rate rise and fall once over ``steps`` steps."""
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, LEARNING_RATE, total_steps=steps)

    def step(self, images: Tensor, labels: Tensor) -> None:
        """One optimiser step, timed."""
        images = images.to(self.dtype)
        _synchronize(images)
        start = time.perf_counter()
        loss = F.cross_entropy(self.model(images), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        _synchronize(images)
        self.seconds += time.perf_counter() - start
        self.scheduler.step()
        self.losses.append(loss.item())

    @torch.no_grad()
    def evaluate(self, images: Tensor, labels: Tensor) -> float:
        """Accuracy on ``images``, recorded."""
        right = self.model(images.to(self.dtype)).argmax(1) == labels
        self.accuracies.append(right.double().mean().item())
        return self.accuracies[-1]


def _synchronize(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)


@torch.no_grad()
def difference(a: nn.Module, b: nn.Module) -> float:
    """The largest relative difference between two nets' parameters: max|a − b| / max|b| of the worst tensor."""
    return max(
        ((p.double() - q.double()).abs().max() / q.double().abs().max()).item()
        for p, q in zip(a.parameters(), b.parameters(), strict=True)
    )


def batches(data: Digits, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in random order; every batch is shifted by up to SHIFT pixels each way, so that the nets see more."""
    order = torch.randperm(len(data.train_labels), generator=generator).to(data.train_labels.device)
    for indices in order.split(size):
        down, right = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=generator).tolist()
        yield data.train_images[indices].roll((down, right), (2, 3)), data.train_labels[indices]


@dataclass
class Race:
    """Contestants that take the same steps, and ``differences``: a pair of names -> the difference after each step."""

    contestants: list[Contestant]
    pairs: list[tuple[str, str]]
    differences: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Contestant:
        """The contestant called ``name``."""
        return next(each for each in self.contestants if each.name == name)

    def train(
        self, data: Digits, epochs: int, batch_size: int, seed: int, advance: Callable[[], None]
    ) -> Iterator[int]:
        """Train for ``epochs``, yielding each epoch's number when it is over; ``advance()`` is called after each step.

        The contestants take turns in going first, so that none profits from the other's warm caches.
        """
        steps = -(-len(data.train_labels) // batch_size)
        generator = torch.Generator().manual_seed(seed)
        for contestant in self.contestants:
            contestant.schedule(epochs * steps)
        for epoch in range(1, epochs + 1):
            for turn, batch in enumerate(batches(data, batch_size, generator)):
                for contestant in self.contestants[:: 1 if turn % 2 else -1]:
                    contestant.step(*batch)
                for pair in self.pairs:
                    apart = difference(self[pair[0]].model, self[pair[1]].model)
                    self.differences.setdefault(pair, []).append(apart)
                advance()
            for contestant in self.contestants:
                contestant.epoch_losses.append(sum(contestant.losses[-steps:]) / steps)
                contestant.evaluate(data.test_images, data.test_labels)
            yield epoch
