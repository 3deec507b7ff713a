import pytest
import torch

from deepcoro.kernels.grid import num_cells
from deepcoro.mvit.layout import dense_layout, sparse_layouts, unit_sides, visible_units
from deepcoro.mvit.shapes import VARIANTS, BlockShape


def shapes_of(variant, grid):
    return VARIANTS[variant].block_shapes(grid)


def layouts_of(variant, grid, visible, has_class_token=True):
    shapes = shapes_of(variant, grid)
    return shapes, sparse_layouts(shapes, visible_units(shapes, visible), has_class_token)


def test_a_mask_unit_of_mvit_v2_s_has_eight_tokens_a_side_in_its_first_block_and_one_at_its_end():
    assert unit_sides(shapes_of("mvit_v2_s", (8, 56, 56))) == [8, 8, 4, 4, *[2] * 10, 2, 1]


def test_the_kept_tokens_of_every_grid_are_those_of_the_visible_units():
    visible = torch.tensor([[0, 9, 195], [1, 2, 50]])
    shapes, layouts = layouts_of("mvit_v2_s", (4, 56, 56), visible)
    for shape, side, layout in zip(shapes, unit_sides(shapes), layouts, strict=True):
        frame, row, column = torch.cartesian_prod(*(torch.arange(size) for size in shape.grid)).T
        unit = (frame * 7 + row // side) * 7 + column // side
        for clip, positions in enumerate(layout.query.positions_in):
            kept = torch.arange(num_cells(shape.grid))[torch.isin(unit, visible[clip])]
            assert positions.sort().values.tolist() == kept.tolist()
        assert layout.edges is None


def test_the_pooled_tokens_of_one_block_are_those_that_enter_the_next():
    shapes, layouts = layouts_of("mvit_v2_s", (4, 50, 50), torch.tensor([[0, 6, 48, 195]]))
    for before, after in zip(layouts, layouts[1:], strict=False):
        assert torch.equal(before.query.positions_out, after.query.positions_in)
        assert before.query.grid_out == after.query.grid_in


def test_attention_stands_where_pooling_wrote():
    shapes, layouts = layouts_of("demo", (2, 16, 24), torch.tensor([[3, 11], [0, 47]]))
    for shape, layout in zip(shapes, layouts, strict=True):
        assert (layout.attention.query_grid, layout.attention.key_grid) == (shape.query_grid, shape.key_grid)
        assert torch.equal(layout.attention.query_positions, layout.query.positions_out)
        assert torch.equal(layout.attention.key_positions, layout.key.positions_out)


def test_the_last_grid_has_one_token_a_unit_in_ascending_order():
    visible = torch.tensor([[2, 3, 7], [0, 1, 15]])
    _, layouts = layouts_of("tiny", (1, 13, 13), visible)
    assert torch.equal(layouts[-1].query.positions_out, visible)


def test_blocks_of_equal_shape_share_one_layout():
    _, layouts = layouts_of("mvit_v2_s", (2, 56, 56), torch.tensor([[0, 1]]))
    assert len({id(layout) for layout in layouts}) == 7
    assert all(layout is layouts[4] for layout in layouts[5:14])
    assert layouts[-1].key is layouts[-1].query


def test_a_grid_that_units_do_not_divide_is_rounded_up_and_its_edge_marked():
    """13x14 tokens on units of 4x4: a cell past the edge is no token, and for the tables of positions it stands on the edge."""
    shapes, layouts = layouts_of("tiny", (1, 13, 14), torch.arange(16)[None])
    assert layouts[0].query.grid_in == (1, 16, 16)
    assert layouts[0].edges.tokens.sum() == layouts[0].edges.queries.sum() == 13 * 14
    assert layouts[0].edges.keys is None
    assert layouts[1].edges.queries.sum() == layouts[1].edges.keys.sum() == 7 * 7
    assert layouts[2].edges.queries.all()
    for shape, layout in zip(shapes, layouts, strict=True):
        inside = layout.attention.query_positions[layout.edges.queries]
        assert inside.sort().values.tolist() == list(range(num_cells(shape.query_grid)))
        assert layout.attention.query_positions.max() < num_cells(shape.query_grid)
        assert layout.attention.key_positions.max() < num_cells(shape.key_grid)


def test_a_dense_layout_holds_no_table():
    layout = dense_layout(shapes_of("tiny", (2, 16, 16))[1], has_class_token=False)
    assert layout.query.grid_out == layout.attention.query_grid == (2, 8, 8)
    assert not layout.query.is_sparse
    assert not layout.attention.is_sparse
    assert not layout.key.has_class_token
    assert layout.edges is None


def test_a_layout_is_computed_without_waiting_for_the_device():
    """A meta tensor has no values: whatever asks for one fails, as it would wait on CUDA."""
    visible = torch.zeros(2, 5, dtype=torch.int64, device="meta")
    _, layouts = layouts_of("tiny", (3, 13, 13), visible)
    assert layouts[0].query.positions_in.shape == (2, 5 * 16)
    assert layouts[0].edges.tokens.is_meta


def test_keys_coarser_than_the_units_are_refused():
    shape = BlockShape((2, 8, 8), 16, 16, 1, query_stride=2, key_stride=4)
    with pytest.raises(ValueError, match="block 0 pools its keys by 4, mask units have 2"):
        unit_sides([shape])


@pytest.mark.parametrize(
    ("visible", "message"),
    [
        (torch.tensor([[0, 1]], dtype=torch.int32), "1 to 32 unit indices .int64"),
        (torch.zeros(1, 0, dtype=torch.int64), "1 to 32"),
        (torch.arange(33)[None], "1 to 32"),
        (torch.tensor([[3, 2]]), "ascending"),
        (torch.tensor([[2, 2]]), "each once"),
        (torch.tensor([[-1, 2]]), "from 0 to 31"),
        (torch.tensor([[2, 32]]), "from 0 to 31"),
    ],
)
def test_a_list_of_units_that_is_none_is_refused(visible, message):
    with pytest.raises(ValueError, match=message):
        visible_units(shapes_of("tiny", (2, 16, 16)), visible)
