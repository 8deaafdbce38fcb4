"""Recognises a call like one before, in less time than it takes to ask its tensors for their shapes.

torch.compile must decide before every call whether its compiled code still fits, and has a native check for that:
``TensorGuards`` compares, in one go and without making Python objects, each tensor's exact type, shape, strides, dtype,
device, requires_grad and dispatch keys with those of an example. The dispatch keys include what the thread is doing:
autocast, inference mode, functorch transforms, dispatch modes and tracing all make the check fail, as do conjugate and
negative views, sparse, quantised, fake and batched tensors. A call that passes may do what the example did.

The class is not public. It is tried out at import, and where it is missing or acts otherwise every call goes the long
way (functional.py), which is correct by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Check = Callable[..., bool]
Run = Callable[..., Any]

#: call key -> the calls of that key met before, each: its tensors' check, what runs it, what the key's ids belong to
known: dict[Any, list[tuple[Check, Run, Any]]] = {}

#: Calls with one key differ in their tensors' shapes; each check that fails costs some 0.1 us.
MOST_OF_A_KEY = 8
MOST_KEYS = 4096


def _make_check(*tensors: Tensor) -> Check:
    return torch._C._dynamo.guards.TensorGuards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None).check


def _works() -> bool:
    """Whether TensorGuards exists and sees every difference that matters here."""
    x, y = torch.empty(2, 3), torch.empty(3)
    others = (torch.empty(3, 2), torch.empty(3, 2).T, x.double(), x.detach().requires_grad_(), torch._neg_view(x), None)
    try:
        check = _make_check(x, y)
        if not check(x, y) or any(check(other, y) for other in others):
            return False
        with torch.autocast("cpu"):
            return not check(x, y)
    except Exception:  # an unknown torch: whatever it raises, the answer is no
        return False


_usable = _works()


def remember(key: Any, held: Any, run: Run, *tensors: Tensor) -> None:
    """From now on ``run`` may serve calls whose key is ``key`` and whose tensors are like these.

    ``key`` is made of ids, for speed: ``held`` keeps their objects alive, so that an id stays what it is. Where an id
    is only a hint (a weight's), its object need not be held: the check decides.
    """
    if not _usable:
        return
    if len(known) >= MOST_KEYS:
        known.clear()
    calls = known.setdefault(key, [])
    if len(calls) < MOST_OF_A_KEY:
        calls.append((_make_check(*tensors), run, held))
