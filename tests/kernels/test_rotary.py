import pytest
import torch
import torch.nn.functional as F

from deepcoro.kernels.attention_layout import AttentionLayout
from deepcoro.kernels.attention_plan import plan_attention
from deepcoro.kernels.plain_attention import plain_attention
from deepcoro.kernels.rotary import rotary_attention, rotate

DIM = 24


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def make_heads(num_queries, num_keys):
    return draw(2, num_queries, 2, DIM), draw(2, num_keys, 2, DIM, seed=1), draw(2, num_keys, 2, DIM, seed=2)


def attend(q, k, v, layout, backend="flash", add_queries=False):
    plan = plan_attention(layout, q, DIM, backend, relative=False)
    q, k = (F.pad(each, (0, plan.width - DIM)) for each in (q, k * DIM**-0.5))
    v = F.pad(v, (0, plan.value_width - DIM))
    return rotary_attention(q, k, v, layout, plan, add_queries=add_queries)


def flat(cells, grid):
    return torch.tensor([(t * grid[1] + h) * grid[2] + w for t, h, w in cells.tolist()])


def test_rotation_is_a_product_of_complex_numbers_token_by_token():
    grid = (2, 3, 4)
    layout = AttentionLayout(grid, grid)
    tokens = draw(1, 25, 1, DIM)
    found = rotate(tokens, layout, DIM, of_keys=False)
    per_axis = [[100.0 ** -(i / 4) for i in range(4)]] * 3
    for number, cell in enumerate(torch.cartesian_prod(*(torch.arange(n) for n in grid)).tolist()):
        turns = [at * frequency for at, each in zip(cell, per_axis, strict=True) for frequency in each]
        left, right = tokens[0, 1 + number, 0].chunk(2)
        expected = torch.complex(left, right) * torch.polar(
            torch.ones(12).double(), torch.tensor(turns).double()
        )
        torch.testing.assert_close(found[0, 1 + number, 0], torch.cat((expected.real, expected.imag)))
    assert torch.equal(found[:, 0], tokens[:, 0])
    assert torch.autograd.gradcheck(lambda each: rotate(each, layout, DIM, of_keys=True), tokens)


@pytest.mark.parametrize("backend", ["flash", "tiled"])
def test_what_is_attended_depends_on_differences_of_place_alone(backend):
    """Queries on a grid twice as fine as that of the keys, all moved by the same way."""
    grids = (4, 8, 8), (4, 4, 4)
    query_cells = torch.tensor([[0, 0, 1], [1, 2, 0], [2, 3, 3], [0, 1, 2]])
    key_cells = torch.tensor([[0, 0, 1], [2, 1, 0], [1, 0, 0]])
    heads = make_heads(4, 3)
    results = []
    for frames, rows, columns in ((0, 0, 0), (1, 2, 1)):
        query_at = flat(query_cells + torch.tensor([frames, 2 * rows, 2 * columns]), grids[0])
        key_at = flat(key_cells + torch.tensor([frames, rows, columns]), grids[1])
        layout = AttentionLayout(*grids, False, query_at.expand(2, -1), key_at.expand(2, -1))
        results.append(attend(*heads, layout, backend))
    torch.testing.assert_close(*results)
    moved_alone = AttentionLayout(
        *grids, False, flat(query_cells + 1, grids[0]).expand(2, -1), flat(key_cells, grids[1]).expand(2, -1)
    )
    assert (attend(*heads, moved_alone, backend) - results[0]).abs().max() > 1e-2


@pytest.mark.parametrize("backend", ["flash", "tiled"])
@pytest.mark.parametrize("add_queries", [False, True])
def test_fast_kernels_equal_the_oracle_over_rotated_heads(backend, add_queries):
    layout = AttentionLayout((3, 4, 5), (3, 2, 3))
    q, k, v = heads = make_heads(61, 19)
    turned = rotate(q, layout, DIM, of_keys=False), rotate(k * DIM**-0.5, layout, DIM, of_keys=True)
    expected = plain_attention(*turned, v, None, layout)
    if add_queries:
        expected = expected + torch.cat((torch.zeros_like(q[:, :1]), q[:, 1:]), dim=1)
    found = attend(q, k, v, layout, backend, add_queries)
    torch.testing.assert_close(found, expected)
    weights = draw(*found.shape, seed=3)
    gradients = [torch.autograd.grad((out * weights).sum(), heads) for out in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_visible_cells_only_are_rows_of_the_whole():
    grid = (2, 3, 4)
    whole = AttentionLayout(grid, grid, False)
    q, k, v = make_heads(24, 24)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    layout = AttentionLayout(grid, grid, False, order.expand(2, -1), order.expand(2, -1))
    found = attend(q[:, order], k[:, order], v[:, order], layout)
    torch.testing.assert_close(found, attend(q, k, v, whole)[:, order])


def test_heads_keep_their_native_width():
    layout = AttentionLayout((8, 14, 14), (8, 14, 14))
    assert plan_attention(layout, torch.zeros(1), 96, "flash", relative=False).width == 96


@pytest.mark.parametrize("dim", [8, 16, 72, 96])
def test_every_channel_of_a_patch_away_from_the_origin_is_turned(dim):
    layout = AttentionLayout((2, 2, 2), (2, 2, 2), False)
    tokens = torch.ones(1, 8, 1, dim, dtype=torch.float64)
    turned = rotate(tokens, layout, dim, of_keys=False)
    assert torch.equal(turned[:, 0], tokens[:, 0])
    assert (turned[:, -1] != 1).all()
    torch.testing.assert_close(turned.norm(dim=-1), tokens.norm(dim=-1))


def test_nothing_is_kept_for_backward_but_what_attention_keeps():
    layout = AttentionLayout((2, 3, 4), (2, 3, 4))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each) or each, lambda each: each):
        rotate(draw(1, 25, 1, DIM), layout, DIM, of_keys=False)
    assert not kept
