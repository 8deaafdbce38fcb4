"""Random problems against torch, thousands of them: the same output size, and the same verdict on what is an error."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from fastconv import _cpu
from fastconv.arguments import conv_padding

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVG_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors: more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def outcome(call: Any) -> tuple[int, ...] | None:
    """The spatial size of the result, or None for an error."""
    try:
        return tuple(call())
    except RuntimeError:
        return None


def draw(rng: random.Random, rank: int, low: int, high: int, odd_one: int, chance: float = 0.03) -> list[int]:
    """``rank`` integers in [low, high], and now and then ``odd_one`` among them."""
    values = [rng.randint(low, high) for _ in range(rank)]
    if rng.random() < chance:
        values[rng.randrange(rank)] = odd_one
    return values


def conv_disagreement(rng: random.Random) -> str | None:
    rank = rng.choice((1, 2, 2, 3))
    groups = rng.choice((1, 1, 1, 2, 3))
    c, k = groups * rng.randint(1, 2), groups * rng.randint(1, 2)
    if rng.random() < 0.03:
        c += 1
    if rng.random() < 0.03:
        k += 1
    n = rng.choice((0, 1, 1, 2))
    size = draw(rng, rank, 1, 9, 0)
    window = draw(rng, rank, 1, 4, 7)
    stride = draw(rng, rank, 1, 4, rng.choice((0, -1)))
    dilation = draw(rng, rank, 1, 3, 0)
    padding: Any = draw(rng, rank, 0, 3, -1)
    if n == 0:  # torch does not look at the dilation of an empty batch; a problem refuses 0 always
        dilation = [max(d, 1) for d in dilation]
    if rng.random() < 0.25:
        padding, stride = "same", [1] * rank
    x, w = torch.zeros(n, c, *size), torch.zeros(k, max(c // groups, 1), *window)
    theirs = outcome(lambda: CONV[rank](x, w, None, stride, padding, dilation, groups).shape[2:])

    def ours_size() -> list[int]:
        low, high = conv_padding(padding if padding == "same" else tuple(padding), rank, window, stride, dilation)
        return _cpu.ConvProblem(
            n=n, c=c, k=k, input=size, filter=window, stride=stride, padding=low, padding_high=high,
            dilation=dilation, groups=groups,
        ).output  # fmt: skip

    ours = outcome(ours_size)
    if ours == theirs:
        return None
    return f"conv{rank}d x{list(x.shape)} w{list(w.shape)} {stride=} {padding=} {dilation=} {groups=}: {ours} {theirs}"


def pool_disagreement(rng: random.Random) -> str | None:
    rank, kind = rng.choice((1, 2, 2, 3)), rng.choice(("max", "average"))
    n, c = rng.choice((0, 1, 2)), rng.choice((1, 2))
    size, window = draw(rng, rank, 1, 12, 0), draw(rng, rank, 1, 5, 0)
    stride = draw(rng, rank, 1, 5, rng.choice((0, -1)))
    dilation = draw(rng, rank, 1, 3, 0) if kind == "max" else [1] * rank
    padding = draw(rng, rank, 0, 2, -1)
    ceil_mode = rng.random() < 0.5
    x = torch.zeros(n, c, *size)
    if kind == "max":
        theirs = outcome(lambda: MAX_POOL[rank](x, window, stride, padding, dilation, ceil_mode).shape[2:])
    else:
        theirs = outcome(lambda: AVG_POOL[rank](x, window, stride, padding, ceil_mode).shape[2:])
    ours = outcome(
        lambda: (
            _cpu.PoolProblem(
                kind=kind,
                n=n,
                c=c,
                input=size,
                window=window,
                stride=stride,
                padding=padding,
                dilation=dilation,
                ceil_mode=ceil_mode,
            ).output
        )
    )
    if ours == theirs:
        return None
    return (
        f"{kind}_pool{rank}d x{list(x.shape)} {window=} {stride=} {padding=} {dilation=} {ceil_mode=}: {ours} {theirs}"
    )


@pytest.mark.parametrize("seed", range(4))
def test_random_convolutions_agree_with_torch(seed: int) -> None:
    rng = random.Random(seed)
    wrong = [text for _ in range(2500) if (text := conv_disagreement(rng))]
    assert not wrong, f"{len(wrong)} of 2500 (ours, torch's):\n" + "\n".join(wrong[:10])


@pytest.mark.parametrize("seed", range(2))
def test_random_poolings_agree_with_torch(seed: int) -> None:
    rng = random.Random(seed)
    wrong = [text for _ in range(2500) if (text := pool_disagreement(rng))]
    assert not wrong, f"{len(wrong)} of 2500 (ours, torch's):\n" + "\n".join(wrong[:10])


def test_the_draw_has_errors_and_sizes_of_every_sort() -> None:
    """If almost everything were an error, agreement would mean little."""
    rng = random.Random(0)
    calls = []
    for _ in range(500):
        size, window, stride = draw(rng, 2, 1, 9, 0), draw(rng, 2, 1, 4, 7), draw(rng, 2, 1, 4, 0)
        x, w = torch.zeros(1, 1, *size), torch.zeros(1, 1, *window)
        calls.append(outcome(lambda x=x, w=w, stride=stride: F.conv2d(x, w, None, stride, 1).shape[2:]))
    errors = calls.count(None)
    assert 25 < errors < 250 and len(set(calls)) > 20


@pytest.mark.parametrize("bits", [31, 33, 40])
def test_sizes_beyond_32_bits(bits: int) -> None:
    problem = _cpu.ConvProblem(
        n=1, c=1, k=1, input=[1 << bits], filter=[3], stride=[2], padding=[1], dilation=[1], groups=1
    )
    assert problem.output == [1 << (bits - 1)]


def test_sizes_beyond_64_bits_are_an_error() -> None:
    with pytest.raises(RuntimeError, match="input"):
        _cpu.ConvProblem(
            n=1 << 40, c=1 << 40, k=1, input=[5], filter=[3], stride=[1], padding=[1], dilation=[1], groups=1
        )
