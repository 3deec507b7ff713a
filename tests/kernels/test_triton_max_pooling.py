import pytest
import torch

from deepcoro.kernels.cached_pieces import PIECE_BYTES, cached_pieces
from tests.kernels.triton_checks import ptx_for_hopper, run_interpreted, run_on_device

CHECKS = "interpreted_max_pooling.py"


@pytest.mark.slow
def test_the_kernels_equal_torchs_form_under_the_interpreter():
    run_interpreted(CHECKS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_kernels_equal_torchs_form_on_the_device():
    run_on_device(CHECKS)


def test_a_processor_takes_what_fits_its_cache_and_other_devices_take_all_clips_at_once():
    size = (7, PIECE_BYTES // 4 // 3, 1)
    assert [each.stop - each.start for each in cached_pieces(torch.empty(size))] == [3, 3, 1]
    assert cached_pieces(torch.empty(size, device="meta")) == [slice(0, 7)]
    assert cached_pieces(torch.empty(0, 5, 1, device="meta")) == []


@pytest.mark.parametrize("sparse", [0, 1], ids=["dense", "sparse"])
def test_the_kernels_compile_for_hopper_without_a_device(sparse):
    """What a GPU would be given, down to loads of 16 bytes."""
    pytest.importorskip("triton")
    from deepcoro.kernels import triton_max_pooling as kernels

    geometry = (1,) * 5 if sparse else (56, 56, 28, 28, 2)
    shape = kernels.Shape(*geometry, 1, 192, 64, sparse)
    half, byte, table = "*bf16", "*u8", "*i32" if sparse else "*u8"
    signatures = {
        kernels._forward_kernel: (half, table, half, byte),
        kernels._backward_kernel: (half, byte, table, half),
    }
    for kernel, pointers in signatures.items():
        given = {"pointers": pointers, "strides": ("i32",) * 2, "counts": ("i32",) * 2}
        constants = {"SHAPE": tuple(shape), "ROWS": kernels.TILE // 64}
        ptx = ptx_for_hopper(kernel, given, constants, kernels.WARPS, aligned=("strides",))
        assert "ld.global.v4.b32" in ptx
        assert "st.global.v4.b32" in ptx
