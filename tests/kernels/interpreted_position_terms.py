"""What surrounds a library's kernel on CUDA, against the oracle; on CPU run by test_triton_position_terms.py in a process of its own."""

import math

import pytest
import torch
from torch import Tensor

from deepcoro.kernels import rel_pos_attention, triton_position_terms, triton_residual
from deepcoro.kernels.attention_kernels import Attended, AttentionKernel, AttentionProblem
from deepcoro.kernels.attention_plan import AttentionPlan, plan_kernel
from tests.kernels.attention_cases import Case, attend, make_case, random_weights, relative_error

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# the interpreter multiplies the bits of bfloat16 as whole numbers (triton 3.9)
HALF = torch.float16 if DEVICE.type == "cpu" else torch.bfloat16
BOUNDS = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def forward(q: Tensor, k: Tensor, v: Tensor) -> Attended:
    scores = torch.einsum("bqnc,bknc->bnqk", q.double(), k.double())
    out = torch.einsum("bnqk,bknc->bqnc", scores.softmax(-1), v.double())
    return Attended(out.to(q.dtype), scores.logsumexp(-1).float())


def backward(by_out: Tensor, q: Tensor, k: Tensor, v: Tensor, attended: Attended):
    by_out, q, k, v = (each.double() for each in (by_out, q, k, v))
    weights = (torch.einsum("bqnc,bknc->bnqk", q, k) - attended.logsumexp.double()[..., None]).exp()
    by_weights = torch.einsum("bqnc,bknc->bnqk", by_out, v)
    mean = (attended.out.double() * by_out).sum(-1).transpose(1, 2)[..., None]
    by_scores = weights * (by_weights - mean)
    gradients = (
        torch.einsum("bnqk,bknc->bqnc", by_scores, k),
        torch.einsum("bnqk,bqnc->bknc", by_scores, q),
        torch.einsum("bnqk,bqnc->bknc", weights, by_out),
    )
    return tuple(each.to(attended.out.dtype) for each in gradients)


NARROW = AttentionKernel("narrow", forward, backward, lambda problem: None, needs_wide_values=False)
WIDE = AttentionKernel("wide", forward, backward, lambda problem: None, needs_wide_values=True)

# queries, keys and more: a query block, odd grids and heads, no class token, visible cells, the real width
CASES = [
    ((2, 2, 4), (2, 2, 2), {"dim": 24}, None),
    ((3, 3, 2), (3, 2, 2), {"dim": 16, "has_class_token": False, "heads": 3}, True),
    ((2, 2, 3), (4, 4, 6), {"dim": 96, "heads": 1}, True),
    ((2, 4, 6), (2, 2, 3), {"dim": 16, "is_sparse": True}, None),
]


@pytest.fixture(autouse=True)
def around_every_kernel_and_few_programs_where_each_costs_a_second(monkeypatch):
    monkeypatch.setattr(rel_pos_attention, "_runs_in_triton", lambda *_: True)
    if DEVICE.type == "cpu":
        monkeypatch.setattr(triton_position_terms, "ROWS_OF_CELLS", 128)
        monkeypatch.setattr(triton_position_terms, "ROWS_OF_KEYS", 128)
        monkeypatch.setattr(triton_position_terms, "PROGRAMS_OF_TABLES", 2)
        monkeypatch.setattr(triton_residual, "ROWS", 256)


def moved(case: Case, dtype: torch.dtype) -> Case:
    leaves = (leaf.detach().to(DEVICE, dtype).requires_grad_() for leaf in (*case[:3], *case.tables))
    q, k, v, *tables = leaves
    return Case(q, k, v, tuple(tables), case.layout)


def make_plan(
    kernel: AttentionKernel | None, case: Case, split_keys: bool | None, is_relative: bool = True
) -> AttentionPlan:
    dim, layout = case.q.shape[-1], case.layout
    if kernel is None:
        return AttentionPlan(dim, case.q.dtype, None, dim, dim)
    grids = (layout.query_grid, layout.key_grid)
    problem = AttentionProblem(dim, *grids, is_relative, layout.is_sparse, case.q.dtype, DEVICE)
    return plan_kernel(kernel, problem, int(layout.has_class_token), split_keys)


def results(case: Case, plan: AttentionPlan, add_queries: bool) -> list[Tensor]:
    out = attend(case, plan, add_queries)
    weights = random_weights(out.cpu()).to(DEVICE, out.dtype)
    leaves = [case.q, case.k, case.v, *(case.tables or ())]
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), leaves)]


@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=str)
@pytest.mark.parametrize("number", range(len(CASES)))
def test_values_and_gradients_equal_the_oracle(number, dtype):
    queries, keys, words, split_keys = CASES[number]
    given = make_case(queries, keys, table_std=0.1, **words)
    case, truth = moved(given, dtype), moved(moved(given, dtype), torch.float64)
    add_queries = number != 1
    expected = results(truth, make_plan(None, truth, None), add_queries)
    plan = make_plan(NARROW if number % 2 else WIDE, case, split_keys)
    assert (plan.split is not None) == bool(split_keys)
    for ours, oracle in zip(results(case, plan, add_queries), expected, strict=True):
        assert relative_error(ours, oracle) < BOUNDS[dtype]


def test_without_positions_there_is_the_residual_alone():
    case = moved(make_case((2, 2, 3), (2, 2, 3), dim=16), torch.float32)._replace(tables=None)
    expected = results(case, make_plan(None, case, None), True)
    found = results(case, make_plan(NARROW, case, False, is_relative=False), True)
    for ours, oracle in zip(found, expected, strict=True):
        assert relative_error(ours, oracle) < BOUNDS[torch.float32]


def test_columns_are_those_of_the_torch_form_and_gradients_the_same_each_time(monkeypatch):
    case = moved(make_case((2, 2, 3), (2, 2, 3), dim=16, heads=1), torch.float32)
    plan = make_plan(NARROW, case, False)
    completed = []
    watched = AttentionKernel(
        "watched",
        lambda q, k, v: completed.append((q.clone(), k.clone())) or forward(q, k, v),
        *(backward, lambda problem: None, False),
    )
    plan = make_plan(watched, case, False)
    one, other = (results(case, plan, True) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))
    monkeypatch.setattr(rel_pos_attention, "_runs_in_triton", lambda *_: False)
    results(case, plan, True)
    for ours, usual in zip(completed[0], completed[-1], strict=True):
        torch.testing.assert_close(ours, usual)


def test_tables_are_multiplied_in_blocks_where_they_are_long(monkeypatch):
    """A block of rows holds part of the rows of one table and part of another's."""
    monkeypatch.setattr(triton_position_terms, "MAX_TABLE_ROWS", 16)
    case = moved(make_case((1, 6, 5), (1, 3, 5), dim=16, heads=1), torch.float32)
    expected = results(moved(case, torch.float64), make_plan(None, case, None), True)
    for ours, oracle in zip(results(case, make_plan(NARROW, case, False), True), expected, strict=True):
        assert relative_error(ours, oracle) < BOUNDS[torch.float32]


def test_frozen_tables_get_no_gradient_and_queries_still_do():
    case = moved(make_case((1, 2, 3), (1, 2, 3), dim=16, heads=1), torch.float32)
    frozen = case._replace(tables=tuple(table.detach() for table in case.tables))
    plan = make_plan(NARROW, case, False)
    (alone,) = torch.autograd.grad(attend(frozen, plan, True).sin().sum(), [case.q])
    (together,) = torch.autograd.grad(attend(case, plan, True).sin().sum(), [case.q])
    assert torch.equal(alone, together) and math.isfinite(alone.sum().item())
