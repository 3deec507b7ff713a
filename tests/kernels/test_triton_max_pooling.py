import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from deepcoro.kernels.cached_pieces import PIECE_BYTES, cached_pieces

CHECKS = Path(__file__).with_name("interpreted_max_pooling.py")


def run_checks(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CHECKS)]
    root = CHECKS.parents[2]
    result = subprocess.run(
        command, cwd=root, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout[-3000:]


def test_the_kernels_equal_torchs_form_under_the_interpreter():
    pytest.importorskip("triton")
    run_checks({"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_kernels_equal_torchs_form_on_the_device():
    run_checks({})


def test_a_processor_takes_what_fits_its_cache_and_other_devices_take_all_clips_at_once():
    size = (7, PIECE_BYTES // 4 // 3, 1)
    assert [each.stop - each.start for each in cached_pieces(torch.empty(size))] == [3, 3, 1]
    assert cached_pieces(torch.empty(size, device="meta")) == [slice(0, 7)]
    assert cached_pieces(torch.empty(0, 5, 1, device="meta")) == []


@pytest.mark.parametrize("sparse", [0, 1], ids=["dense", "sparse"])
def test_the_kernels_compile_for_hopper_without_a_device(sparse):
    """What a GPU would be given, down to loads of 16 bytes."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

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
        signature = {name: given.get(name, "constexpr") for name in kernel.arg_names}
        constants = {"SHAPE": tuple(shape), "ROWS": kernels.TILE // 64}
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
        options = {"num_warps": kernels.WARPS}
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        assert "ld.global.v4.b32" in compiled.asm["ptx"]
        assert "st.global.v4.b32" in compiled.asm["ptx"]
