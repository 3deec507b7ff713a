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


@pytest.mark.parametrize("sparse", [0, 1], ids=["dense", "sparse"])
def test_the_kernels_compile_for_hopper_without_a_device(sparse):
    """What a GPU would be given, down to loads of 16 bytes."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from deepcoro.kernels import triton_pooling as kernels

    shape = kernels.Shape(*((0,) * 6 if sparse else (8, 56, 56, 28, 28, 2)), 1, 2, 96, 128, 136, sparse)
    half, single, table = "*bf16", "*fp32", "*i32" if sparse else "*fp32"
    numbers = {"counts": ("i32",) * 2, "numbers": ("fp32",) * 2}
    signatures = {
        kernels._forward_kernel: ((half, single, single, single, table, half), 3),
        kernels._norm_backward_kernel: ((half, single, single, table, half, half, half, single), 10),
        kernels._token_gradient_kernel: ((half, single, table, half), 3),
        kernels._weight_gradient_kernel: ((half, half, table, single), 3),
    }
    for kernel, (pointers, num_strides) in signatures.items():
        given = {"pointers": pointers, "strides": ("i32",) * num_strides, **numbers}
        signature = {name: given.get(name, "constexpr") for name in kernel.arg_names}
        constants = {"SHAPE": tuple(shape), "ROWS": 32}
        source = ASTSource(
            fn=kernel,
            signature=signature,
            constexprs={(kernel.arg_names.index(name),): value for name, value in constants.items()},
            attrs={
                (axis, element): [["tt.divisibility", 16]]
                for axis, name in enumerate(("pointers", "strides"))
                for element in range(len(signature[name]))
            },
        )
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 8})
        assert "ld.global.v4.b32" in compiled.asm["ptx"]
