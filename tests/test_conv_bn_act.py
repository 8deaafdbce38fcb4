"""nn.ConvBNAct beside the three layers of torch that it stands for."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from conftest import DTYPES, Target
from torch import Tensor

import fastconv
from fastconv import functional, nn
from fastconv.testing import assert_close_to_float64, random_tensor

ACTS: dict[str, torch.nn.Module] = {
    "none": torch.nn.Identity(),
    "relu": torch.nn.ReLU(),
    "relu6": torch.nn.ReLU6(),
    "leaky_relu": torch.nn.LeakyReLU(0.2),
    "hardswish": torch.nn.Hardswish(),
    "silu": torch.nn.SiLU(),
    "gelu": torch.nn.GELU(),
    "gelu_tanh": torch.nn.GELU(approximate="tanh"),
}
OPTIONS: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1, "groups": 4, "bias": True},
    {"kernel_size": (3, 1), "padding": "same", "padding_mode": "reflect"},
]


class Three(torch.nn.Module):
    """The same by torch.nn, with the same names."""

    def __init__(self, act: torch.nn.Module, **options: Any) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(4, 8, **{"bias": False, **options})
        self.bn = torch.nn.BatchNorm2d(8)
        self.act = act

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        y = self.bn(self.conv(x))
        return self.act(y if residual is None else y + residual)


def twins(activation: str = "relu", **options: Any) -> tuple[nn.ConvBNAct, Three]:
    """Both with the same parameters, and statistics that are not those of a new layer."""
    options = options or OPTIONS[0]
    ours, theirs = (
        nn.ConvBNAct(4, 8, activation=activation, negative_slope=0.2, **options),
        Three(ACTS[activation], **options),
    )
    with torch.no_grad():
        for seed, (name, each) in enumerate(theirs.state_dict().items()):
            if each.is_floating_point():
                each.copy_(
                    random_tensor(each.shape, seed=seed).abs() + 0.1
                    if "var" in name
                    else random_tensor(each.shape, seed=seed) / 2
                )
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def tensors(
    dtype: torch.dtype = torch.float32, channels_last: bool = False, layer: Any = None
) -> tuple[Tensor, Tensor]:
    x = random_tensor((2, 4, 6, 5), dtype, seed=1, channels_last=channels_last)
    shape = (
        Three(ACTS["none"], **OPTIONS[0])(torch.zeros(2, 4, 6, 5)).shape if layer is None else layer(x.float()).shape
    )
    return x, random_tensor(shape, dtype, seed=2, channels_last=channels_last)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one at each fold."""
    from fastconv import folding

    folds: list[int] = []
    real = folding.fold
    monkeypatch.setattr(folding, "fold", lambda *args: folds.append(1) or real(*args))
    return folds


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_trains_as_the_three_layers_do(backend: Target, options: dict[str, Any], channels_last: bool) -> None:
    """Five steps of SGD: outputs, gradients, parameters and statistics, then the same in eval mode."""
    ours, theirs = twins("relu", **options)
    exact = copy.deepcopy(theirs).double()
    models = [each.to(backend.device).train() for each in (ours, theirs, exact)]
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.1, momentum=0.9) for each in models]
    for step in range(5):
        x = random_tensor((2, 4, 6, 5), seed=step, channels_last=channels_last, device=backend.device)
        results = []
        for model, optimizer in zip(models, optimizers, strict=True):
            dtype = next(model.parameters()).dtype
            y = model(x.to(dtype))
            r = random_tensor(y.shape, seed=9, device=backend.device).to(dtype)
            y = model(x.to(dtype), r)
            optimizer.zero_grad()
            y.square().mean().backward()
            results.append([y, *(p.grad for p in model.parameters())])
            optimizer.step()
        for mine, torchs, right in zip(*results, strict=True):
            torch.testing.assert_close(mine, torchs, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(mine.double(), right, rtol=1e-3, atol=1e-4)
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[name], rtol=1e-4, atol=1e-5, msg=name)
    results = [model.eval()(x.to(next(model.parameters()).dtype)) for model in models]
    assert_close_to_float64(results[0], results[1], results[1].double())


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("activation", ACTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_eval_is_torchs(native: Target, dtype: torch.dtype, activation: str, channels_last: bool) -> None:
    for options in OPTIONS:
        ours, theirs = (each.eval().to(dtype) for each in twins(activation, **options))
        exact = copy.deepcopy(theirs).double()
        x, _ = tensors(dtype, channels_last)
        with torch.no_grad():
            r = random_tensor(theirs(x).shape, dtype, seed=2, channels_last=channels_last)
            for residual in (None, r):
                wide = None if residual is None else residual.double()
                right = exact(x.double(), wide)
                torchs = theirs(x, residual)
                ours.to(native.device)
                moved = None if residual is None else residual.to(native.device)
                result = ours(x.to(native.device), moved)
                assert_close_to_float64(result, torchs, right, f"{activation} {options}")
                assert result.is_contiguous(memory_format=torch.channels_last) == torchs.is_contiguous(
                    memory_format=torch.channels_last
                )


def test_eval_is_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = twins()
    x, r = tensors()
    calls: list[tuple[Any, ...]] = []
    real = functional.conv2d_bias_act
    monkeypatch.setattr(functional, "conv2d_bias_act", lambda *args, **kw: calls.append(args) or real(*args, **kw))
    monkeypatch.setattr(ours.bn, "forward", None)
    with torch.no_grad():
        ours.eval()(x, r)
    assert len(calls) == 1 and calls[0][3] is r


# ---- the fold ----
CHANGES: dict[str, Any] = {
    "in place": lambda m: m.bn.running_mean.add_(1),
    "weight": lambda m: m.conv.weight.mul_(2),
    "a new parameter": lambda m: setattr(m.bn, "weight", torch.nn.Parameter(m.bn.weight + 1)),
    "a step": lambda m: m.bn.bias.sub_(0.5),
    "state dict": lambda m: m.load_state_dict({name: each + 1 for name, each in m.state_dict().items()}),
    "assigned": lambda m: m.load_state_dict({name: each + 1 for name, each in m.state_dict().items()}, assign=True),
    "eps": lambda m: setattr(m.bn, "eps", 0.5),
    "data": lambda m: setattr(m.conv.weight, "data", m.conv.weight.data * 3),
    "through data, and eval": lambda m: (m.conv.weight.data.mul_(3), m.eval()),
    "a dtype and back": lambda m: m.bfloat16().float(),
    "training": lambda m: (m.train()(tensors()[0]), m.eval()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(change: str) -> None:
    ours, theirs = (each.eval() for each in twins())
    x, _ = tensors()
    with torch.no_grad():
        before = ours(x)
        for model in (ours, theirs):
            CHANGES[change](model)
        after, expected = ours(x), theirs(x)
    torch.testing.assert_close(after, expected)
    assert not torch.equal(after, before)


def test_kept_while_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    folds = counted(monkeypatch)
    ours, _ = twins()
    x, _ = tensors()
    with torch.no_grad():
        for _ in range(3):
            ours.eval.__self__(x)
        assert not folds  # training mode still
        ours.eval()
        for _ in range(3):
            ours(x)
        assert len(folds) == 1
        with torch.inference_mode():
            ours(x)
        assert len(folds) == 1
        ours.bn.bias.add_(1)
        ours(x)
        assert len(folds) == 2
        for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
            assert other._fold._kept is None
            assert torch.equal(other(x), ours(x))
        assert len(folds) == 4


def test_a_fold_made_in_inference_mode_serves_autograd() -> None:
    ours, theirs = (each.eval().requires_grad_(False) for each in twins())
    x, _ = tensors()
    with torch.inference_mode():
        ours(x)
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    for model, leaf in zip((ours, theirs), leaves, strict=True):
        model(leaf).square().sum().backward()
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad)


def test_gradients_in_eval_mode(backend: Target) -> None:
    """Of the layers' own parameters, through the fold, though a fold is kept: to second order."""
    ours, theirs = (each.eval().double().to(backend.device) for each in twins("silu"))
    x, r = (each.to(backend.device) for each in tensors(torch.float64))
    with torch.no_grad():
        ours(x, r)
    results = []
    for model in (ours, theirs):
        leaf = x.clone().requires_grad_()
        inputs = [leaf, *model.parameters()]
        first = torch.autograd.grad(model(leaf, r).square().sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(each.square().sum() for each in first), inputs)
        results.append([*first, *second])
    for mine, torchs in zip(*results, strict=True):
        torch.testing.assert_close(mine, torchs)


# ---- a module like others ----
def test_state_dict_is_of_named_layers() -> None:
    ours, theirs = twins()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert isinstance(ours.conv, nn.Conv2d) and type(ours.bn) is torch.nn.BatchNorm2d
    buffer = io.BytesIO()
    torch.save(ours.state_dict(), buffer)
    buffer.seek(0)
    fresh = nn.ConvBNAct(4, 8, **OPTIONS[0])
    fresh.load_state_dict(torch.load(buffer))
    x, _ = tensors()
    assert torch.equal(fresh.eval()(x), ours.eval()(x))
    assert "activation='relu'" in repr(ours)


@pytest.mark.parametrize("activation", ACTS)
def test_from_modules(activation: str) -> None:
    _, theirs = twins(activation)
    x, r = tensors()
    expected = theirs.eval()(x, r).detach()
    weight = theirs.conv.weight
    ours = nn.ConvBNAct.from_modules(theirs.conv, theirs.bn, theirs.act)
    assert ours.conv.weight is weight and ours.bn is theirs.bn and not ours.training
    torch.testing.assert_close(ours(x, r), expected)
    assert nn.ConvBNAct.from_modules(theirs.conv, theirs.bn.train()).training


def test_from_modules_refuses() -> None:
    conv, bn = torch.nn.Conv2d(4, 8, 3), torch.nn.BatchNorm2d(8)
    with pytest.raises(TypeError, match="conv: expected a Conv2d, got Linear"):
        nn.ConvBNAct.from_modules(torch.nn.Linear(1, 1), bn)
    with pytest.raises(TypeError, match="bn: expected a BatchNorm2d, got GroupNorm"):
        nn.ConvBNAct.from_modules(conv, torch.nn.GroupNorm(2, 8))
    with pytest.raises(ValueError, match="bn: expected 8 features, conv's channels, got 4"):
        nn.ConvBNAct.from_modules(conv, torch.nn.BatchNorm2d(4))
    with pytest.raises(ValueError, match=r"activation: expected a layer of Identity, ReLU, .*got Tanh"):
        nn.ConvBNAct.from_modules(conv, bn, torch.nn.Tanh())
    with pytest.raises(ValueError, match="activation: expected one of"):
        nn.ConvBNAct(1, 1, 1, activation="swish")


def test_what_is_not_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No running statistics, a hook, a reverted convolution, BatchNorm in training mode: the three layers run."""
    folds = counted(monkeypatch)
    x, _ = tensors()
    seen: list[Any] = []
    plain = nn.ConvBNAct(4, 8, 3, track_running_stats=False).eval()
    hooked, _ = twins()
    hooked.eval().bn.register_forward_hook(lambda *_: seen.append(1))
    reverted, _ = twins()
    fastconv.revert(reverted.eval())
    training, _ = twins()
    training.eval().bn.train()
    with torch.no_grad():
        for model in (plain, hooked, reverted, training):
            model(x)
    assert not folds and seen == [1]
    with pytest.raises(ValueError, match="expected 4D input"):
        twins()[0].eval()(x[0])


def test_transforms(native: Target) -> None:
    ours, theirs = (each.eval().to(native.device) for each in twins("silu"))
    x = tensors()[0].to(native.device)
    state = dict(ours.named_parameters())

    def loss(model: Any) -> Any:
        return lambda state: torch.func.functional_call(model, state, (x,)).square().sum()

    mine, torchs = torch.func.grad(loss(ours))(state), torch.func.grad(loss(theirs))(state)
    for name in state:
        torch.testing.assert_close(mine[name], torchs[name])
    with torch.autocast(native.device.type, dtype=torch.bfloat16), torch.no_grad():
        assert ours(x).dtype is torch.bfloat16
        torch.testing.assert_close(ours(x), theirs(x), rtol=0.05, atol=0.05)
