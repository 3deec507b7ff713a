import dataclasses

import pytest
import torch
import torch.utils.flop_counter

from deepcoro.kernels import attention_check
from deepcoro.kernels.attention_check import check_kernel
from deepcoro.kernels.attention_kernels import AttentionProblem
from deepcoro.kernels.attention_plan import plan_kernel
from deepcoro.kernels.library_attention import CPU_FLASH
from deepcoro.kernels.tiled_attention import TILED

NARROW = AttentionProblem(96, (8, 14, 14), (8, 7, 7), True, False, torch.float32, torch.device("cpu"))
WIDE = NARROW._replace(key_grid=(8, 14, 14))


def check(kernel, problem, split_keys=False):
    plan = plan_kernel(kernel, problem, 1, split_keys)
    return check_kernel(plan.kernel, plan.width, plan.value_width, problem, plan.split)


def with_wrong_gradient(which, columns=slice(None), factor=0.9, only=lambda width: True):
    """torch's kernel, one of whose gradients is off."""

    def backward(by_out, q, k, v, attended):
        gradients = CPU_FLASH.backward(by_out, q, k, v, attended)
        if only(q.shape[-1]):
            gradients[which][..., columns] *= factor
        return gradients

    return dataclasses.replace(CPU_FLASH, name="wrong", backward=backward)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("kernel", [TILED, CPU_FLASH], ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("problem", [NARROW, WIDE, NARROW._replace(is_relative=False)])
def test_right_kernels_pass(kernel, problem, dtype):
    assert check(kernel, problem._replace(dtype=dtype)) is None
    if kernel is CPU_FLASH and problem.is_relative:
        assert check(kernel, problem._replace(dtype=dtype), split_keys=True) is None


@pytest.mark.parametrize("split_keys", [False, True])
def test_a_kernel_that_remembers_the_layout_of_its_first_result_is_refused(split_keys):
    first = []

    def backward(by_out, q, k, v, attended):
        first.append(attended.out.stride())
        out = attended.out.as_strided(attended.out.shape, first[0])
        return CPU_FLASH.backward(by_out, q, k, v, attended._replace(out=out))

    kernel = dataclasses.replace(CPU_FLASH, name="remembers", backward=backward)
    assert "disagrees" in check(kernel, WIDE._replace(dtype=torch.float64), split_keys)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("which", "columns", "name"),
    [
        (0, slice(96), "dQ"),
        (0, slice(96, None), "dR"),
        (0, slice(95, 96), "dQ"),
        (1, slice(96), "dK"),
        (2, slice(96), "dV"),
    ],
)
def test_a_kernel_with_one_wrong_gradient_is_refused_with_its_figure(which, columns, name, dtype):
    factor = 0.0 if columns == slice(95, 96) else 0.9
    kernel = with_wrong_gradient(which, columns, factor)
    reason = check(kernel, NARROW._replace(dtype=dtype))
    figures = dict(part.split() for part in reason.split("errors ")[1].split(";")[0].split(", "))
    assert max(figures, key=lambda each: float(figures[each])) == name
    assert float(figures[name]) > attention_check.TOLERANCE[dtype]


def test_a_fault_at_some_widths_is_found_at_the_very_width():
    """As that of flash-attn 4 on Hopper: a wrong dQ where the width is no multiple of 32."""
    kernel = with_wrong_gradient(0, only=lambda width: width % 32 != 0)
    assert "dQ" in check(kernel, WIDE)
    assert check(kernel, WIDE, split_keys=True) is None  # 128 columns


def test_a_wrong_log_sum_exp_is_found_where_parts_of_the_keys_are_merged_by_it():
    def forward(q, k, v):
        attended = CPU_FLASH.forward(q, k, v)
        return attended._replace(logsumexp=attended.logsumexp * 1.4427)  # in powers of two

    def backward(by_out, q, k, v, attended):
        return CPU_FLASH.backward(by_out, q, k, v, attended._replace(logsumexp=attended.logsumexp / 1.4427))

    kernel = dataclasses.replace(CPU_FLASH, name="base_two", forward=forward, backward=backward)
    assert check(kernel, WIDE) is None
    assert "disagrees" in check(kernel, WIDE, split_keys=True)


def test_a_kernel_that_raises_is_refused_with_its_words():
    def forward(q, k, v):
        raise RuntimeError("no kernel image is available\nand a long trace")

    reason = check(dataclasses.replace(CPU_FLASH, name="raises", forward=forward), NARROW)
    assert reason == "it fails: RuntimeError: no kernel image is available"


def test_not_a_number_is_refused():
    kernel = with_wrong_gradient(0, factor=float("nan"))
    assert "dQ nan" in check(kernel, NARROW)


def test_the_check_leaves_the_generator_alone():
    attention_check._check.cache_clear()
    state = torch.get_rng_state()
    check(CPU_FLASH, NARROW)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_counts_operations_does_not_see_the_check():
    attention_check._check.cache_clear()
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        assert check(CPU_FLASH, NARROW) is None
    assert counter.get_total_flops() == 0
