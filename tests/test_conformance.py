"""Every primitive of csrc/device against an independent numpy oracle, on the same random inputs in the emulator (under
every schedule and poison) and on the GPU where there is one. Exact operations are compared bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from kernel_lab import MODES, configured, emulate, fragments, lab, run_on_gpu

F32_SPECIALS = np.array(
    [
        *(0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-40, 65504.0, 65519.9, 65520.0, 6.1e-5, 5.9e-8, 2.9e-8, 3.4e38),
        # Halfway between neighbours of float16 and of tf32, and beyond.
        *(1 + 2.0**-11, 1 + 2.0**-11 + 2.0**-20, 1 + 2.0**-9, -1 - 3 * 2.0**-9),
    ],
    dtype=np.float32,
)


@dataclass(frozen=True)
class Primitive:
    """How to run a test kernel: its arrays (the output last), and what it must compute from them."""

    make: Callable[[np.random.Generator], Sequence[np.ndarray]]
    oracle: Callable[..., np.ndarray]
    launch: dict = field(default_factory=dict)
    integers: Sequence[int] = ()
    tolerance: float = 0.0  # relative; 0: bit for bit
    decode: Callable[[np.ndarray], np.ndarray] = np.asarray  # what is compared: NaNs of other bits are equal


def _floats(rng, *shape, dtype=np.float32):
    return rng.standard_normal(shape).astype(dtype)


def _blank(*shape, dtype=np.float32):
    return np.full(shape, 85, dtype=dtype)


def _bytes(size: int, count: int = 64):
    dtype = np.dtype(f"V{size}")
    return lambda rng: [rng.integers(0, 256, count * size, dtype=np.uint8).view(dtype), *2 * [np.zeros(count, dtype)]]


def _indices_oracle(*_):
    rows = []
    for bz, by, bx in np.ndindex(2, 3, 2):
        for thread, (tz, ty, tx) in enumerate(np.ndindex(2, 3, 8)):
            rows.append([tx + 100 * ty + 10000 * tz, bx + 100 * by + 10000 * bz, thread // 32, thread % 32])
    return np.array(rows, np.int32)


def _predicates_oracle(x, *_):
    t = np.arange(64)
    sums = np.where(t % 2 == 0, x + x, np.float32(100))
    return np.where(t % 3 == 0, np.float32(85), sums)


def _votes_oracle(x, *_):
    on = x > 0
    return np.tile(np.array([on.any(), on.all(), on.sum(), 0], np.int32), (64, 1))


def _named_oracle(x, *_):
    return np.concatenate([x[:32] + x[32:64], x[(np.arange(32, 96) + 32) % 64]])


def _butterfly(warp):
    for m in (16, 8, 4, 2, 1):
        warp = warp + warp[np.arange(32) ^ m]
    return warp


def _shuffles_oracle(x, *_):
    lane, out = np.arange(32), []
    for warp in x.reshape(2, 32):
        half = lane // 16 * 16 + ((lane % 16) ^ 5)
        picks = [
            (5 * np.arange(32) + 3) % 32,
            lane ^ 9,
            np.where(lane + 4 < 32, lane + 4, lane),
            np.where(lane >= 7, lane - 7, lane),
            half,
        ]
        out.append(np.stack([*(warp[p] for p in picks), _butterfly(warp)], axis=1))
    # Lane t of the second warp asks for (5 t + 3) % 32 with t = 32 + lane: the same lane.
    return np.concatenate(out)


def _warp_votes_oracle(x, *_):
    rows = []
    for warp in x.reshape(2, 32):
        ballot = int(sum(1 << i for i, v in enumerate(warp) if v > 0))
        rows.append(np.tile(np.array([ballot, (warp > 1).any(), (warp > -1).all(), warp.max()], np.int64), (32, 1)))
    return np.concatenate(rows).astype(np.uint32).view(np.int32)


STEPS = 7


def _cp_async(size: int) -> Primitive:
    words = size // 4

    def oracle(x, *_):
        tile = x.reshape(STEPS * 64, words).copy()
        tile[::5] = 0
        return tile.reshape(STEPS, 64, words)[:, ::-1].reshape(x.shape)

    def make(rng):
        x = rng.integers(0, 2**32, STEPS * 64 * words, dtype=np.uint32)
        return [x, np.zeros(1, np.uint32), np.zeros_like(x)]

    return Primitive(make, oracle, {"shared_bytes": 3 * 64 * size}, [STEPS])


def _ldmatrix(matrices: int, transposed: bool) -> Primitive:
    def oracle(tile, *_):
        rows = tile.reshape(32, 8)
        out = np.zeros((32, matrices, 2), np.uint16)
        for m in range(matrices):
            matrix = rows[[5 * lane % 32 for lane in range(8 * m, 8 * m + 8)]]
            matrix = matrix.T if transposed else matrix
            out[:, m] = matrix.reshape(32, 2)  # lane l: row l / 4, columns 2 (l % 4) and the next
        return out.reshape(-1).view(np.uint32)

    def make(rng):
        return [
            rng.integers(0, 2**16, 256, dtype=np.uint16),
            np.zeros(1, np.uint16),
            np.zeros(32 * matrices, np.uint32),
        ]

    return Primitive(make, oracle, {"block": (32, 1, 1)})


def _round(values: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """float32 values to the bits of a 16-bit type, by torch."""
    return torch.from_numpy(values).to(dtype).view(torch.int16).numpy().view(np.uint16)


def _widen(bits: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    return torch.from_numpy(bits.view(np.int16)).view(dtype).float().numpy()


def _mma(dtype: torch.dtype | str, k: int, integers: bool) -> Primitive:
    layout = fragments(k, 1 if dtype == "tf32" else 2)

    def operand(rng, *shape):
        values = rng.integers(-8, 9, shape).astype(np.float32) if integers else _floats(rng, *shape)
        return values if dtype == "tf32" else _round(values, dtype)

    def value(registers, place, shape):
        bits = registers if dtype == "tf32" else registers.view(np.uint16)
        matrix = np.zeros(shape)
        if dtype == "tf32":  # the low 13 bits do not count
            matrix[place] = (bits & 0xFFFFE000).view(np.float32)
        else:
            matrix[place] = _widen(bits, dtype)
        return matrix

    def make(rng):
        return [*layout.pack(operand(rng, 16, k), operand(rng, k, 8)), np.zeros((32, 4), np.float32)]

    def oracle(a, b, _):
        return (3 + value(a, layout.a, (16, k)) @ value(b, layout.b, (k, 8)))[layout.d]

    return Primitive(make, oracle, {"block": (32, 1, 1)}, [3], 0.0 if integers else 1e-6)


def _atomic_add(dtype) -> Primitive:
    def make(rng):
        low = 0 if np.dtype(dtype).kind == "u" else -100
        return [rng.integers(low, 100, 64).astype(dtype), np.zeros(1, dtype), np.zeros(8, dtype)]

    return Primitive(make, lambda x, *_: np.tile(x.reshape(16, 4).sum(0).astype(dtype), 2))


def _atomic_extrema(dtype) -> Primitive:
    def make(rng):
        low = 0 if np.dtype(dtype).kind == "u" else -3000
        return [rng.integers(low, 3000, 64).astype(dtype), np.zeros(1, dtype), np.full(4, 1000, dtype)]

    return Primitive(make, lambda x, *_: np.array(2 * [max(x.max(), 1000), min(x.min(), 1000)], dtype))


def _arithmetic_oracle(x, y, _):
    exact = x.astype(np.longdouble) * y - x  # 64 bits of mantissa hold the product of two floats exactly
    columns = [
        exact,
        np.minimum(x, y) + 2 * np.maximum(x, y),
        (np.arange(64) + 6) // 7,
        1 / np.sqrt(x.astype(np.float64) ** 2 + 1),
    ]
    return np.stack(columns, axis=1).astype(np.float64)


def _round_tf32_oracle(x, *_):
    bits = x.view(np.uint32)
    rounded = (bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
    return np.where(np.isfinite(x), rounded, bits)


def _specials(rng):
    return np.concatenate(
        [F32_SPECIALS, _floats(rng, 64 - len(F32_SPECIALS)) * 10.0 ** rng.integers(-8, 5, 64 - len(F32_SPECIALS))]
    )


def _narrow(dtype: torch.dtype) -> Primitive:
    def make(rng):
        return [_specials(rng).astype(np.float32), np.zeros(1), np.zeros(64, np.uint16)]

    return Primitive(make, lambda x, *_: _round(x, dtype), decode=lambda bits: _widen(bits, dtype))


def _widen_all(dtype: torch.dtype) -> Primitive:
    every = np.arange(2**16, dtype=np.uint16)
    return Primitive(
        lambda rng: [every, np.zeros(1), np.zeros(2**16, np.float32)],
        lambda x, *_: _widen(x, dtype),
        {"grid": (64, 1, 1), "block": (1024, 1, 1)},
    )


PRIMITIVES: dict[str, Primitive] = {
    "indices": Primitive(
        lambda rng: [np.zeros(1), np.zeros(1), _blank(2 * 3 * 2 * 48, 4, dtype=np.int32)],
        _indices_oracle,
        {"grid": (2, 3, 2), "block": (8, 3, 2)},
    ),
    **{f"copy_{n}": Primitive(_bytes(n), lambda x, *_: x) for n in (1, 2, 4, 8, 16)},
    "predicates": Primitive(lambda rng: [_floats(rng, 64), np.zeros(1), _blank(64)], _predicates_oracle),
    **{f"reverse_static_{n}": Primitive(_bytes(n), lambda x, *_: x[::-1]) for n in (1, 2, 4, 8, 16)},
    **{
        f"reverse_dynamic_{n}": Primitive(_bytes(n), lambda x, *_: x[::-1], {"shared_bytes": 256 + 64 * n})
        for n in (4, 8, 16)
    },
    "block_votes": Primitive(
        lambda rng: [rng.integers(0, 2, 64, dtype=np.int32), np.zeros(1), _blank(64, 4, dtype=np.int32)], _votes_oracle
    ),
    "warp_sync": Primitive(
        lambda rng: [_floats(rng, 64), np.zeros(1), _blank(64)],
        lambda x, *_: np.roll(x.reshape(2, 32), -2, axis=1).reshape(-1),
    ),
    "named_barriers": Primitive(
        lambda rng: [_floats(rng, 64), np.zeros(1), _blank(96)], _named_oracle, {"block": (96, 1, 1)}
    ),
    "shuffles_4": Primitive(lambda rng: [_floats(rng, 64), np.zeros(1), _blank(64, 6)], _shuffles_oracle),
    "shuffles_8": Primitive(
        lambda rng: [_floats(rng, 64, dtype=np.float64), np.zeros(1), _blank(64, 6, dtype=np.float64)], _shuffles_oracle
    ),
    "warp_votes": Primitive(
        lambda rng: [rng.integers(-1, 3, 64, dtype=np.int32), np.zeros(1), _blank(64, 4, dtype=np.int32)],
        _warp_votes_oracle,
    ),
    **{f"cp_async_{n}": _cp_async(n) for n in (4, 8, 16)},
    **{f"ldmatrix_x{n}{'_trans' * t}": _ldmatrix(n, bool(t)) for n in (1, 2, 4) for t in (0, 1)},
    **{
        f"mma_m16n8k{k}_{name}": _mma(dtype, k, integers=False)
        for name, dtype, ks in (
            ("f16", torch.float16, (16, 8)),
            ("bf16", torch.bfloat16, (16, 8)),
            ("tf32", "tf32", (8, 4)),
        )
        for k in ks
    },
    "atomic_add_f32": _atomic_add(np.float32),
    "atomic_add_f64": _atomic_add(np.float64),
    "atomic_add_i32": _atomic_add(np.int32),
    "atomic_add_u32": _atomic_add(np.uint32),
    "atomic_add_u64": _atomic_add(np.uint64),
    "atomic_extrema_i32": _atomic_extrema(np.int32),
    "atomic_extrema_u32": _atomic_extrema(np.uint32),
    "atomic_extrema_u64": _atomic_extrema(np.uint64),
    "arithmetic": Primitive(
        lambda rng: [_floats(rng, 64), _floats(rng, 64), _blank(64, 4)], _arithmetic_oracle, tolerance=3e-7
    ),
    "round_tf32": Primitive(
        lambda rng: [_specials(rng).astype(np.float32), np.zeros(1), np.zeros(64, np.uint32)], _round_tf32_oracle
    ),
    "narrow_f16": _narrow(torch.float16),
    "narrow_bf16": _narrow(torch.bfloat16),
    "widen_f16": _widen_all(torch.float16),
    "widen_bf16": _widen_all(torch.bfloat16),
}
# The tensor cores on small integers: every sum is exact, whatever the order.
EXACT_MMA = {
    name: _mma(
        {"f16": torch.float16, "bf16": torch.bfloat16}.get(name.split("_")[-1], "tf32"),
        int(name.split("k")[1].split("_")[0]),
        True,
    )
    for name in PRIMITIVES
    if name.startswith("mma")
}
CASES = [*PRIMITIVES.items(), *EXACT_MMA.items()]
IDS = [*PRIMITIVES, *(f"{name}-integers" for name in EXACT_MMA)]


def _check(primitive: Primitive, arrays: Sequence[np.ndarray], result: np.ndarray) -> None:
    expected = primitive.oracle(*arrays)
    if primitive.tolerance:
        scale = np.maximum(np.abs(expected), 1)
        np.testing.assert_array_less(np.abs(result - expected) / scale, primitive.tolerance)
        return
    expected = np.asarray(expected).astype(result.dtype).reshape(result.shape)
    _assert_same(primitive, result, expected)


def _assert_same(primitive: Primitive, result: np.ndarray, expected: np.ndarray) -> None:
    if result.dtype.kind == "V":
        result, expected = (np.ascontiguousarray(x).view(np.uint8) for x in (result, expected))
    np.testing.assert_array_equal(primitive.decode(result), primitive.decode(expected))


def _arrays(name: str, primitive: Primitive) -> list[np.ndarray]:
    rng = np.random.default_rng([ord(c) for c in name])
    return [np.ascontiguousarray(array) for array in primitive.make(rng)]


def test_every_test_kernel_has_an_oracle():
    assert sorted(lab("_emutest").kernels()) == sorted(PRIMITIVES)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "primitive"), CASES, ids=IDS)
def test_emulator(name: str, primitive: Primitive, mode: str):
    arrays = _arrays(name, primitive)
    given = [array.copy() for array in arrays]
    with configured(**MODES[mode], race_check=True):
        emulate(name, arrays, primitive.integers, **primitive.launch)
    _check(primitive, given, arrays[-1])


@pytest.mark.cuda
@pytest.mark.parametrize(("name", "primitive"), CASES, ids=IDS)
def test_gpu(name: str, primitive: Primitive):
    if not torch.cuda.is_available():
        pytest.skip("no GPU: torch.cuda.is_available() is False")
    arrays = _arrays(name, primitive)
    given, emulated = [array.copy() for array in arrays], [array.copy() for array in arrays]
    run_on_gpu(name, arrays, primitive.integers, **primitive.launch)
    _check(primitive, given, arrays[-1])
    if not primitive.tolerance:
        emulate(name, emulated, primitive.integers, **primitive.launch)
        _assert_same(primitive, arrays[-1], emulated[-1])
