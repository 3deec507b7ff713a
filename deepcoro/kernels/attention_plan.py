"""Which kernel computes an attention, at which width, chosen by shape, number format and device and logged once.

The choice is a rule, never a timing: every rank takes the same kernel, and so does a run that goes on after a stop. What the
rule is based on, and the command that measures it anew, is in docs/benchmarks/2026-11-25-attention.md.
"""

import logging
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from deepcoro.kernels.attention_check import check_kernel
from deepcoro.kernels.attention_kernels import AttentionKernel, AttentionProblem, half
from deepcoro.kernels.attention_layout import AttentionLayout
from deepcoro.kernels.flash_attn_package import FLASH_ATTN_2, FLASH_ATTN_3, FLASH_ATTN_4
from deepcoro.kernels.key_split import KeySplit
from deepcoro.kernels.library_attention import CPU_FLASH, CUDNN, CUDNN_WIDE, EFFICIENT, FLASH
from deepcoro.kernels.precision import kernel_dtype
from deepcoro.kernels.tiled_attention import TILED
from deepcoro.pretended import device_of, is_pretended

logger = logging.getLogger(__name__)

ATTENTION_BACKENDS = ("auto", "fused", "plain", "tiled", "flash_attn", "cudnn", "flash", "efficient")

NAMED = {
    "tiled": (TILED,),
    "flash_attn": (FLASH_ATTN_3, FLASH_ATTN_4, FLASH_ATTN_2),
    "cudnn": (CUDNN, CUDNN_WIDE),
    "flash": (FLASH, CPU_FLASH),
    "efficient": (EFFICIENT,),
}
FUSED_ON_CUDA = {
    8: (FLASH_ATTN_2, FLASH, CUDNN, CUDNN_WIDE, EFFICIENT),
    9: (CUDNN, CUDNN_WIDE, FLASH_ATTN_3, FLASH_ATTN_4, FLASH_ATTN_2, FLASH, EFFICIENT),
    10: (FLASH_ATTN_4, CUDNN, CUDNN_WIDE, FLASH, EFFICIENT),
}
"""By major compute capability, the fastest first: on Hopper as measured on an H200 (docs/benchmarks/2026-11-26-h200.md; the flash-attn
packages were not there and stand where they are published), on others as published."""

FAST_WIDTH = 128
"""Kernels on CUDA have forms for heads of 64, 96 and 128 columns; the next, 160 or 192, cost half as much again. On CPU
torch's own kernel took 0.93 of the time with the keys of 14x14 grids in two parts."""
MAX_PARTS = 2
"""More parts of the keys than this cost more than wide heads do."""


@dataclass(frozen=True)
class AttentionPlan:
    """A kernel (None: the oracle `plain`) and how wide q, k and v are to be written for it."""

    dim: int
    dtype: torch.dtype
    kernel: AttentionKernel | None
    width: int
    value_width: int
    split: KeySplit | None = None


@torch.compiler.disable
def plan_attention(
    layout: AttentionLayout,
    tokens: Tensor,
    dim: int,
    backend: str = "auto",
    *,
    relative: bool = True,
    split_keys: bool | None = None,
) -> AttentionPlan:
    """The plan for heads of `dim` channels in the format and on the device of `tokens` [batch, ...].

    `auto` takes the first kernel of the device's list that can run and passes the start-up check, `fused` the first of a
    library; a named backend goes before `auto`'s list, with a logged line where it cannot serve. `relative`: the heads carry
    the columns of relative positions. `split_keys` forces or forbids the key split, for tests and benchmarks.
    """
    if backend not in ATTENTION_BACKENDS:
        raise ValueError(f"attention backend is '{backend}'; allowed: {ATTENTION_BACKENDS}")
    if backend == "plain":
        return AttentionPlan(dim, kernel_dtype(tokens), None, dim, dim)
    problem = _problem(layout, tokens, dim, relative)
    choose = _choose.__wrapped__ if is_pretended() else _choose
    return choose(problem, backend, int(layout.has_class_token), split_keys)


def plan_every(layout: AttentionLayout, tokens: Tensor, dim: int) -> tuple[list[AttentionPlan], list[str]]:
    """For benchmarks: a plan for every kernel that passes, with its keys split and not, and why others do not."""
    problem = _problem(layout, tokens, dim, relative=True)
    plans, refused = {}, []
    for kernel in dict.fromkeys((*candidates(problem, "auto"), TILED, *sum(NAMED.values(), ()))):
        for split_keys in (False, True):
            plan, reason = _try(kernel, problem, int(layout.has_class_token), split_keys)
            if reason is None:
                plans[plan] = None
            else:
                refused.append(f"{kernel.name}: {reason}")
    return list(plans), list(dict.fromkeys(refused))


def _problem(layout: AttentionLayout, tokens: Tensor, dim: int, relative: bool) -> AttentionProblem:
    return AttentionProblem(
        dim,
        layout.query_grid,
        layout.key_grid,
        relative,
        layout.is_sparse,
        kernel_dtype(tokens),
        device_of(tokens),
    )


@cache
def _choose(
    problem: AttentionProblem, backend: str, num_class: int, split_keys: bool | None
) -> AttentionPlan:
    refused = []
    for kernel in candidates(problem, backend):
        plan, reason = _try(kernel, problem, num_class, split_keys)
        if reason is None:
            if not is_pretended():
                _log_choice(plan, problem, backend, refused)
            return plan
        refused.append(f"not {kernel.name}: {reason}")
    raise ValueError(f"no attention kernel for {problem}; {'; '.join(refused)}")


def _try(
    kernel: AttentionKernel, problem: AttentionProblem, num_class: int, split_keys: bool | None
) -> tuple[AttentionPlan, str | None]:
    """The plan of a kernel and why it must not be used."""
    plan = plan_kernel(kernel, problem, num_class, split_keys)
    reason = kernel.refusal(problem)
    if reason is None and plan.width > kernel.max_width:
        reason = f"it takes heads of {kernel.max_width} columns, not {plan.width}"
    return plan, reason or check_kernel(kernel, plan.width, plan.value_width, problem, plan.split)


def _log_choice(plan: AttentionPlan, problem: AttentionProblem, backend: str, refused: list[str]) -> None:
    """One line a shape; a warning when what was asked for by name cannot serve."""
    is_other = backend in NAMED and plan.kernel not in NAMED[backend]
    parts = "" if plan.split is None else f", {plan.split.frames_per_part} key frames at a time"
    words = (problem, plan.kernel.name, plan.width, parts, "".join(f"; {reason}" for reason in refused))
    logger.log(
        logging.WARNING if is_other else logging.INFO,
        "attention over %s: %s with heads of %d columns%s%s",
        *words,
    )


def candidates(problem: AttentionProblem, backend: str) -> tuple[AttentionKernel, ...]:
    """Kernels in the order in which they are tried."""
    if problem.device.type == "cuda":
        major = torch.cuda.get_device_capability(problem.device)[0]
        fused = FUSED_ON_CUDA.get(major, FUSED_ON_CUDA[10] if major > 10 else (EFFICIENT,))
        every = (*fused, TILED)
    else:
        every = (TILED, CPU_FLASH) if half(problem.dtype) else (CPU_FLASH, TILED)
    if backend == "fused":
        every = (*(kernel for kernel in every if kernel is not TILED), TILED)
    return tuple(dict.fromkeys((*NAMED.get(backend, ()), *every)))


def plan_kernel(
    kernel: AttentionKernel, problem: AttentionProblem, num_class: int, split_keys: bool | None = None
) -> AttentionPlan:
    """Widths, and whether the keys are split: where that and nothing else makes the head fit the fast width."""
    frames, height, width = problem.key_grid if problem.is_relative else (0, 0, 0)
    columns = problem.dim + height + width
    room = FAST_WIDTH - columns
    split = None
    may_split = frames > 1 and not problem.is_sparse and kernel is not TILED
    if split_keys is None:
        split_keys = 0 < room < frames <= MAX_PARTS * room
    if split_keys and may_split:
        per_part = min(room, -(-frames // 2)) if room > 0 else -(-frames // 2)
        split = KeySplit(per_part, frames, columns, num_class)
    columns += frames if split is None else split.frames_per_part
    whole = _width(kernel, columns + kernel.num_spare, problem)
    narrow = _width(kernel, problem.dim, problem)
    value_width = whole if kernel.needs_wide_values else narrow
    return AttentionPlan(problem.dim, problem.dtype, kernel, whole, value_width, split)


def _width(kernel: AttentionKernel, columns: int, problem: AttentionProblem) -> int:
    wide_enough = [width for width in kernel.widths if width >= columns]
    if wide_enough:
        return wide_enough[0]
    if problem.device.type == "cuda" and 96 < columns <= FAST_WIDTH:
        return FAST_WIDTH
    return -(-columns // 8) * 8  # kernels read rows of 16 bytes
