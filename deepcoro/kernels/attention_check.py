"""Holds a kernel against the oracle at start-up, at the width it will run at: a wrong gradient would train on without a word.

It is not a formality: a shipped flash-attention release computed a wrong dQ at some head widths (flash_attn_package.py).
"""

import dataclasses
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import einsum, reduce
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from deepcoro.kernels.attention_kernels import Attended, AttentionKernel, AttentionProblem
from deepcoro.kernels.key_split import KeySplit, SplitInputs, split_backward, split_forward
from deepcoro.pretended import is_pretended

NUM_CLIPS, NUM_HEADS, NUM_QUERIES, KEYS_PER_FRAME = 2, 2, 193, 61
TOLERANCE = {torch.bfloat16: 3e-2, torch.float16: 5e-3, torch.float32: 2e-3, torch.float64: 1e-9}
"""Allowed norm of the difference over the norm of the truth: several times what rounding does, far below any mistake."""
FAILURES = (RuntimeError, TypeError, ValueError, AssertionError, AttributeError, KeyError)
"""What a library raises on a head, a device or a signature that it does not know."""


def check_kernel(
    kernel: AttentionKernel,
    width: int,
    value_width: int,
    problem: AttentionProblem,
    split: KeySplit | None = None,
) -> str | None:
    """None when result and gradients agree with the oracle, or there are no numbers, else the reason to refuse it, with figures."""
    if is_pretended():
        return None
    # the answer depends on the shape of a head, not on the number of tokens; the check's own keys have a class token
    split = split and dataclasses.replace(split, num_class_tokens=1)
    return _check(kernel, width, value_width, problem._replace(query_grid=(0, 0, 0)), split)


@cache
def _check(
    kernel: AttentionKernel, width: int, value_width: int, problem: AttentionProblem, split: KeySplit | None
) -> str | None:
    autocast = torch.autocast(problem.device.type, enabled=False)
    # the first forward pass may be one that counts, recomputes or fakes its operations: the check is no part of it
    with _disable_current_modes(), torch.inference_mode(False), torch.no_grad(), autocast:
        drawn = _draw(problem)
        expected = _oracle(drawn, problem.dim)
        try:
            found = _run(kernel, drawn, (width, value_width), problem, split)
        except FAILURES as error:
            return f"it fails: {type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    errors = {
        name: _relative_error([each[name] for each in found], truth) for name, truth in expected.items()
    }
    allowed = TOLERANCE[problem.dtype]
    if all(error <= allowed for error in errors.values()):
        return None
    figures = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
    return f"it disagrees with the oracle at width {width} (relative errors {figures}; allowed {allowed:.0e})"


class _Drawn(NamedTuple):
    """Random numbers in the format of the problem; q and k with their columns of height, width and time."""

    q: Tensor
    k: Tensor
    v: Tensor
    by_out: Tensor


def _draw(problem: AttentionProblem) -> _Drawn:
    """As the encoder would hand them over, the class token first, from a generator of its own."""
    generator = torch.Generator().manual_seed(0)

    def draw(num_tokens: int, columns: int) -> Tensor:
        drawn = torch.randn(NUM_CLIPS, num_tokens, NUM_HEADS, columns, generator=generator)
        return drawn.to(problem.device, problem.dtype)

    frames, height, width = problem.key_grid
    dim, num_keys = problem.dim, 1 + frames * KEYS_PER_FRAME
    columns = dim + (frames + height + width if problem.is_relative else 0)
    q, k = draw(NUM_QUERIES, columns), draw(num_keys, columns)
    k[..., :dim] *= dim**-0.5
    k[..., dim:] = 0
    if problem.is_relative:
        patch = torch.arange(num_keys - 1, device=problem.device)
        for column in (patch % height, height + patch % width, height + width + patch // KEYS_PER_FRAME):
            k[:, 1 + patch, :, dim + column] = 1
    return _Drawn(q, k, draw(num_keys, dim), draw(NUM_QUERIES, dim))


def _oracle(drawn: _Drawn, dim: int) -> dict[str, Tensor]:
    """The result and gradients in float64 of the same rounded inputs, written out."""
    q, k, v, by_out = (each.double() for each in drawn)
    weights = einsum(q, k, "b q n c, b k n c -> b n q k").softmax(-1)
    out = einsum(weights, v, "b n q k, b k n c -> b q n c")
    by_weights = einsum(by_out, v, "b q n c, b k n c -> b n q k")
    by_scores = weights * (by_weights - (weights * by_weights).sum(-1, keepdim=True))
    by_q = einsum(by_scores, k, "b n q k, b k n c -> b q n c")
    by_k = einsum(by_scores, q, "b n q k, b q n c -> b k n c")
    by_v = einsum(weights, by_out, "b n q k, b q n c -> b k n c")
    return _named(out, by_q, by_k, by_v, dim)


def _run(
    kernel: AttentionKernel,
    drawn: _Drawn,
    widths: tuple[int, int],
    problem: AttentionProblem,
    split: KeySplit | None,
) -> list[dict[str, Tensor]]:
    width, value_width = widths
    dim, columns = problem.dim, drawn.q.shape[-1]
    v, by_out = (F.pad(each, (0, value_width - dim)) for each in (drawn.v, drawn.by_out))
    if split is None:
        q, k = (F.pad(each, (0, width - columns)) for each in (drawn.q, drawn.k))
        attended = kernel.forward(q, k, v)
        found = []
        for given, result in _in_two_layouts(by_out, attended):
            by_q, by_k, by_v = kernel.backward(given, q, k, v, result)
            found.append(_named(result.out[..., :dim], by_q[..., :columns], by_k, by_v[..., :dim], dim))
        return found
    inputs = _split_inputs(drawn, width, v, split)
    attended, found = split_forward(kernel, split, inputs), []
    for given, result in _in_two_layouts(by_out, attended):
        gradients = split_backward(kernel, split, given, inputs, result)
        by_q = torch.cat((gradients.q[..., : split.first_column], gradients.by_frame), dim=-1)
        found.append(_named(result.out[..., :dim], by_q, gradients.k, gradients.v[..., :dim], dim))
    return found


def _in_two_layouts(by_out: Tensor, attended: Attended) -> list[tuple[Tensor, Attended]]:
    """The same again laid out head by head: torch's cuDNN backward reads that wrongly after the first (library_attention.py)."""
    one, other = (each.transpose(1, 2).contiguous().transpose(1, 2) for each in (by_out, attended.out))
    return [(by_out, attended), (one, attended._replace(out=other))]


def _split_inputs(drawn: _Drawn, width: int, v: Tensor, split: KeySplit) -> SplitInputs:
    """The columns of time taken out of the queries, those of the keys folded to frames of a part."""
    first, per_part = split.first_column, split.frames_per_part
    q = F.pad(drawn.q[..., :first], (0, width - first))
    hots = drawn.k[..., first:]
    hots = F.pad(hots, (0, -hots.shape[-1] % per_part))
    folded = reduce(hots, "b k n (part frame) -> b k n frame", "sum", frame=per_part)
    k = torch.cat((drawn.k[..., :first], folded), dim=-1)
    return SplitInputs(q, drawn.q[..., first:].contiguous(), F.pad(k, (0, width - k.shape[-1])), v)


def _named(out: Tensor, by_q: Tensor, by_k: Tensor, by_v: Tensor, dim: int) -> dict[str, Tensor]:
    named = {"out": out, "dQ": by_q[..., :dim], "dK": by_k[..., :dim], "dV": by_v}
    # the columns of q . R, from which the gradients of the tables R are made
    return named | ({"dR": by_q[..., dim:]} if by_q.shape[-1] > dim else {})


def _relative_error(found: list[Tensor], truth: Tensor) -> float:
    """Of all together; not a number where one of them is none."""
    differences = torch.stack([each.double() - truth for each in found])
    return (differences.norm() / (truth.norm() * len(found) ** 0.5)).item()
