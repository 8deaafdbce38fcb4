"""LeNet-5 on handwritten digits: a plain PyTorch training script; fastconv is the one import that differs.

python examples/lenet.py [EPOCHS]        needs scikit-learn
"""

import sys

import torch
from sklearn.datasets import load_digits
from torch.nn import Flatten, Linear, Sequential, Tanh
from torch.nn import functional as F

from fastconv.nn import AvgPool2d, Conv2d, MaxPool2d


def main(epochs: int = 8) -> float:
    """Train, and return the accuracy on the fifth of the digits that training never sees."""
    torch.manual_seed(0)
    raw = load_digits()
    images = F.interpolate(torch.from_numpy(raw.images).float().unsqueeze(1) / 8 - 1, size=(32, 32), mode="bilinear")
    labels = torch.from_numpy(raw.target).long()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, labels = images.to(device), labels.to(device)
    test, train = torch.randperm(len(labels), device=device).split([360, len(labels) - 360])

    net = Sequential(
        *(Conv2d(1, 6, 5), Tanh(), MaxPool2d(2)),
        *(Conv2d(6, 16, 5), Tanh(), AvgPool2d(2)),
        *(Conv2d(16, 120, 5), Tanh(), Flatten()),
        *(Linear(120, 84), Tanh(), Linear(84, 10)),
    ).to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)

    accuracy = 0.0
    for epoch in range(1, epochs + 1):
        for batch in train[torch.randperm(len(train), device=device)].split(32):
            loss = F.cross_entropy(net(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            accuracy = (net(images[test]).argmax(1) == labels[test]).float().mean().item()
        print(f"epoch {epoch}  loss {loss.item():.4f}  accuracy {accuracy:.4f}")
    return accuracy


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
