"""Every shipped config loads, and its tiny twin trains three steps: the same objectives, losses and choices, small towers."""

import json
from pathlib import Path

import pytest

from deepcoro import command_line, config
from deepcoro.run_config import load_run_config
from tests.data.server import serving
from tests.launch import SILENT
from tests.text_tables import write_text_tables

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
# The columns that the tiny films have both classes of, or several values, by loss.
TINY_COLUMN = {
    "bce": "cto",
    "focal": "cto",
    "ordinal": "cto",
    "ce": "dominance",
    "huber": "max_stenosis",
    "mae": "lvef",
}
TINY_OBJECTIVE = {
    "captioning": {"decoder_layers": "1", "decoder_dim": "48", "generation.max_new_tokens": "4"},
    "masked_modeling": {"decoder_layers": "1", "decoder_dim": "48"},
}


def tiny_twin(name: str, shards: Path | str, run_dir: Path, *more_shards: Path) -> list[str]:
    """`more_shards` are for a config of several sources."""
    run = load_run_config(config.find_config(name), [])
    folders = dict(zip(run.data.sources, (shards, *more_shards), strict=False))
    where = {f"data.sources.{source}.shards": folder for source, folder in folders.items()}
    keys = TINY | TINY_VIDEO[run.towers.video.type] | (where or {"data.shards": shards})
    for objective, block in run.objectives.items():
        small = TINY_OBJECTIVE.get(block.type, {})
        keys |= {f"objectives.{objective}.{key}": value for key, value in small.items()}
        if block.type == "linear_probing":
            columns = {head: TINY_COLUMN[block.loss_of(head).type] for head in block.head_structure}
            words = {head: block.labels_map.get(head, {}) for head in columns if columns[head] == "dominance"}
            own = {"head_column": columns, "labels_map": words}
            keys |= {f"objectives.{objective}.{key}": json.dumps(value) for key, value in own.items()}
    return [f"{key}={value}" for key, value in (keys | {"run_dir": run_dir}).items()]


@pytest.mark.parametrize("name", config.shipped_names())
def test_the_tiny_twin_of_every_shipped_config_trains_three_steps(
    name: str, tiny_shards: Path, other_shards: Path, tmp_path: Path
) -> None:
    words = tiny_twin(name, tiny_shards, tmp_path, other_shards)
    run = load_run_config(config.find_config(name), [])
    if getattr(run.data.fields.get("report"), "type", None) == "texts":
        words += [f"data.shards={other_shards}", *write_text_tables(tmp_path)]
    assert command_line.main([name, *words]) == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert len(losses) == 3
    assert all(loss > 0 for loss in losses)
    assert any(f"val/{run.evaluate.best_metric}" in line for line in lines)
    assert (tmp_path / "checkpoints" / "best").read_text() == "step_3"
    assert (tmp_path / "report.html").is_file()


def test_the_twin_of_the_remote_config_trains_from_a_server_into_its_cache(
    tiny_shards: Path, tmp_path: Path
) -> None:
    name, kept = "clip/remote_config", tmp_path / "kept"
    with serving(tiny_shards) as server:
        words = [*tiny_twin(name, server.url, tmp_path / "run"), f"data.cache.folder={kept}"]
        assert command_line.main([name, *words]) == 0
    assert list(kept.glob("*.tar"))


def test_the_twin_of_the_multi_site_config_draws_from_both_by_their_weights(
    tiny_shards: Path, other_shards: Path, tmp_path: Path
) -> None:
    name = "clip/multi_site_config"
    words = tiny_twin(name, tiny_shards, tmp_path, other_shards)
    assert command_line.main([name, *words, *SILENT, "max_steps=5"]) == 0
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert (last["data/ours/drawn"], last["data/theirs/drawn"]) == (14, 6)
