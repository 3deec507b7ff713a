import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcoro.kernels.max_pooling import max_pool_tokens
from deepcoro.kernels.pool_layout import PoolLayout
from deepcoro.kernels.token_pooling import PoolFilter, PoolPart, pool_projection, pool_tokens
from tests.kernels.pooling_cases import Case, make_tokens, random_positions


def values_and_gradients(tokens, pool_filter, layout, backend, **options):
    pooled = pool_tokens(tokens, pool_filter, layout, backend=backend, **options)
    weights = torch.linspace(-1, 1, pooled.numel(), dtype=pooled.dtype).view_as(pooled)
    return [pooled, *torch.autograd.grad((pooled.sin() * weights).sum(), [tokens, *pool_filter])]


cases = st.builds(
    Case,
    grid=st.tuples(st.integers(1, 4), st.integers(1, 10), st.integers(1, 10)),
    stride=st.sampled_from([1, 2, 3, 4, 8]),
    heads=st.sampled_from([1, 2, 3]),
    dim=st.sampled_from([1, 5, 8]),
    class_token=st.booleans(),
    share_visible=st.sampled_from([1.0, 0.6, 0.25]),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(case=cases)
def test_pooled_tokens_equal_the_3d_convolution_and_norm_in_values_and_gradients(case):
    layout = case.layout()
    tokens, pool_filter = make_tokens(case, layout)
    options = {"width": case.dim + 3, "scale": 0.3, "eps": 1e-3}
    expected = values_and_gradients(tokens, pool_filter, layout, "conv3d", **options)
    for got, wanted in zip(
        values_and_gradients(tokens, pool_filter, layout, "frames", **options), expected, strict=True
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_projection_pooled_at_once_equals_its_parts_pooled_one_by_one(share):
    case = Case((2, 9, 8), 4, share_visible=share)
    key_layout = case.layout()
    query_positions = key_layout.positions_in
    query_layout = PoolLayout(case.grid, 1, True, query_positions, query_positions)
    tokens, pool_filter = make_tokens(case, key_layout)
    projected = torch.stack((tokens, tokens.cos(), tokens.sin()), dim=2).detach().requires_grad_()
    filters = [PoolFilter(*(each.detach() * factor for each in pool_filter)) for factor in (1, 2, 3)]
    filters = [PoolFilter(*(each.requires_grad_() for each in each_filter)) for each_filter in filters]
    layouts, widths, scales = (query_layout, key_layout, key_layout), (8, 8, 6), (1.0, 0.2, 1.0)
    parts = [PoolPart(*each) for each in zip(filters, layouts, widths, scales, strict=True)]
    at_once = pool_projection(projected, parts)
    one_by_one = [
        pool_tokens(
            projected[:, :, number], part.pool_filter, part.layout, width=part.width, scale=part.scale
        )
        for number, part in enumerate(parts)
    ]
    inputs = [projected, *filters[0], *filters[1], *filters[2]]
    results = [
        [*pooled, *torch.autograd.grad(sum(each.sin().sum() for each in pooled), inputs)]
        for pooled in (at_once, one_by_one)
    ]
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted)


def test_spare_columns_are_zero_and_may_be_written_before_backward():
    case = Case((2, 5, 4), 1)
    layout = case.layout()
    tokens, pool_filter = make_tokens(case, layout)
    plain = pool_tokens(tokens, pool_filter, layout)
    wide = pool_tokens(tokens, pool_filter, layout, width=10)
    assert wide.shape == (2, 41, 2, 10)
    assert not wide[..., 6:].any()
    torch.testing.assert_close(wide[..., :6], plain)
    (expected,) = torch.autograd.grad(plain.sin().sum(), tokens)
    factor = wide.detach()[..., :6].cos()
    with torch.no_grad():
        wide.fill_(7.0)
    (got,) = torch.autograd.grad((wide[..., :6] * factor).sum(), tokens)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_all_cells_visible_equals_dense(stride):
    case = Case((2, 8, 8), stride)
    dense = case.layout()
    everywhere = [
        torch.arange(count).expand(2, -1) for count in (dense.num_patches_in, dense.num_patches_out)
    ]
    sparse = PoolLayout(case.grid, stride, True, *everywhere)
    tokens, pool_filter = make_tokens(case, dense)
    for got, wanted in zip(
        values_and_gradients(tokens, pool_filter, sparse, "auto"),
        values_and_gradients(tokens, pool_filter, dense, "auto"),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("stride", [1, 2, 8])
def test_half_precision_is_pooled_in_fp32_and_stored_in_half(stride):
    case = Case((2, 9, 8), stride, dim=16)
    layout = case.layout()
    tokens, pool_filter = make_tokens(case, layout)
    exact = values_and_gradients(tokens, pool_filter, layout, "conv3d")
    half = tokens.detach().bfloat16().requires_grad_()
    single = PoolFilter(*(each.detach().float().requires_grad_() for each in pool_filter))
    rounded = values_and_gradients(half, single, layout, "frames")
    assert [each.dtype for each in rounded] == [torch.bfloat16] * 2 + [torch.float32] * 3
    for got, wanted in zip(rounded, exact, strict=True):
        assert (got - wanted).norm() / wanted.norm() < 0.01


def test_autocast_decides_the_format_of_the_result():
    case = Case((2, 4, 4), 1)
    layout = case.layout()
    tokens, pool_filter = make_tokens(case, layout)
    with torch.autocast("cpu", torch.bfloat16):
        assert pool_tokens(tokens.detach().float(), pool_filter, layout).dtype == torch.bfloat16


def test_frozen_tokens_get_no_gradient_and_filters_still_do():
    case = Case((2, 5, 5), 1)
    layout = case.layout()
    tokens, pool_filter = make_tokens(case, layout)
    pool_tokens(tokens.detach(), pool_filter, layout).sin().sum().backward()
    assert all(each.grad is not None for each in pool_filter)


def test_backward_keeps_a_view_of_the_tokens_and_one_pooled_copy_at_the_narrow_width():
    case = Case((2, 8, 8), 1, heads=2, dim=16)
    layout = case.layout()
    tokens, pool_filter = make_tokens(case, layout)
    kept = []
    hooks = (lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor)
    with torch.autograd.graph.saved_tensors_hooks(*hooks):
        pool_tokens(tokens, pool_filter, layout, width=64)
    storage = tokens.untyped_storage().data_ptr()
    fresh = [each for each in kept if each.untyped_storage().data_ptr() != storage]
    assert sum(each.numel() for each in fresh) < 1.2 * tokens.numel()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(case=cases)
def test_the_table_of_readers_is_the_table_of_neighbours_transposed(case):
    layout = case._replace(share_visible=0.6).layout()
    pairs = {
        (clip, int(row), tap, output)
        for clip, table in enumerate(layout.neighbours)
        for output, rows in enumerate(table)
        for tap, row in enumerate(rows)
        if row >= 0
    }
    transposed = {
        (clip, row, tap, int(output))
        for clip, table in enumerate(layout.readers)
        for row, outputs in enumerate(table)
        for tap, output in enumerate(outputs)
        if output >= 0
    }
    assert pairs == transposed


def test_neighbours_are_rows_of_the_visible_cells_under_the_filter():
    positions_in = torch.tensor([[0, 4, 5]])  # of 1 x 3 x 3 cells
    layout = PoolLayout((1, 3, 3), 2, False, positions_in, torch.tensor([[0, 3]]))
    here = layout.neighbours[0, :, 9:18]
    assert here.tolist() == [[-1, -1, -1, -1, 0, -1, -1, -1, 1], [1, 2, -1, -1, -1, -1, -1, -1, -1]]
    assert (layout.neighbours[0, :, :9] == -1).all()
    assert (layout.neighbours[0, :, 18:] == -1).all()


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_the_skip_pooling_is_the_spatial_maximum_of_what_is_visible(class_token, share):
    layout = Case((2, 7, 6), 2, class_token=class_token, share_visible=share).layout()
    if layout.is_sparse:  # a unit is visible before and after, so that no window is empty
        even = layout.positions_out
        frame, row, column = even // 12, even % 12 // 3, even % 3
        layout = PoolLayout((2, 7, 6), 2, class_token, frame * 42 + row * 12 + column * 2, even)
    first = layout.num_class_tokens
    tokens = torch.randn(2, first + layout.num_patches_in, 5, dtype=torch.float64, requires_grad=True)
    positions = layout.positions_in if layout.is_sparse else torch.arange(84).expand(2, -1)
    film = torch.full((2, 84, 5), -torch.inf, dtype=torch.float64)
    film = film.scatter(1, positions[..., None].expand(-1, -1, 5), tokens[:, first:])
    film = film.unflatten(1, (2, 7, 6)).permute(0, 4, 1, 2, 3)
    expected = torch.nn.functional.max_pool3d(film, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
    expected = expected.flatten(2).transpose(1, 2)
    if layout.is_sparse:
        expected = expected.gather(1, layout.positions_out[..., None].expand(-1, -1, 5))
    expected = torch.cat((tokens[:, :first], expected), dim=1)
    got = max_pool_tokens(tokens, layout)
    torch.testing.assert_close(got, expected)
    gradients = [torch.autograd.grad(each.sin().sum(), tokens)[0] for each in (got, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_of_equal_maxima_the_first_gets_the_gradient_as_in_torch(dtype):
    layout = PoolLayout((2, 9, 8), 2, has_class_token=False)
    tokens = torch.randint(0, 3, (2, 144, 4), generator=torch.Generator().manual_seed(0)).to(dtype)
    tokens.requires_grad_()
    pictures = tokens.unflatten(1, (2, 9, 8)).flatten(0, 1).permute(0, 3, 1, 2)
    expected = torch.nn.functional.max_pool2d(pictures, 3, stride=2, padding=1)
    expected = expected.permute(0, 2, 3, 1).reshape(2, 40, 4)
    everywhere = [torch.arange(count).expand(2, -1) for count in (144, 40)]
    gradient = torch.arange(320).view(2, 40, 4).to(dtype)
    (wanted,) = torch.autograd.grad(expected, tokens, gradient)
    for each in (layout, PoolLayout((2, 9, 8), 2, False, *everywhere)):
        got = max_pool_tokens(tokens, each)
        assert torch.equal(got, expected)
        torch.testing.assert_close(torch.autograd.grad(got, tokens, gradient)[0], wanted)


def test_pooling_stays_itself_inside_a_compiled_function():
    case = Case((2, 6, 6), 2)
    layout = case.layout()
    tokens, pool_filter = make_tokens(case, layout)

    def pool(tokens):
        return pool_tokens(tokens * 2, pool_filter, layout).sin(), max_pool_tokens(
            tokens[:, :, 0] * 2, layout
        )

    compiled = torch.compile(pool, backend="eager")
    results = [
        [*pooled, *torch.autograd.grad(sum(each.sum() for each in pooled), [tokens, *pool_filter])]
        for pooled in (compiled(tokens), pool(tokens))
    ]
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted)


def test_what_does_not_fit_is_refused_by_name():
    case = Case((2, 4, 4), 1)
    layout = case.layout()
    tokens, pool_filter = make_tokens(case, layout)
    with pytest.raises(ValueError, match="'cudnn'"):
        pool_tokens(tokens, pool_filter, layout, backend="cudnn")
    with pytest.raises(ValueError, match="width is 5, below the 6"):
        pool_tokens(tokens, pool_filter, layout, width=5)
    with pytest.raises(ValueError, match="32 tokens for a layout of 33"):
        pool_tokens(tokens[:, 1:], pool_filter, layout)
    with pytest.raises(ValueError, match="stride is 0"):
        PoolLayout((2, 4, 4), 0)
    with pytest.raises(ValueError, match="needs positions_in and positions_out"):
        PoolLayout((2, 4, 4), 1, True, random_positions(2, (2, 4, 4), 0.5))
