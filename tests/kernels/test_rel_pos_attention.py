import pytest
import torch

from deepcoro.kernels import rel_pos_attention as attention
from deepcoro.kernels.rel_pos_attention import key_one_hots, rel_pos_attention, relative_index

# (query grid, key grid, class token): stride 1, keys coarser, queries coarser, one axis alone, no class token
SHAPES = [
    ((2, 4, 6), (2, 4, 6), 1),
    ((2, 4, 6), (2, 2, 3), 1),
    ((2, 3, 3), (2, 6, 6), 1),
    ((4, 1, 1), (4, 1, 1), 1),
    ((2, 4, 6), (2, 2, 3), 0),
]


def make_inputs(queries, keys, num_class, dtype=torch.float64, dim=16, value_dim=8):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    num_queries = num_class + queries[0] * queries[1] * queries[2]
    num_keys = num_class + keys[0] * keys[1] * keys[2]
    q, k, v = draw(2, 3, num_queries, dim), draw(2, 3, num_keys, dim), draw(2, 3, num_keys, value_dim)
    rows = [draw(2 * max(a, b) - 1, dim) for a, b in zip(queries, keys, strict=True)]
    return q, k, v, rows


def attend(inputs, queries, keys, backend):
    q, k, v, rows = inputs
    tables = tuple(row[relative_index(a, b)] for row, a, b in zip(rows, queries, keys, strict=True))
    return rel_pos_attention(q, k, v, tables, backend=backend)


def values_and_gradients(inputs, queries, keys, backend):
    q, k, v, rows = inputs
    out = attend(inputs, queries, keys, backend)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
    return [out, *torch.autograd.grad((out * weights).sum(), [q, k, v, *rows])]


@pytest.mark.parametrize(("queries", "keys", "num_class"), SHAPES)
def test_the_folded_form_equals_the_materialised_bias_in_values_and_gradients(queries, keys, num_class):
    inputs = make_inputs(queries, keys, num_class)
    fused = values_and_gradients(inputs, queries, keys, "fused")
    plain = values_and_gradients(inputs, queries, keys, "plain")
    for got, expected in zip(fused, plain, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-10)


def test_the_plain_form_is_a_loop_over_pairs_of_tokens():
    queries, keys = (2, 2, 3), (2, 1, 2)
    q, k, v, rows = inputs = make_inputs(queries, keys, 1)
    got = attend(inputs, queries, keys, "plain")
    query_cells = torch.cartesian_prod(*(torch.arange(n) for n in queries)).tolist()
    key_cells = torch.cartesian_prod(*(torch.arange(n) for n in keys)).tolist()
    index = [relative_index(a, b) for a, b in zip(queries, keys, strict=True)]
    scores = q @ k.transpose(2, 3) / 4
    for i, cell in enumerate(query_cells):
        for j, other in enumerate(key_cells):
            position = sum(rows[axis][index[axis][cell[axis], other[axis]]] for axis in range(3))
            scores[:, :, i + 1, j + 1] += q[:, :, i + 1] @ position
    torch.testing.assert_close(got, scores.softmax(-1) @ v)


def test_bfloat16_attention_stays_within_its_rounding_of_fp32():
    queries, keys, num_class = SHAPES[1]
    truth = attend(make_inputs(queries, keys, num_class), queries, keys, "plain").float()
    inputs = make_inputs(queries, keys, num_class, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = attend(inputs, queries, keys, "fused")
    assert out.dtype == torch.bfloat16
    assert (out.float() - truth).norm() / truth.norm() < 0.02


def test_relative_index_counts_from_the_far_end_and_stretches_the_coarser_axis():
    assert relative_index(3, 3).tolist() == [[2, 1, 0], [3, 2, 1], [4, 3, 2]]
    assert relative_index(4, 2).tolist() == [[2, 0], [3, 1], [4, 2], [5, 3]]
    assert relative_index(2, 4).tolist() == [[3, 2, 1, 0], [5, 4, 3, 2]]


def test_one_hots_mark_frame_row_and_column_and_leave_the_class_token_out():
    hots = key_one_hots(2, 1, 2, num_keys=5)
    assert hots.tolist() == [
        [0, 0, 0, 0, 0],
        [1, 0, 1, 1, 0],
        [1, 0, 1, 0, 1],
        [0, 1, 1, 1, 0],
        [0, 1, 1, 0, 1],
    ]


def test_the_flash_attn_choice_runs_torch_kernels_where_the_package_cannot():
    queries, keys, num_class = SHAPES[0]
    inputs = make_inputs(queries, keys, num_class)
    assert torch.equal(attend(inputs, queries, keys, "flash_attn"), attend(inputs, queries, keys, "fused"))
    if not torch.cuda.is_available():
        assert not attention.flash_attn_available()


def test_an_unknown_backend_is_named_with_the_allowed_ones():
    queries, keys, num_class = SHAPES[0]
    with pytest.raises(ValueError, match="'flash'.*fused"):
        attend(make_inputs(queries, keys, num_class), queries, keys, "flash")
