import dataclasses
import logging

import pytest
import torch

from deepcoro.kernels import attention_plan
from deepcoro.kernels.attention_kernels import AttentionProblem
from deepcoro.kernels.attention_layout import AttentionLayout
from deepcoro.kernels.attention_plan import ATTENTION_BACKENDS, candidates, plan_attention, plan_kernel
from deepcoro.kernels.flash_attn_package import FLASH_ATTN_2, FLASH_ATTN_4
from deepcoro.kernels.library_attention import CPU_FLASH, CUDNN, CUDNN_WIDE, EFFICIENT, FLASH
from deepcoro.kernels.tiled_attention import TILED

NARROW = AttentionLayout((8, 14, 14), (8, 7, 7))
WIDE = AttentionLayout((8, 14, 14), (8, 14, 14))
ON_CUDA = AttentionProblem(96, (8, 14, 14), (8, 7, 7), True, False, torch.bfloat16, torch.device("cuda"))


def tokens(dtype=torch.float32):
    return torch.zeros(1, dtype=dtype)


@pytest.fixture
def fresh(monkeypatch):
    """No choice made by another test is remembered."""
    attention_plan._choose.cache_clear()
    yield monkeypatch
    attention_plan._choose.cache_clear()


def test_on_a_cpu_half_precision_goes_by_tiles_and_fp32_by_the_library():
    assert plan_attention(NARROW, tokens(), 96).kernel is CPU_FLASH
    assert plan_attention(NARROW, tokens(torch.float16), 96).kernel in (
        TILED,
        CPU_FLASH,
    )  # fp32 without hardware
    problem = ON_CUDA._replace(device=torch.device("cpu"))
    assert candidates(problem, "auto") == (TILED, CPU_FLASH)
    assert candidates(problem, "fused") == (CPU_FLASH, TILED)


@pytest.mark.parametrize("backend", ATTENTION_BACKENDS)
def test_every_value_of_the_setting_gives_a_plan_on_a_cpu(backend):
    plan = plan_attention(NARROW, tokens(), 96, backend)
    assert (plan.kernel is None) is (backend == "plain")


def test_heads_are_as_wide_as_their_columns_need():
    assert plan_attention(NARROW, tokens(), 96, "flash").width == 120  # 96 + 7 + 7 + 8
    assert plan_attention(NARROW, tokens(), 96, "flash").value_width == 120
    tiled = plan_attention(WIDE, tokens(), 96, "tiled")
    assert (tiled.width, tiled.value_width) == (136, 96)  # 132 and one to centre the scores
    assert plan_attention(NARROW, tokens(), 96, "plain").width == 96
    assert plan_attention(NARROW, tokens(), 96, "flash", relative=False).width == 96


@pytest.mark.parametrize(
    ("key_grid", "frames_per_part", "width"),
    [
        ((8, 14, 14), 4, 128),
        ((6, 14, 14), 3, 128),  # 12 frames of film
        ((5, 14, 14), 3, 128),
        ((1, 14, 14), None, 128),  # 96 + 29 fit
        ((16, 14, 14), None, 144),  # four parts would cost more than the width does
        ((8, 20, 20), None, 144),  # too wide without any frame
    ],
)
def test_the_keys_of_wide_heads_are_split_where_that_makes_them_fit(key_grid, frames_per_part, width):
    plan = plan_kernel(FLASH, ON_CUDA._replace(key_grid=key_grid), 1)
    assert (plan.split and plan.split.frames_per_part) == frames_per_part
    assert plan.width == width


def test_sparse_keys_are_not_split():
    plan = plan_kernel(FLASH, ON_CUDA._replace(key_grid=(8, 14, 14), is_sparse=True), 1)
    assert plan.split is None
    assert plan.width == 136


def test_flash_attn_4_gets_no_width_that_it_would_pad():
    problem = ON_CUDA._replace(key_grid=(8, 14, 14), is_sparse=True)
    assert plan_kernel(FLASH_ATTN_4, problem, 1).width == 160
    assert plan_kernel(FLASH_ATTN_4, problem, 1).value_width == 96
    assert plan_kernel(FLASH_ATTN_2, problem, 1).value_width == 136


@pytest.mark.parametrize(
    ("capability", "first", "last"),
    [
        ((7, 5), EFFICIENT, TILED),
        ((8, 0), FLASH_ATTN_2, TILED),
        ((9, 0), CUDNN, TILED),
        ((12, 0), FLASH_ATTN_4, TILED),
    ],
)
def test_the_order_on_cuda_follows_the_generation(monkeypatch, capability, first, last):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    order = candidates(ON_CUDA, "auto")
    assert (order[0], order[-1]) == (first, last)
    assert candidates(ON_CUDA, "cudnn")[:2] == (CUDNN, CUDNN_WIDE)


def test_a_broken_kernel_is_refused_with_one_line_and_the_next_is_taken(fresh, caplog):
    def backward(by_out, q, k, v, attended):
        by_q, by_k, by_v = CPU_FLASH.backward(by_out, q, k, v, attended)
        return by_q.roll(1, dims=1), by_k, by_v

    broken = dataclasses.replace(CPU_FLASH, name="broken", backward=backward)
    fresh.setattr(attention_plan, "candidates", lambda problem, backend: (broken, CPU_FLASH))
    with caplog.at_level(logging.INFO):
        plans = [plan_attention(NARROW, tokens(), 96) for _ in range(3)]
    assert all(plan.kernel is CPU_FLASH for plan in plans)
    (line,) = caplog.messages
    assert "cpu_flash with heads of 120 columns; not broken: it disagrees with the oracle" in line
    assert "dQ 1.4e+00" in line


def test_a_named_backend_that_cannot_serve_is_a_warning_once_a_shape(fresh, caplog):
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            assert plan_attention(NARROW, tokens(), 96, "cudnn").kernel is CPU_FLASH
            assert plan_attention(WIDE, tokens(), 96, "flash").kernel is CPU_FLASH
    levels = [record.levelno for record in caplog.records]
    assert levels == [logging.WARNING, logging.INFO]
    assert "cudnn: it runs on CUDA only" in caplog.messages[0]
    assert "4 key frames at a time" in caplog.messages[1]


def test_any_number_of_visible_cells_is_one_choice(fresh, caplog):
    with caplog.at_level(logging.INFO):
        for count in (3, 4, 5):
            visible = torch.arange(count).expand(1, -1)
            layout = AttentionLayout((2, 4, 4), (2, 2, 2), True, visible, visible)
            plan_attention(layout, tokens(), 96)
    assert len(caplog.messages) == 1
    assert "2x4x4 queries and 2x2x2 keys (visible cells)" in caplog.text


def test_no_kernel_at_all_is_an_error_with_the_reasons(fresh):
    refusing = dataclasses.replace(
        CPU_FLASH, name="refusing", refusal=lambda problem: "it is not in the mood"
    )
    fresh.setattr(attention_plan, "candidates", lambda problem, backend: (refusing,))
    with pytest.raises(ValueError, match="no attention kernel .*not refusing: it is not in the mood"):
        plan_attention(NARROW, tokens(), 96)


def test_an_unknown_backend_is_named_with_the_allowed_ones():
    with pytest.raises(ValueError, match="'fast'.*tiled.*cudnn"):
        plan_attention(NARROW, tokens(), 96, "fast")
