import pytest
import torch

from tests.kernels.triton_checks import ptx_for_hopper, run_interpreted, run_on_device

CHECKS = "interpreted_patches.py"


@pytest.mark.slow
def test_gathered_patches_equal_the_convolution_under_the_interpreter():
    run_interpreted(CHECKS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gathered_patches_equal_the_convolution_on_the_device():
    run_on_device(CHECKS)


@pytest.mark.parametrize("side", [0, 8], ids=["dense", "visible"])
def test_the_kernel_compiles_for_hopper_without_a_device(side):
    """What a GPU would be given, down to stores of 16 bytes."""
    pytest.importorskip("triton")
    from deepcoro.kernels import triton_patches as kernels

    grid = (7, 7) if side else (56, 56)
    constants = {"SHAPE": (16, 224, 224, *grid, side, 504, 512), "ROWS": kernels.ROWS}
    tables = ("*i64", "*u8") if side else ("*bf16", "*bf16")
    given = {"pointers": ("*bf16", *tables, "*bf16"), "counts": ("i32",) * 3}
    ptx = ptx_for_hopper(kernels._gather_kernel, given, constants, kernels.WARPS)
    assert "st.global.v4.b32" in ptx
    if not side:
        assert "ld.global.v2.b32" in ptx
