import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from deepcoro.kernels.token_pooling import pool_tokens
from tests.kernels.pooling_cases import Case, make_tokens

CHECKS = Path(__file__).with_name("interpreted_pooling.py")


def run_checks(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CHECKS)]
    root = CHECKS.parents[2]
    result = subprocess.run(
        command, cwd=root, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout[-3000:]


def test_the_kernels_equal_the_oracle_under_the_interpreter():
    pytest.importorskip("triton")
    run_checks({"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_kernels_equal_the_oracle_on_the_device():
    run_checks({})


def test_triton_on_a_processor_is_refused_with_a_remedy():
    pytest.importorskip("triton")
    case = Case((2, 4, 4), 1)
    layout = case.layout()
    tokens, pool_filter = make_tokens(case, layout)
    with pytest.raises(ValueError, match="needs CUDA tensors"):
        pool_tokens(tokens, pool_filter, layout, backend="triton")


HALF, SINGLE, TABLE = "*bf16", "*fp32", "*i32"
FOUR, THREE, TWO = ("i32",) * 4, ("i32",) * 3, ("i32",) * 2
OF_PARTS = {"film": FOUR, "parts": (THREE,) * 8}
EPS_AND_SCALES = ("fp32", ("fp32",) * 3)
DENSE = {
    "forward_kernel": {
        "pointers": (HALF, SINGLE, (HALF,) * 3),
        "strides": FOUR,
        "numbers": (*EPS_AND_SCALES, THREE),
        **OF_PARTS,
    },
    "norm_backward_kernel": {
        "pointers": (HALF, SINGLE, (HALF,) * 3, HALF, HALF, SINGLE),
        "strides": (FOUR, (THREE,) * 3, THREE),
        "numbers": EPS_AND_SCALES,
        **OF_PARTS,
    },
    "token_gradient_kernel": {"pointers": (HALF, SINGLE, HALF), "strides": FOUR, **OF_PARTS},
    "weight_gradient_kernel": {"pointers": (HALF, HALF, SINGLE), "strides": FOUR, **OF_PARTS},
}
COUNTS = {"counts": TWO, "numbers": ("fp32",) * 2}
SPARSE = {
    "_forward_kernel": {"pointers": (HALF, *[SINGLE] * 3, TABLE, HALF), "strides": THREE, **COUNTS},
    "_norm_backward_kernel": {
        "pointers": (HALF, *[SINGLE] * 2, TABLE, *[HALF] * 3, SINGLE),
        "strides": ("i32",) * 10,
        **COUNTS,
    },
    "_token_gradient_kernel": {"pointers": (HALF, SINGLE, TABLE, HALF), "strides": THREE, **COUNTS},
    "_weight_gradient_kernel": {"pointers": (HALF, HALF, TABLE, SINGLE), "strides": THREE, **COUNTS},
}


@pytest.mark.parametrize("name", [*DENSE, *SPARSE])
def test_the_kernels_compile_for_hopper_without_a_device(name):
    """What a GPU would be given: loads of 16 bytes (8 where a thread has the totals of 27 taps)."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from deepcoro.kernels import (
        triton_dense_gradients,
        triton_dense_pooling,
        triton_pooling,
        triton_sparse_pooling,
    )

    of_taps = name == "weight_gradient_kernel"
    columns = triton_pooling.COLUMNS_OF_WEIGHT_GRADIENT if of_taps else 128
    rows = triton_pooling.ROWS_OF_WEIGHT_GRADIENT if of_taps else triton_pooling.ROWS
    if name in DENSE:
        home = triton_dense_pooling if name == "forward_kernel" else triton_dense_gradients
        kernel, given = getattr(home, name), DENSE[name]
        constants = {"SHAPE": triton_dense_pooling.Shape(8, 1, 1, 96, columns, 8), "ROWS": rows}
    else:
        kernel, given = getattr(triton_sparse_pooling, name), SPARSE[name]
        constants = {"SHAPE": triton_sparse_pooling.Shape(1, 2, 96, 128, 136), "ROWS": 32}
    signature = {each: given.get(each, "constexpr") for each in kernel.arg_names}
    # steps in memory are given to dense kernels in units
    divisible = ["pointers"] if name in DENSE else ["pointers", "strides"]
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(kernel.arg_names.index(each),): tuple_of(value) for each, value in constants.items()},
        attrs={
            path: [["tt.divisibility", 16]]
            for each in divisible
            for path in leaves(signature[each], (kernel.arg_names.index(each),))
        },
    )
    warps = triton_pooling.WARPS_OF_WEIGHT_GRADIENT if of_taps else 4 if name in DENSE else 8
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
    assert f"ld.global.{'v2' if of_taps else 'v4'}.b32" in compiled.asm["ptx"]
    # the step between channels of a gradient is not known to the kernels of sparse layouts
    assert name in SPARSE or "ld.global.b16" not in compiled.asm["ptx"]


def tuple_of(value):
    return tuple(value) if isinstance(value, tuple) else value


def leaves(signature, path):
    """Where in nested tuples of arguments a single one stands."""
    if isinstance(signature, str):
        return [path]
    return [leaf for place, each in enumerate(signature) for leaf in leaves(each, (*path, place))]
