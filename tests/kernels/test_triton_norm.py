import pytest
import torch

from tests.kernels.triton_checks import ptx_for_hopper, run_interpreted, run_on_device

CHECKS = "interpreted_norms.py"


@pytest.mark.slow
def test_the_kernels_equal_torch_under_the_interpreter():
    run_interpreted(CHECKS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_kernels_equal_torch_on_the_device():
    run_on_device(CHECKS)


def compiled(kernel, pointers: str, constants: dict, num_warps: int) -> str:
    """What an H100 would be given; `pointers` names formats, s for fp32 and h for bfloat16."""
    formats = {"s": "*fp32", "h": "*bf16"}
    numbers = {"num_rows": "i32", "steps": "i32", "tokens": "i32", "eps": "fp32"}
    given = {"pointers": tuple(formats[each] for each in pointers), **numbers}
    return ptx_for_hopper(kernel, given, constants, num_warps)


def test_the_kernels_compile_for_hopper_without_a_device():
    """What a GPU would be given, down to loads of 16 bytes."""
    pytest.importorskip("triton")
    from deepcoro.kernels import triton_columns as columns
    from deepcoro.kernels import triton_norm as norm

    tiles = {"TILES": tuple(columns._tiles(384))}
    scaled = {**tiles, "HAS_FACTORS": True}
    backward = {"SHAPE": (96, 128, 16), "HAS_PLUS": True, "WRITES_NORMED": True}
    cases = [
        (norm._norm_kernel, "sssh", {"DIM": 96, "COLUMNS": 128, "ROWS": 32}, norm.WARPS),
        (norm._norm_backward_kernel, "hssssshs", backward, norm.WARPS_OF_BACKWARD),
        (columns._sum_kernel, "hs", tiles, columns.WARPS),
        (columns._scale_kernel, "sshs", scaled, columns.WARPS),
        (columns._add_kernel, "shss", scaled, columns.WARPS),
        (
            columns._gelu_backward_kernel,
            "hhhs",
            {**tiles, "WRITES_ACTIVATION": True, "PRECISE": False},
            columns.WARPS,
        ),
    ]
    for case in cases:
        assert "ld.global.v4.b32" in compiled(*case)
