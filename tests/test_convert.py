"""convert and revert on whole models: nothing about a module changes but its class."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from conftest import Target
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import fastconv
from fastconv.testing import random_tensor


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), nn.Tanh(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(16 * 2 * 2, 10),
    )  # fmt: skip


class Residual(nn.Module):
    def __init__(self, c: int, k: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(c, k, 3, stride, 1, bias=False), nn.BatchNorm2d(k), nn.ReLU(inplace=True),
            nn.Conv2d(k, k, 3, 1, 1, bias=False), nn.BatchNorm2d(k),
        )  # fmt: skip
        self.short = nn.Conv2d(c, k, 1, stride, bias=False) if stride > 1 or c != k else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.short(x))


def resnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 7, 2, 3), nn.MaxPool2d(3, 2, 1), Residual(4, 4, 1), Residual(4, 8, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )  # fmt: skip


def mobilenet() -> nn.Module:
    def separable(c: int, k: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(c, c, 3, stride, 1, groups=c), nn.ReLU6(), nn.Conv2d(c, k, 1), nn.ReLU6()]

    return nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, "valid"), *separable(4, 8, 1), *separable(8, 12, 2), nn.AvgPool2d(2),
        nn.Flatten(), nn.LazyLinear(10),
    )  # fmt: skip


def autoencoder() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(4, 3, 2, 2), nn.ReLU(), nn.ConvTranspose2d(3, 1, 3),
    )  # fmt: skip


def volume() -> nn.Module:
    """Patches of a volume, and what is along and across them."""
    return nn.Sequential(
        nn.Unflatten(2, (2, 9)), nn.Conv3d(1, 4, (2, 3, 3), (2, 3, 3)), nn.ConvTranspose3d(4, 2, 2), nn.MaxPool3d(2, 1),
        nn.AvgPool3d((1, 2, 2), 1), nn.Flatten(2),
        nn.Conv1d(2, 4, 5, padding="same", padding_mode="circular"), nn.ConvTranspose1d(4, 2, 3, 2),
        nn.MaxPool1d(3, 2, 1), nn.AvgPool1d(2, ceil_mode=True),
    )  # fmt: skip


MODELS: list[Callable[[], nn.Module]] = [lenet, resnet, mobilenet, autoencoder, volume]


def step(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    y = model(x)
    y.square().sum().backward()
    return [y.detach(), *(parameter.grad.clone() for parameter in model.parameters())]


@pytest.mark.parametrize("build", MODELS)
def test_models(native: Target, build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    x = random_tensor((2, 1, 18, 18), torch.float64, seed=1, device=native.device)
    model = build().to(native.device, torch.float64)
    model(x)
    model.eval()
    parameters = dict(model.named_parameters())
    classes = {name: type(module) for name, module in model.named_modules()}
    shown, expected = repr(model), step(model, x)

    assert fastconv.convert(model) is model
    report = fastconv.report(model)
    assert (
        report.converted == len(report.layers) == sum(isinstance(m, tuple(fastconv.nn.LAYERS)) for m in model.modules())
    )
    assert all(type(m).__module__ == "fastconv.nn" for m in model.modules() if isinstance(m, tuple(fastconv.nn.LAYERS)))
    assert repr(model) == shown and not model.training
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
    for ours, theirs in zip(step(model, x), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    fastconv.convert(model)  # again: nothing more

    assert fastconv.revert(model) is model
    assert {name: type(module) for name, module in model.named_modules()} == classes
    assert all(torch.equal(a, b) for a, b in zip(step(model, x), expected, strict=True))


def test_hooks_survive() -> None:
    model = lenet()
    calls: list[str] = []
    model[0].register_forward_hook(lambda *_: calls.append("forward"))
    model[0].register_forward_pre_hook(lambda *_: calls.append("pre"))
    model[0].register_full_backward_hook(lambda *_: calls.append("backward"))
    step(fastconv.convert(model), random_tensor((2, 1, 18, 18), seed=1).requires_grad_())
    assert calls == ["pre", "forward", "backward"]


def test_shared_modules_and_optimizers() -> None:
    shared = nn.Conv2d(1, 1, 3, padding=1)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared, shared)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fastconv.convert(model)
    assert model["a"] is model["b"][0] is model["b"][1] is shared
    before = shared.weight.detach().clone()
    model["b"](random_tensor((1, 1, 5, 5), seed=1)).sum().backward()
    optimizer.step()
    assert not torch.equal(shared.weight, before)


def test_one_layer_as_the_model() -> None:
    layer = fastconv.convert(nn.MaxPool2d(2))
    assert type(layer) is fastconv.nn.MaxPool2d
    assert type(fastconv.revert(layer)) is nn.MaxPool2d


@pytest.mark.parametrize("normalise", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrizations(normalise: Callable[[nn.Module], nn.Module]) -> None:
    layer = normalise(nn.Conv2d(2, 3, 3)).eval()
    x = random_tensor((1, 2, 6, 5), seed=1)
    expected = layer(x)
    fastconv.convert(layer)
    assert isinstance(layer, fastconv.nn.Conv2d) and parametrize.is_parametrized(layer)
    assert fastconv.report(layer).converted == 1
    torch.testing.assert_close(layer(x), expected)
    layer(x).sum().backward()
    reverted = fastconv.revert(copy.deepcopy(layer))
    assert not isinstance(reverted, fastconv.nn.Conv2d) and parametrize.is_parametrized(reverted)
    torch.testing.assert_close(reverted(x), expected)
    parametrize.remove_parametrizations(layer, "weight")
    assert type(layer) is fastconv.nn.Conv2d
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.filterwarnings("ignore")
def test_old_weight_norm() -> None:
    layer = nn.utils.weight_norm(nn.Conv2d(2, 3, 3))
    x = random_tensor((1, 2, 6, 5), seed=1)
    expected = layer(x)
    torch.testing.assert_close(fastconv.convert(layer)(x), expected)
    layer(x).sum().backward()
    assert layer.weight_v.grad is not None


class Named(nn.Conv2d):
    """A user's layer that keeps torch's forward."""

    def __init__(self, *args: int) -> None:
        super().__init__(*args)
        self.note = "mine"

    def describe(self) -> str:
        return self.note


class Scaled(nn.Conv2d):
    """A user's layer with a forward of its own."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) * 2


def test_users_subclass_without_a_forward() -> None:
    layer = Named(2, 3, 3)
    x = random_tensor((1, 2, 6, 5), seed=1)
    expected, shown = layer(x), repr(layer)
    fastconv.convert(layer)
    assert isinstance(layer, Named) and isinstance(layer, fastconv.nn.Conv2d)
    assert layer.describe() == "mine" and repr(layer) == shown
    for clone in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert isinstance(clone, Named) and isinstance(clone, fastconv.nn.Conv2d)
        torch.testing.assert_close(clone(x), expected)
        assert type(fastconv.revert(clone)) is Named


def test_what_is_left_alone_says_why() -> None:
    patched = nn.Conv2d(2, 3, 3)
    patched.forward = lambda x: x  # type: ignore[method-assign]
    model = nn.ModuleDict(
        {
            "scaled": Scaled(2, 3, 3),
            "lazy": nn.LazyConv2d(3, 3),
            "patched": patched,
            "other": nn.LPPool2d(2, 2),
            "good": nn.Conv2d(2, 3, 3),
        }
    )
    classes = {name: type(module) for name, module in model.items()}
    fastconv.convert(model)
    reasons = {layer.name: layer.reason for layer in fastconv.report(model).layers}
    assert "own forward" in reasons["scaled"]
    assert "lazy" in reasons["lazy"]
    assert "on the instance" in reasons["patched"]
    assert "other" not in reasons, "neither a convolution nor a pooling that we have"
    assert reasons["good"] == ""
    assert all(type(model[name]) is classes[name] for name in classes if name != "good")
    text = str(fastconv.report(model))
    assert "1 of 4" in text and all(name in text for name in reasons)


def test_a_converted_model_saves_and_loads() -> None:
    model = fastconv.convert(lenet())
    x = random_tensor((2, 1, 18, 18), seed=1)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=False)(x), model(x))
    twin = lenet()
    twin.load_state_dict(model.state_dict())
    torch.testing.assert_close(twin(x), model(x))


def test_dtype_device_and_mode_are_kept() -> None:
    model = lenet().double().train(False).to(memory_format=torch.channels_last)
    fastconv.convert(model)
    assert not model[0].training and model[0].weight.dtype == torch.float64
    assert model[3].weight.is_contiguous(memory_format=torch.channels_last)


def test_only_modules() -> None:
    for function in (fastconv.convert, fastconv.revert, fastconv.report):
        with pytest.raises(TypeError, match="model"):
            function(3)
