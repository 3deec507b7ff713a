"""Every shipped config loads, and its tiny twin trains three steps: the same objectives, losses and choices, small towers."""

import json
from pathlib import Path

import pytest

from deepcoro import command_line, config
from deepcoro.run_config import load_run_config

# What makes a twin tiny. Everything else, the paradigm above all, is the shipped config's own.
TINY = {
    "towers.text.from_scratch": "{hidden_size: 32, layers: 1, heads: 2}",
    "towers.text.text_freeze_ratio": "0",
    "data.fields.video.frames": "4",
    "data.fields.video.size_px": "32",
    "data.fields.report.max_tokens": "64",
    "data.num_workers": "0",
    "batch_size": "4",
    "max_steps": "3",
    "precision": "fp32",
    "evaluate.metrics": "{retrieval: {bootstrap_samples: 10}, zero_shot: {bootstrap_samples: 10}}",
    "tracking.log_every_steps": "1",
}
TINY_VIDEO = {
    "video_mvit": {"towers.video.variant": "tiny"},
    "video_timm": {"towers.video.model": "test_resnet"},
}


def tiny_twin(name: str, shards: Path, run_dir: Path) -> list[str]:
    kind = load_run_config(config.find_config(name), []).towers.video.type
    keys = TINY | TINY_VIDEO[kind] | {"data.shards": str(shards), "run_dir": str(run_dir)}
    return [f"{key}={value}" for key, value in keys.items()]


@pytest.mark.parametrize("name", config.shipped_names())
def test_the_tiny_twin_of_every_shipped_config_trains_three_steps(
    name: str, tiny_shards: Path, tmp_path: Path
) -> None:
    assert command_line.main([name, *tiny_twin(name, tiny_shards, tmp_path)]) == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert len(losses) == 3
    assert all(loss > 0 for loss in losses)
    assert any("val/retrieval/text_to_video/R@5" in line for line in lines)
    assert (tmp_path / "checkpoints" / "best").read_text() == "step_3"
    assert (tmp_path / "report.html").is_file()
