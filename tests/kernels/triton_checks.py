"""How Triton kernels are tested: a file of checks in a process of its own, interpreted or on the device, and what a GPU would be given."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def run_interpreted(name: str) -> None:
    """The checks of a file beside this one under Triton's interpreter, on CPU."""
    pytest.importorskip("triton")
    _run(name, {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""})


def run_on_device(name: str) -> None:
    _run(name, {})


def _run(name: str, environment: dict[str, str]) -> None:
    checks = Path(__file__).with_name(name)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(checks)]
    result = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout[-3000:]


def ptx_for_hopper(
    kernel: Any, given: dict[str, Any], constants: dict[str, Any], warps: int, aligned: tuple[str, ...] = ()
) -> str:
    """`given`: formats of the arguments that are no constants, in nested tuples; pointers, and numbers in arguments that `aligned`
    names, are multiples of 16. `constants` that the kernel does not take are left out.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    signature = {name: given.get(name, "constexpr") for name in names}
    values = {
        name: tuple(value) if isinstance(value, tuple) else value
        for name, value in constants.items()
        if name in names
    }
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in values.items()},
        attrs={
            path: [["tt.divisibility", 16]]
            for place, name in enumerate(names)
            for path in _multiples(signature[name], (place,), name in aligned)
        },
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
    return compiled.asm["ptx"]


def _multiples(signature: Any, path: tuple[int, ...], numbers_too: bool) -> Iterator[tuple[int, ...]]:
    """Where in nested tuples of arguments the pointers stand, or all that is no constant."""
    if isinstance(signature, tuple):
        for place, inner in enumerate(signature):
            yield from _multiples(inner, (*path, place), numbers_too)
    elif signature.startswith("*") or (numbers_too and signature != "constexpr"):
        yield path
