import pytest
import torch

from deepcoro.kernels.token_pooling import pool_tokens
from tests.kernels.pooling_cases import Case, make_tokens
from tests.kernels.triton_checks import ptx_for_hopper, run_interpreted, run_on_device

CHECKS = "interpreted_pooling.py"


@pytest.mark.slow
def test_the_kernels_equal_the_oracle_under_the_interpreter():
    run_interpreted(CHECKS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_kernels_equal_the_oracle_on_the_device():
    run_on_device(CHECKS)


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
TABLES, OF_ROWS = (TABLE,) * 3, {"heads": "i32", "parts": (THREE,) * 4}
SPARSE = {
    "forward_kernel": {
        "pointers": (HALF, SINGLE, TABLES, (HALF,) * 3),
        "strides": FOUR,
        "numbers": (*EPS_AND_SCALES, THREE),
        **OF_ROWS,
    },
    "norm_backward_kernel": {
        "pointers": (HALF, SINGLE, TABLES, (HALF,) * 3, HALF, HALF, SINGLE),
        "strides": (FOUR, (THREE,) * 3, FOUR),
        "numbers": EPS_AND_SCALES,
        **OF_ROWS,
    },
    "token_gradient_kernel": {
        "pointers": (HALF, SINGLE, TABLES, HALF),
        "strides": FOUR,
        "counts": TWO,
        **OF_ROWS,
    },
    "weight_gradient_kernel": {"pointers": (HALF, HALF, TABLES, SINGLE), "strides": FOUR, **OF_ROWS},
}


@pytest.mark.parametrize(
    ("kind", "name"), [("dense", name) for name in DENSE] + [("sparse", name) for name in SPARSE]
)
def test_the_kernels_compile_for_hopper_without_a_device(kind, name):
    """What a GPU would be given: loads of 16 bytes (8 where a thread has the totals of 27 taps)."""
    pytest.importorskip("triton")
    from deepcoro.kernels import (
        triton_dense_gradients,
        triton_dense_pooling,
        triton_pooling,
        triton_sparse_kernels,
    )

    of_taps = kind == "dense" and name == "weight_gradient_kernel"
    columns = triton_pooling.COLUMNS_OF_WEIGHT_GRADIENT if of_taps else 128
    if kind == "dense":
        home = triton_dense_pooling if name == "forward_kernel" else triton_dense_gradients
        rows = triton_pooling.ROWS_OF_WEIGHT_GRADIENT if of_taps else triton_pooling.ROWS
        kernel, given, shape = getattr(home, name), DENSE[name], (8, 1, 1, 96, columns, 8)
    else:
        rows = 16 if name == "weight_gradient_kernel" else 32
        kernel, given, shape = getattr(triton_sparse_kernels, name), SPARSE[name], (1, 1, 1, 96, columns, 8)
    constants = {"SHAPE": triton_dense_pooling.Shape(*shape), "ROWS": rows}
    warps = triton_pooling.WARPS_OF_WEIGHT_GRADIENT if of_taps else 4 if kind == "dense" else 8
    ptx = ptx_for_hopper(kernel, given, constants, warps)
    assert f"ld.global.{'v2' if of_taps else 'v4'}.b32" in ptx
    assert "ld.global.b16" not in ptx


@pytest.mark.parametrize("turned", [False, True])
def test_the_tables_of_visible_units_compile_for_hopper_without_a_device(turned):
    pytest.importorskip("triton")
    from deepcoro.kernels import triton_unit_tables

    given = {"pointers": ("*i64", TABLE, TABLE), "units": FOUR, "sides": TWO}
    ptx_for_hopper(triton_unit_tables.table_kernel, given, {"TURNED": turned, "ROWS": 64}, warps=4)
    given = {
        "visible": "*i64",
        "out": "*i64",
        "num_units": "i32",
        "height": "i32",
        "width": "i32",
        "side": "i32",
    }
    ptx_for_hopper(triton_unit_tables.positions_kernel, given, {"ROWS": 1024}, warps=4)
