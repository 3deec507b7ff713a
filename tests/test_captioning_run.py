"""A run that writes captions, many films a study: one process, two ranks, ZeRO-3."""

from pathlib import Path

import pytest

from tests.launch import CONSTANT_LR, SILENT, STEADY, losses, main_on_rank, main_on_this_rank, metrics, tiny
from tests.ranks import Ranks

CAPTIONS = (
    *STEADY,
    *CONSTANT_LR,
    *SILENT,
    "max_steps=3",
    "objectives={contrastive: {embed_dim: 32}, captioning: {decoder_layers: 2, decoder_heads: 2}}",
    "data.multi_video=true",
    "data.num_videos=2",
)


@pytest.mark.slow
@pytest.mark.parametrize("tie_weights", ["true", "false"])
def test_captions_are_learnt_alike_on_one_process_two_ranks_and_zero_3(
    tiny_shards: Path, two_ranks: Ranks, tmp_path: Path, tie_weights: str
) -> None:
    """zero3_whole divides every parameter: a weight used outside its module's forward would be empty."""
    words = (*CAPTIONS, f"objectives.captioning.tie_weights={tie_weights}")
    assert main_on_this_rank("ddp", *tiny(tiny_shards, tmp_path / "alone", *words, "batch_size=4")) == 0
    expected = losses(tmp_path / "alone")
    assert len(expected) == 3 and expected[3] < expected[1]
    for engine in ("ddp", "zero3_whole"):
        run = tiny(tiny_shards, tmp_path / engine, *words, "batch_size=2")
        assert two_ranks.run(main_on_rank, engine, *run) == [0, 0]
        assert losses(tmp_path / engine) == pytest.approx(expected, rel=1e-5)
        assert 0 < metrics(tmp_path / engine)[-1]["train/captioning/accuracy"] < 1
