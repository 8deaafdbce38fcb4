"""Which kernel runs each layer of a net, pass by pass, from the plans."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

import fastconv


class LayerKernels(NamedTuple):
    """One layer: its name in the net, what it is, and for each pass the kernel ("" where the pass is not needed)."""

    name: str
    layer: str
    forward: str
    input_gradient: str
    weight_gradient: str


def kernels_of(model: nn.Module, images: Tensor) -> list[LayerKernels]:
    """The kernels that a training step of ``model`` on ``images`` uses, in the backend now in force."""
    seen: list[tuple[str, nn.Module, Tensor]] = []
    hooks = [
        module.register_forward_pre_hook(lambda module, inputs, name=name: seen.append((name, module, inputs[0])))
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d))
    ]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return [_row(name, module, x, needs_input_gradient=position > 0) for position, (name, module, x) in enumerate(seen)]


def _row(name: str, module: nn.Module, x: Tensor, needs_input_gradient: bool) -> LayerKernels:
    if isinstance(module, nn.Conv2d):
        settings = module.stride, module.padding, module.dilation, module.groups
        call = ("conv2d", x, module.weight, module.bias, *settings)
    elif isinstance(module, nn.MaxPool2d):
        geometry = module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode
        call = ("max_pool2d", x, *geometry)
    else:
        geometry = module.kernel_size, module.stride, module.padding, module.ceil_mode
        call = ("avg_pool2d", x, *geometry, module.count_include_pad, module.divisor_override)

    def kernel(pass_: str) -> str:
        return fastconv.plan(*call, pass_=pass_).kernel

    return LayerKernels(
        name,
        _describe(module),
        kernel("fprop"),
        kernel("dgrad") if needs_input_gradient else "",
        kernel("wgrad") if isinstance(module, nn.Conv2d) else "",
    )


def _describe(module: nn.Module) -> str:
    rows, columns = torch.nn.modules.utils._pair(module.kernel_size)
    if isinstance(module, nn.Conv2d):
        return f"conv {rows}×{columns}, {module.in_channels} → {module.out_channels}"
    return f"{'max' if isinstance(module, nn.MaxPool2d) else 'average'} pool {rows}×{columns}"
