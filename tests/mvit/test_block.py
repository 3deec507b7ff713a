import torch

from deepcoro.mvit.block import MultiscaleBlock, StochasticDepth
from deepcoro.mvit.shapes import BlockShape


def test_stochastic_depth_drops_whole_clips_and_keeps_the_mean():
    torch.manual_seed(0)
    drop = StochasticDepth(0.25).train()
    kept = drop(torch.ones(4000, 2, 3))
    torch.testing.assert_close(kept.unique(), torch.tensor([0, 1 / 0.75]))
    assert torch.equal(kept[:, :1, :1].expand_as(kept), kept)
    assert abs(kept.mean().item() - 1) < 0.05


def test_stochastic_depth_is_the_identity_in_evaluation_and_drops_all_at_rate_one():
    branch = torch.randn(3, 2, 4)
    assert torch.equal(StochasticDepth(0.5).eval()(branch), branch)
    assert torch.equal(StochasticDepth(1.0).train()(branch), torch.zeros_like(branch))


def test_a_block_that_doubles_halves_its_grid_rounding_up():
    shape = BlockShape(grid=(2, 5, 6), dim_in=8, dim_out=16, heads=2, query_stride=2, key_stride=4)
    block = MultiscaleBlock(shape, drop_path_rate=0.0, backend="auto")
    assert shape.query_grid == (2, 3, 3)
    assert shape.key_grid == (2, 2, 2)
    assert block(torch.randn(3, 1 + 60, 8)).shape == (3, 1 + 18, 16)
