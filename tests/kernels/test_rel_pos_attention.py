import pytest
import torch

from deepcoro.kernels.attention_layout import AttentionLayout, relative_index, write_one_hots
from deepcoro.kernels.attention_plan import plan_attention
from deepcoro.kernels.rel_pos_attention import rel_pos_attention
from tests.kernels.attention_cases import (
    attend,
    block_grids,
    make_case,
    random_weights,
    relative_error,
    values_and_gradients,
)

# those that run on a CPU: in tiles, torch's fused kernel, and the latter over parts of the keys
FORMS = [("tiled", False), ("flash", False), ("flash", True)]


def assert_same(found, expected, tolerance):
    for name, truth in expected.items():
        assert relative_error(found[name], truth) < tolerance, name


@pytest.mark.parametrize("is_sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("has_class_token", [True, False], ids=["class_token", "patches"])
@pytest.mark.parametrize(("queries", "keys"), block_grids())
def test_every_kernel_equals_the_oracle_in_values_and_gradients(queries, keys, has_class_token, is_sparse):
    case = make_case(queries, keys, has_class_token=has_class_token, is_sparse=is_sparse)
    expected = values_and_gradients(case, "plain")
    for backend, split_keys in FORMS:
        found = values_and_gradients(case, backend, split_keys=split_keys)
        assert_same(found, expected, 1e-9)
        found = values_and_gradients(case.to(torch.float32), backend, split_keys=split_keys)
        assert_same(found, expected, 5e-5)


@pytest.mark.parametrize(("backend", "split_keys"), [("plain", None), *FORMS])
@pytest.mark.parametrize("is_sparse", [False, True], ids=["dense", "sparse"])
def test_added_queries_are_the_residual_without_the_class_token(backend, split_keys, is_sparse):
    case = make_case((2, 4, 6), (2, 2, 3), is_sparse=is_sparse)
    plan = plan_attention(case.layout, case.q, 16, backend, split_keys=split_keys)
    residual = torch.cat((torch.zeros_like(case.q[:, :1]), case.q[:, 1:]), dim=1)
    for out in (attend(case, plan) + residual, attend(case, plan, add_queries=True)):
        out.retain_grad()
    apart = torch.autograd.grad((attend(case, plan) + residual).sin().sum(), [case.q, case.k, *case.tables])
    within = torch.autograd.grad(
        attend(case, plan, add_queries=True).sin().sum(), [case.q, case.k, *case.tables]
    )
    torch.testing.assert_close(attend(case, plan, add_queries=True), attend(case, plan) + residual)
    for got, expected in zip(within, apart, strict=True):
        torch.testing.assert_close(got, expected)


def test_the_oracle_is_a_loop_over_pairs_of_tokens():
    queries, keys = (2, 2, 3), (2, 1, 2)
    case = make_case(queries, keys)
    plan = plan_attention(case.layout, case.q, 16, "plain")
    got = attend(case, plan)
    query_cells = torch.cartesian_prod(*(torch.arange(n) for n in queries)).tolist()
    key_cells = torch.cartesian_prod(*(torch.arange(n) for n in keys)).tolist()
    index = [relative_index(a, b) for a, b in zip(queries, keys, strict=True)]
    q, k, v = (part.transpose(1, 2) for part in (case.q, case.k, case.v))
    scores = q @ k.transpose(2, 3) / 4
    for i, cell in enumerate(query_cells):
        for j, other in enumerate(key_cells):
            position = sum(case.tables[axis][index[axis][cell[axis], other[axis]]] for axis in range(3))
            scores[:, :, i + 1, j + 1] += q[:, :, i + 1] @ position
    torch.testing.assert_close(got, (scores.softmax(-1) @ v).transpose(1, 2))


@pytest.mark.parametrize("backend", ["plain", "tiled", "flash"])
def test_visible_cells_in_another_order_give_the_same_result_for_each(backend):
    queries, keys = (2, 4, 6), (2, 2, 3)
    case = make_case(queries, keys)
    plan = plan_attention(case.layout, case.q, 16, backend)
    order_q, order_k = torch.randperm(48), torch.randperm(12)
    rows_q, rows_k = (
        torch.cat((torch.zeros(1, dtype=torch.long), 1 + order)) for order in (order_q, order_k)
    )
    layout = AttentionLayout(queries, keys, True, order_q.expand(2, -1), order_k.expand(2, -1))
    turned = case._replace(q=case.q[:, rows_q], k=case.k[:, rows_k], v=case.v[:, rows_k], layout=layout)
    torch.testing.assert_close(attend(turned, plan), attend(case, plan)[:, rows_q])


@pytest.mark.parametrize("table_std", [0.02, 0.2])
@pytest.mark.parametrize("backend", ["tiled", "flash"])
def test_bfloat16_rounds_less_than_the_usual_form_does(backend, table_std):
    """The usual form is the oracle's arithmetic in bfloat16, as torchvision under autocast: a rounded map and a rounded bias."""
    case = make_case((4, 8, 8), (4, 4, 4), heads=2, dim=96, table_std=table_std)
    rounded = case.to(torch.bfloat16)
    truth = values_and_gradients(rounded.to(torch.float64), "plain")
    ours = values_and_gradients(rounded, backend)
    usual = usual_form(rounded)
    # nearly 3 times smaller at large tables; at small ones rounding of the result itself is most of both
    share = 0.5 if table_std == 0.2 else 0.8
    for name, value in truth.items():
        limit = (share if name == "out" else 1.0) * relative_error(usual[name], value)
        assert relative_error(ours[name], value) < limit, name


def usual_form(case):
    queries, keys = case.layout.query_grid, case.layout.key_grid
    q, k, v = (part.transpose(1, 2) for part in (case.q, case.k, case.v))
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    grid = q[:, :, 1:].unflatten(2, queries)
    table_t, table_h, table_w = (
        table[relative_index(a, b)] for table, a, b in zip(case.tables, queries, keys, strict=True)
    )
    by_time = torch.einsum("bnthwc,tkc->bnthwk", grid, table_t)[..., None, None]
    by_row = torch.einsum("bnthwc,hkc->bnthwk", grid, table_h)[..., None, :, None]
    by_column = torch.einsum("bnthwc,wkc->bnthwk", grid, table_w)[..., None, None, :]
    bias = (by_row + by_column + by_time).flatten(5).flatten(2, 4)
    scores = torch.cat(
        (scores[:, :, :1], torch.cat((scores[:, :, 1:, :1], scores[:, :, 1:, 1:] + bias), 3)), 2
    )
    out = (scores.softmax(-1) @ v).transpose(1, 2)
    weights = random_weights(out)
    gradients = torch.autograd.grad((out * weights).sum(), [case.q, case.k, case.v, *case.tables])
    return dict(zip(("out", "q", "k", "v", "R_t", "R_h", "R_w"), (out.detach(), *gradients), strict=True))


@pytest.mark.parametrize(("backend", "split_keys"), FORMS)
def test_backward_may_run_again(backend, split_keys):
    case = make_case((4, 2, 3), (4, 2, 3))
    plan = plan_attention(case.layout, case.q, 16, backend, split_keys=split_keys)
    loss = attend(case, plan).sin().sum()
    first = torch.autograd.grad(loss, [case.q, *case.tables], retain_graph=True)
    again = torch.autograd.grad(loss, [case.q, *case.tables])
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("backend", ["tiled", "flash"])
def test_queries_keys_and_values_are_what_stays_for_backward(backend):
    """And, for a library's kernel, its result: never the map, never a copy of the queries."""
    case = make_case((4, 8, 8), (4, 4, 4))
    plan = plan_attention(case.layout, case.q, 16, backend)
    kept = []
    buffers = [
        torch.zeros(2, n, 2, w) for n, w in ((257, plan.width), (65, plan.width), (65, plan.value_width))
    ]
    inputs = [buffer.requires_grad_() * 1.0 for buffer in buffers]
    tables = [table.detach().float().requires_grad_() for table in case.tables]
    plan = plan_attention(case.layout, inputs[0], 16, backend)
    with torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each) or each, lambda each: each):
        rel_pos_attention(*inputs, tuple(tables), case.layout, plan)
    large = {each.untyped_storage().data_ptr() for each in kept if each.numel() > 257 * 2 * 2}
    own = {each.untyped_storage().data_ptr() for each in inputs}
    assert own <= large
    assert len(large - own) == (0 if backend == "tiled" else 1)


@pytest.mark.parametrize("is_sparse", [False, True], ids=["dense", "sparse"])
def test_a_compiled_caller_gets_the_same(is_sparse):
    """The kernel itself is left as it is: it writes in place and is chosen in Python."""
    case = make_case((2, 4, 6), (2, 2, 3), is_sparse=is_sparse)
    plan = plan_attention(case.layout, case.q, 16, "auto")
    compiled = torch.compile(lambda each: attend(each, plan).sin(), backend="eager")
    torch.testing.assert_close(compiled(case), attend(case, plan).sin())
    gradients = [
        torch.autograd.grad(out.sum(), case.tables) for out in (compiled(case), attend(case, plan).sin())
    ]
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected)


def test_relative_index_counts_from_the_far_end_and_stretches_the_coarser_axis():
    assert relative_index(3, 3).tolist() == [[2, 1, 0], [3, 2, 1], [4, 3, 2]]
    assert relative_index(4, 2).tolist() == [[2, 0], [3, 1], [4, 2], [5, 3]]
    assert relative_index(2, 4).tolist() == [[3, 2, 1, 0], [5, 4, 3, 2]]


def test_one_hots_mark_row_column_and_frame_and_leave_the_class_token_out():
    hots = torch.full((1, 5, 1, 5), 9.0)
    write_one_hots(hots, AttentionLayout((2, 1, 2), (2, 1, 2)), frames=2)
    assert hots[0, :, 0].tolist() == [
        [0, 0, 0, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 0, 1, 1, 0],
        [1, 1, 0, 0, 1],
        [1, 0, 1, 0, 1],
    ]


def test_buffers_of_another_width_than_the_plan_are_refused():
    case = make_case((2, 4, 6), (2, 2, 3))
    plan = plan_attention(case.layout, case.q, 16, "tiled")
    with pytest.raises(ValueError, match="columns wide; the plan of this attention asks for"):
        rel_pos_attention(case.q, case.k, case.v, case.tables, case.layout, plan)
