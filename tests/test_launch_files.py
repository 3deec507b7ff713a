"""accelerate_configs/ and ds_configs/: launch facts and memory facts, each read by the library that will read it."""

import json
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

from tests.launch import ROOT

ACCELERATE = sorted((ROOT / "accelerate_configs").glob("*.yaml"))
DEEPSPEED = sorted((ROOT / "ds_configs").glob("*.json"))


def test_these_launch_files_ship() -> None:
    assert [path.stem for path in ACCELERATE] == [
        *("cpu_1", "cpu_2_ddp", "cpu_2_zero2", "cpu_2_zero3"),
        *("multi_gpu_ddp", "multi_gpu_zero1", "multi_gpu_zero2", "multi_gpu_zero2_offload"),
        *("multi_gpu_zero3", "multi_gpu_zero3_offload"),
        *("multi_node_ddp", "multi_node_zero2", "multi_node_zero3", "multi_node_zero3_hpz"),
        *("single_gpu", "single_gpu_zero2"),
    ]
    assert [path.stem for path in DEEPSPEED] == [
        *("zero0", "zero1", "zero2", "zero2_offload"),
        *("zero3", "zero3_hpz", "zero3_nvme", "zero3_offload", "zero3_plus_plus"),
    ]


@pytest.mark.parametrize("path", ACCELERATE, ids=lambda path: path.stem)
def test_accelerate_reads_every_launch_file_and_it_takes_the_elastic_launcher(path: Path) -> None:
    config = load_config_from_file(str(path))
    kind = config.distributed_type
    assert kind in ("DEEPSPEED", "MULTI_GPU")  # the two that accelerate starts through torch's elastic agent
    assert config.num_processes >= config.num_machines
    settings = yaml.safe_load(path.read_text())
    if kind == "DEEPSPEED":
        assert "mixed_precision" not in settings  # refused beside a deepspeed_config_file
        assert (ROOT / config.deepspeed_config["deepspeed_config_file"]).is_file()
    assert path.read_text().startswith("# ")


NOT_RUN = ("zero3_hpz", "zero3_nvme", "zero3_plus_plus")


@pytest.mark.parametrize("path", DEEPSPEED, ids=lambda path: path.stem)
def test_deepspeed_reads_every_memory_file_and_none_owns_batch_accumulation_or_clipping(path: Path) -> None:
    settings = json.loads(path.read_text())
    zero = DeepSpeedZeroConfig(**settings["zero_optimization"])
    assert path.stem.startswith(f"zero{int(zero.stage)}")
    for key in ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping"):
        assert settings[key] == "auto"


@pytest.mark.parametrize("path", DEEPSPEED, ids=lambda path: path.stem)
def test_every_memory_file_opens_with_what_it_saves_and_costs_and_the_table_says_the_same(path: Path) -> None:
    settings = json.loads(path.read_text())
    assert list(settings)[:2] == ["saves", "costs"]
    row = f"| `{path.name}` | {settings['saves']} | {settings['costs']} |"
    assert row in (ROOT / "ds_configs" / "README.md").read_text()
    assert settings["saves"].startswith("EXPERIMENTAL, not run here. ") == (path.stem in NOT_RUN)


@pytest.mark.parametrize("path", DEEPSPEED, ids=lambda path: path.stem)
def test_buckets_are_numbers(path: Path) -> None:
    zero = json.loads(path.read_text())["zero_optimization"]
    buckets = {key: value for key, value in zero.items() if "bucket_size" in key or "max_" in key}
    assert all(isinstance(value, int) for value in buckets.values())
    assert bool(buckets) == (zero["stage"] > 0)
