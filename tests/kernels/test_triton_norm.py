import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

CHECKS = Path(__file__).with_name("interpreted_norms.py")


def run_checks(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CHECKS)]
    root = CHECKS.parents[2]
    result = subprocess.run(
        command, cwd=root, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout[-3000:]


def test_the_kernels_equal_torch_under_the_interpreter():
    pytest.importorskip("triton")
    run_checks({"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_kernels_equal_torch_on_the_device():
    run_checks({})


def compiled(kernel, pointers: str, constants: dict, num_warps: int) -> str:
    """What an H100 would be given; `pointers` names formats, s for fp32 and h for bfloat16."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    formats = {"s": "*fp32", "h": "*bf16"}
    names = kernel.arg_names
    numbers = {"num_rows": "i32", "steps": "i32", "tokens": "i32", "eps": "fp32"}
    given = {"pointers": tuple(formats[each] for each in pointers), **numbers}
    source = ASTSource(
        fn=kernel,
        signature={name: given.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(0, element): [["tt.divisibility", 16]] for element in range(len(pointers))},
    )
    target = GPUTarget("cuda", 90, 32)
    return triton.compile(source, target=target, options={"num_warps": num_warps}).asm["ptx"]


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
