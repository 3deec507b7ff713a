import pytest
import torch

from deepcoro.kernels.attention_kernels import AttentionProblem
from deepcoro.kernels.attention_layout import AttentionLayout
from deepcoro.kernels.attention_plan import plan_kernel
from deepcoro.kernels.library_attention import CUDNN
from tests.kernels.triton_checks import ptx_for_hopper, run_interpreted, run_on_device

CHECKS = "interpreted_position_terms.py"


@pytest.mark.slow
def test_the_kernels_equal_the_oracle_under_the_interpreter():
    run_interpreted(CHECKS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_kernels_equal_the_oracle_on_the_device():
    run_on_device(CHECKS)


@pytest.mark.parametrize("block", [0, 1], ids=["whole", "split"])
def test_the_kernels_compile_for_hopper_without_a_device(block):
    """Blocks 0 and 1 of MViTv2-S: products on tensor cores, loads of 16 bytes."""
    pytest.importorskip("triton")
    from deepcoro.kernels import triton_cell_terms as of_cells
    from deepcoro.kernels import triton_grid_terms as of_grids
    from deepcoro.kernels import triton_position_terms as terms
    from deepcoro.kernels import triton_residual as residual
    from deepcoro.kernels.triton_attention_rows import shape_of

    queries, keys = (((8, 56, 56), (8, 7, 7)), ((8, 28, 28), (8, 14, 14)))[block]
    problem = AttentionProblem(96, queries, keys, True, False, torch.bfloat16, torch.device("cuda"))
    plan = plan_kernel(CUDNN, problem, 1)
    assert (plan.width, plan.split is not None) == (128, bool(block))
    layout = AttentionLayout(queries, keys)
    shape = shape_of(torch.empty(1, 2, 1 + block, plan.width), layout, plan, terms.MAX_TABLE_ROWS)
    half, single, map_ = "*bf16", "*fp32", "*i16"
    signatures = {
        of_grids.complete_kernel: ((half, half, map_, half, half, half), 6, 4),
        of_grids.by_queries_kernel: ((half, half, half, half, map_), 9, 2),
        of_grids.by_places_kernel: ((half, half, half, map_, single), 9, 2),
        of_grids.sum_places_kernel: ((single, map_, single), 0, 2),
        of_cells.complete_kernel: ((half, half, map_, "*i64", half, half, "*i64"), 6, 4),
        of_cells.by_queries_kernel: ((half, half, half, half, map_, "*i64"), 9, 2),
        of_cells.by_tables_kernel: ((half, half, half, map_, "*i64", single), 9, 2),
        residual._residual_kernel: ((half, half, single, single, half, half, single, half), 9, 2),
    }
    for kernel, (pointers, num_strides, num_counts) in signatures.items():
        given = {"pointers": pointers, "strides": ("i32",) * num_strides, "counts": ("i32",) * num_counts}
        given |= {"steps": "i32", "num_programs": "i32"}
        is_residual = kernel is residual._residual_kernel
        form = residual.Shape(1, 1 + block, 96, 128, 96, 1 + block, 1) if is_residual else shape
        rows = {"ROWS": 32, "ROWS_OF_KEYS": 64, "TILE": 256, "COLUMNS": 32}
        constants = {"SHAPE": tuple(form), "WITH_RESIDUAL": 1} | rows
        ptx = ptx_for_hopper(kernel, given, constants, 4, aligned=("strides",))
        assert "ld.global.v4.b32" in ptx or "cp.async.cg" in ptx, kernel.__name__
        has_products = kernel not in (residual._residual_kernel, of_grids.sum_places_kernel)
        assert ("mma" in ptx) == has_products, kernel.__name__
