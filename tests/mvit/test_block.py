import pytest
import torch

from deepcoro.config import ConfigError
from deepcoro.live_bytes import saved_bytes, step_bytes
from deepcoro.mvit.block import MultiscaleBlock, StochasticDepth
from deepcoro.mvit.checkpointing import residual_stream
from deepcoro.mvit.shapes import BlockShape


def test_stochastic_depth_drops_whole_clips_and_keeps_the_mean():
    torch.manual_seed(0)
    drop = StochasticDepth(0.25).train()
    factors = drop(torch.ones(4000, 2, 3))
    assert factors.shape == (4000, 1, 1)
    torch.testing.assert_close(factors.unique(), torch.tensor([0, 1 / 0.75]))
    assert abs(factors.mean().item() - 1) < 0.05


def test_stochastic_depth_drops_nothing_in_evaluation_and_all_at_rate_one():
    tokens = torch.randn(3, 2, 4)
    assert StochasticDepth(0.5).eval()(tokens) is None
    assert not StochasticDepth(1.0).train()(tokens).any()


def test_a_block_that_doubles_halves_its_grid_rounding_up():
    shape = BlockShape(grid=(2, 5, 6), dim_in=8, dim_out=16, heads=2, query_stride=2, key_stride=4)
    block = MultiscaleBlock(shape, drop_path_rate=0.0, backend="auto")
    assert shape.query_grid == (2, 3, 3)
    assert shape.key_grid == (2, 2, 2)
    assert block(torch.randn(3, 1 + 60, 8)).shape == (3, 1 + 18, 16)


WIDE = BlockShape(grid=(2, 14, 14), dim_in=32, dim_out=32, heads=1, query_stride=1, key_stride=2)


def wide_block(checkpointing):
    torch.manual_seed(0)
    return MultiscaleBlock(WIDE, drop_path_rate=0.0, backend="auto", checkpointing=checkpointing)


def test_each_mode_of_checkpointing_keeps_less_than_the_one_before():
    tokens = torch.randn(2, 1 + 2 * 196, 32, requires_grad=True)
    kept = {mode: saved_bytes(wide_block(mode), tokens) for mode in ("none", "selective", "blocks")}
    hidden = 4 * tokens.nbytes
    assert kept["selective"] <= kept["none"] - hidden
    assert (
        kept["blocks"] == 2 * tokens.nbytes
    )  # the tokens before the MLP, and the result; those before attention were there
    peaks = {mode: step_bytes(lambda mode=mode: wide_block(mode)(tokens).sum()).peak for mode in kept}
    assert peaks["blocks"] < peaks["none"]


def test_an_unknown_mode_of_checkpointing_or_residual_is_refused():
    with pytest.raises(ConfigError, match="activation_checkpointing is 'all'; allowed: .*'selective'"):
        wide_block("all")
    with pytest.raises(ConfigError, match="residual is 'fp8'; allowed: .*'bf16'"):
        residual_stream(torch.zeros(1, 1, 1), "fp8")


@pytest.mark.parametrize(
    ("residual", "autocast", "expected"),
    [("fp32", True, torch.float32), ("bf16", True, torch.bfloat16), ("bf16", False, torch.float32)],
)
def test_the_stream_travels_in_the_format_asked_for(residual, autocast, expected):
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        tokens = residual_stream(torch.randn(1, 1 + 2 * 196, 32), residual)
        assert tokens.dtype == expected
        assert wide_block("none")(tokens).dtype == expected


def test_the_first_pass_of_all_may_be_a_recomputed_one():
    """The start-up check of attention's kernel runs inside it, once for each width of a head, and is no part of it."""
    unseen = BlockShape(grid=(2, 2, 2), dim_in=72, dim_out=72, heads=1, query_stride=1, key_stride=1)
    block = MultiscaleBlock(unseen, drop_path_rate=0.0, backend="auto", checkpointing="blocks")
    block(torch.randn(1, 1 + 8, 72)).sum().backward()
    assert block.attn.qkv.weight.grad is not None
