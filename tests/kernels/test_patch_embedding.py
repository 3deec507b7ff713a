import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

CHECKS = Path(__file__).with_name("interpreted_patches.py")


def run_checks(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CHECKS)]
    root = CHECKS.parents[2]
    result = subprocess.run(
        command, cwd=root, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout[-3000:]


def test_gathered_patches_equal_the_convolution_under_the_interpreter():
    pytest.importorskip("triton")
    run_checks({"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gathered_patches_equal_the_convolution_on_the_device():
    run_checks({})


@pytest.mark.parametrize("side", [0, 8], ids=["dense", "visible"])
def test_the_kernel_compiles_for_hopper_without_a_device(side):
    """What a GPU would be given, down to stores of 16 bytes."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from deepcoro.kernels import triton_patches as kernels

    grid = (7, 7) if side else (56, 56)
    constants = {
        "SHAPE": (16, 224, 224, *grid, side, 504, 512),
        "ROWS": kernels.ROWS,
    }
    kernel = kernels._gather_kernel
    tables = ("*i64", "*u8") if side else ("*bf16", "*bf16")
    signature = {
        "pointers": ("*bf16", *tables, "*bf16"),
        "counts": ("i32",) * 3,
        "SHAPE": "constexpr",
        "ROWS": "constexpr",
    }
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(kernel.arg_names.index(name),): value for name, value in constants.items()},
        attrs={(0, element): [["tt.divisibility", 16]] for element in range(4)},
    )
    options = {"num_warps": kernels.WARPS}
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert "st.global.v4.b32" in compiled.asm["ptx"]
    if not side:
        assert "ld.global.v2.b32" in compiled.asm["ptx"]
