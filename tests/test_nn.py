"""The layers are torch's own in everything but their forward."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest
import torch
from conftest import Target

import fastconv
from fastconv import functional, nn
from fastconv.testing import integer_tensor, random_tensor

CONVS: list[dict[str, Any]] = [
    {"in_channels": 4, "out_channels": 6, "kernel_size": 3},
    {"in_channels": 4, "out_channels": 8, "kernel_size": (3, 2), "stride": 2, "padding": (1, 0), "groups": 4},
    {"in_channels": 4, "out_channels": 6, "kernel_size": (2, 3), "padding": "same", "dilation": 2, "bias": False},
]
PADDING_MODES = ["zeros", "reflect", "replicate", "circular"]


TRANSPOSED: list[dict[str, Any]] = [
    {"in_channels": 4, "out_channels": 6, "kernel_size": 3},
    {"in_channels": 4, "out_channels": 8, "kernel_size": 2, "stride": 3, "output_padding": 2, "groups": 4},
    {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2, "bias": False},
]
SIZES = (7, 8, 5)


def twins(ours: type, theirs: type, *args: Any, **kwargs: Any) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Our layer and torch's with the same parameters."""
    torch.manual_seed(0)
    mine = ours(*args, **kwargs)
    torch.manual_seed(0)
    torchs = theirs(*args, **kwargs)
    for a, b in zip(mine.parameters(), torchs.parameters(), strict=True):
        assert torch.equal(a, b), "initialisation"
    return mine, torchs


def assert_twins(name: str, device: torch.device, x: torch.Tensor, options: dict[str, Any], *more: Any) -> None:
    """Our layer of this name and torch's compute and receive the same."""
    results = []
    for layer in twins(getattr(nn, name), getattr(torch.nn, name), **options):
        layer = layer.to(device)
        y = layer(x, *more)
        results.append([y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("options", CONVS, ids=str)
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("batched", [True, False])
def test_conv(native: Target, options: dict[str, Any], rank: int, padding_mode: str, batched: bool) -> None:
    x = random_tensor((2, 4, *SIZES[:rank]), seed=1, device=native.device)
    # The suite's pairs, an axis less or more.
    fitted = {k: (v * 2)[:rank] if isinstance(v, tuple) else v for k, v in options.items()}
    x = (x if batched else x[0]).requires_grad_()
    assert_twins(f"Conv{rank}d", native.device, x, {**fitted, "padding_mode": padding_mode})


@pytest.mark.parametrize("options", TRANSPOSED, ids=str)
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("batched", [True, False])
def test_conv_transpose(native: Target, options: dict[str, Any], rank: int, batched: bool) -> None:
    x = random_tensor((2, 4, *SIZES[:rank]), seed=1, device=native.device)
    x = (x if batched else x[0]).requires_grad_()
    name = f"ConvTranspose{rank}d"
    assert_twins(name, native.device, x, options)
    assert fastconv.plan(name.replace("ConvT", "conv_t"), x, torch.zeros(4, 2, *[3] * rank)).pass_ == "dgrad"
    if options.get("stride", 1) > 1:
        least = getattr(torch.nn, name)(**{**options, "output_padding": 0})(x.cpu()).shape[-rank:]
        assert_twins(name, native.device, x, {**options, "output_padding": 0}, [size + 1 for size in least])


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_conv_transpose_refuses_as_torch_does(rank: int) -> None:
    name = f"ConvTranspose{rank}d"
    for module in (nn, torch.nn):
        with pytest.raises(ValueError, match="zeros"):
            getattr(module, name)(2, 2, 3, padding_mode="circular")
        layer = getattr(module, name)(2, 2, 3, stride=2)
        with pytest.raises(ValueError, match="output size"):
            layer(torch.zeros(1, 2, *[4] * rank), output_size=[99] * rank)
        layer.padding_mode = "reflect"
        with pytest.raises(ValueError, match="zeros"):
            layer(torch.zeros(1, 2, *[4] * rank))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_pools(native: Target, rank: int) -> None:
    x = integer_tensor((2, 4, *SIZES[:rank]), seed=1, device=native.device)
    mine, torchs = ([getattr(m, f"{name}Pool{rank}d") for name in ("Max", "Avg")] for m in (nn, torch.nn))
    for options in ({"kernel_size": 2}, {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}):
        assert torch.equal(mine[0](**options)(x), torchs[0](**options)(x))
        torch.testing.assert_close(mine[1](**options)(x), torchs[1](**options)(x))
    ours, theirs = (pair[0](2, return_indices=True)(x) for pair in (mine, torchs))
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
    unpool = getattr(torch.nn, f"MaxUnpool{rank}d")(2)
    assert torch.equal(unpool(*ours, output_size=x.shape), unpool(*theirs, output_size=x.shape))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_adaptive_pools(native: Target, rank: int) -> None:
    x = integer_tensor((2, 4, *SIZES[:rank]), seed=1, device=native.device)
    mine, torchs = ([getattr(m, f"Adaptive{name}Pool{rank}d") for name in ("Max", "Avg")] for m in (nn, torch.nn))
    for size in (1, (2, None, 3)[:rank] if rank > 1 else 3):
        assert torch.equal(mine[0](size)(x), torchs[0](size)(x))
        torch.testing.assert_close(mine[1](size)(x), torchs[1](size)(x))
    ours, theirs = (pair[0](2, return_indices=True)(x) for pair in (mine, torchs))
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize("theirs", list(nn.LAYERS), ids=lambda layer: layer.__name__)
def test_the_layers_are_torchs(theirs: type[torch.nn.Module]) -> None:
    ours = nn.LAYERS[theirs]
    assert issubclass(ours, theirs) and ours.__name__ == theirs.__name__
    assert inspect.signature(ours.__init__) == inspect.signature(theirs.__init__)
    arguments = (3, 4, 3) if "Conv" in theirs.__name__ else (3,)
    mine, torchs = twins(ours, theirs, *arguments)
    assert repr(mine) == repr(torchs)
    assert list(mine.state_dict()) == list(torchs.state_dict())
    torchs.load_state_dict(mine.state_dict())
    mine.load_state_dict(torchs.state_dict())


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_signatures_of_convolutions_are_torchs(rank: int) -> None:
    """torch documents its own in words."""
    for name, rest in (("conv", "dilation=1, groups=1"), ("conv_transpose", "output_padding=0, groups=1, dilation=1")):
        ours = getattr(functional, f"{name}{rank}d")
        assert ours.__name__ == ours.__qualname__ == f"{name}{rank}d" and ours.__module__ == "fastconv.functional"
        documented = getattr(torch.nn.functional, f"{name}{rank}d").__doc__.split("->")[0].strip()
        assert documented == f"{name}{rank}d(input, weight, bias=None, stride=1, padding=0, {rest})"
        assert list(inspect.signature(ours).parameters) == [
            part.split("=")[0] for part in documented.split("(")[1].rstrip(")").split(", ")
        ]
        assert pickle.loads(pickle.dumps(ours)) is ours


MAX = "input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False"
AVERAGE = "input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True"
SIGNATURES = {f"max_pool{rank}d": f"{MAX}, return_indices=False" for rank in (1, 2, 3)}
SIGNATURES |= {f"max_pool{rank}d_with_indices": f"{MAX}, return_indices=" for rank in (1, 2, 3)}
SIGNATURES |= {"avg_pool1d": AVERAGE, "avg_pool2d": f"{AVERAGE}, divisor_override=None"}
SIGNATURES |= {"avg_pool3d": SIGNATURES["avg_pool2d"]}
SIGNATURES |= {f"adaptive_avg_pool{rank}d": "input, output_size" for rank in (1, 2, 3)}
SIGNATURES |= {f"adaptive_max_pool{rank}d": "input, output_size, return_indices=False" for rank in (1, 2, 3)}
SIGNATURES |= {f"adaptive_max_pool{rank}d_with_indices": "input, output_size, return_indices=" for rank in (1, 2, 3)}


@pytest.mark.parametrize(("name", "documented"), SIGNATURES.items())
def test_functional_signatures_are_torchs(name: str, documented: str) -> None:
    ours = inspect.signature(getattr(functional, name))
    plain = ", ".join(
        p.name if p.default is inspect.Parameter.empty else f"{p.name}={p.default}" for p in ours.parameters.values()
    )
    assert plain.startswith(documented)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies(again: Any) -> None:
    layers = [nn.Conv2d(3, 4, 3, padding="same", padding_mode="circular"), nn.Conv1d(3, 4, 3), nn.Conv3d(3, 4, 3)]
    layers += [nn.ConvTranspose1d(3, 4, 3), nn.ConvTranspose2d(3, 4, 3), nn.ConvTranspose3d(3, 4, 3)]
    for layer in layers:
        x = random_tensor((1, 3, 6, 5, 4)[: layer.weight.dim()], seed=1)
        clone = again(layer)
        assert type(clone) is type(layer) and clone.weight is not layer.weight
        assert torch.equal(clone(x), layer(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_train_step_in_every_dtype(native: Target, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Conv2d(2, 3, 2), nn.AvgPool2d(2))
    net = net.to(native.device, dtype).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
    x = random_tensor((2, 1, 9, 9), dtype, seed=1, device=native.device)
    before = net(x).square().sum()
    before.backward()
    optimizer.step()
    assert net(x).square().sum() < before


def test_precision_modes() -> None:
    """The mode reaches the plan of the forward pass and, through it, those of the backward passes."""
    x = random_tensor((1, 64, 18, 18), channels_last=True, seed=1).requires_grad_()
    w = random_tensor((64, 64, 3, 3), channels_last=True, seed=2).requires_grad_()
    with fastconv.use_backend("emulator"):
        for mode, family in (("torch", "direct"), ("ieee", "direct"), ("tf32", "igemm"), ("tf32x3", "igemm")):
            with fastconv.precision(mode):
                for pass_ in ("fprop", "dgrad", "wgrad"):
                    assert fastconv.plan("conv2d", x, w, pass_=pass_).kernel.startswith(family), (mode, pass_)
        with fastconv.precision("tf32"):
            y = fastconv.functional.conv2d(x, w)
        (gx,) = torch.autograd.grad(y.sum(), x)
    (exact,) = torch.autograd.grad(torch.nn.functional.conv2d(x.double(), w.double()).sum(), x)
    assert 1e-5 < (gx - exact).abs().max() / exact.abs().max() < 1e-3, "rounded to tf32, and not further off"
    with pytest.raises(ValueError, match="mode"):
        fastconv.precision("float")
