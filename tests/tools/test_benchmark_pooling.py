import pytest
import torch

from deepcoro.kernels.pool_layout import PoolLayout
from deepcoro.kernels.token_pooling import PoolFilter, pool_tokens
from deepcoro.mvit.shapes import BlockShape
from tools.benchmark_pooling import main, pool_as_torchvision


@pytest.mark.parametrize("visible", ["1.0", "0.5"])
def test_every_block_shape_is_in_the_table_once_and_their_sum_below(visible, capsys):
    main(["--frames", "4", "--size_px", "64", "--repeats", "1", "--precision", "bf16", "--visible", visible])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| bf16")]
    assert len(rows) == 8
    assert rows[0].startswith("| bf16 | 0 (2x16x16, heads 1, strides 1 and 8) |")
    assert rows[-1].startswith("| bf16 | all 16 |")


def test_both_ways_pool_the_same():
    shape = BlockShape(grid=(2, 5, 6), dim_in=16, dim_out=16, heads=2, query_stride=2, key_stride=2)
    tokens = torch.randn(2, 61, 2, 8)
    pool_filter = PoolFilter(torch.randn(8, 1, 3, 3, 3), torch.randn(8), torch.randn(8))
    theirs = pool_as_torchvision(tokens, pool_filter, 2, shape)
    ours = pool_tokens(tokens, pool_filter, PoolLayout(shape.grid, 2))
    torch.testing.assert_close(theirs.transpose(1, 2), ours, rtol=1e-4, atol=1e-5)
