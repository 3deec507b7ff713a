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
        *("multi_gpu_ddp", "multi_gpu_zero1", "multi_gpu_zero2", "multi_gpu_zero3"),
        *("multi_node_zero2", "multi_node_zero3", "single_gpu", "single_gpu_zero2"),
    ]
    assert [path.stem for path in DEEPSPEED] == ["zero0", "zero1", "zero2", "zero3"]


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


@pytest.mark.parametrize("path", DEEPSPEED, ids=lambda path: path.stem)
def test_deepspeed_reads_every_memory_file_and_none_owns_batch_accumulation_or_clipping(path: Path) -> None:
    settings = json.loads(path.read_text())
    zero = DeepSpeedZeroConfig(**settings["zero_optimization"])
    assert f"zero{int(zero.stage)}" == path.stem
    for key in ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping"):
        assert settings[key] == "auto"
    assert path.name in (ROOT / "ds_configs" / "README.md").read_text()
