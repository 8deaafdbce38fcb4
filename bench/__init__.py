"""Benchmarks: fastconv beside torch, in one interleaved run.

    layers.py       what is measured: named layers of well-known nets
    cases.py        one layer, one pass, one layout as two rival calls, their plans and their errors
    timers.py       how it is measured: interleaved rounds on the CPU's clock or by CUDA events
    suite.py        a suite of layers -> rows
    environment.py  what it was measured on
    report.py       rows -> JSON, CSV, Markdown; chart.py -> PNG
    counters.py     the emulator's counts of sectors and wavefronts
    gpu.py          the one GPU command's measurements
    overhead.py     the host's cost of a call;  resources.py  registers and spills

``python -m bench --suite quick --device cpu --out out/bench`` and ``python -m bench counters``.
"""
