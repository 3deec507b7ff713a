"""Run folders of tiny models with random weights, made without training, and the films they are shown."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from deepcoro import checkpoint
from deepcoro.calibrated import Calibration, Fixed, write_calibration
from deepcoro.config import dump, find_config
from deepcoro.model import VideoTextModel
from deepcoro.run_config import load_run_config
from tests.ingest.films import moving_bar

TEXTS = ["Severe stenosis of the mid LAD, 80 %.", "No significant stenosis of the right coronary artery."]
PATIENT = "7c1e5a0db35f6a21"
"""Digest of a training patient; no exported file may hold it."""


def made_run(run_dir: Path, name: str, *words: str, constants: tuple[float, float] = (91.0, 40.0)) -> Path:
    """A run folder with one checkpoint of `name` at step 3, as train.py leaves it."""
    config = load_run_config(find_config(name), [f"run_dir={run_dir}", "data.shards=/data/private", *words])
    text = config.towers.text
    if text is not None:
        text.make_tokenizer(TEXTS, run_dir / "tokenizer")
    tokenizer = None if text is None else text.load_tokenizer(run_dir / "tokenizer")
    torch.manual_seed(0)
    model = VideoTextModel(config, tokenizer, *constants)
    seen = {"training_patients": [PATIENT], "training_keys": ["key"], "training_patients_are_all": True}
    state = {"config": dump(config), "data": {"fingerprint": "f" * 32, "folder": "shards"} | seen}
    weights = {key: value.detach().clone() for key, value in model.state_dict().items()}
    snapshot = checkpoint.Snapshot(3, weights, {}, json.dumps(state).encode(), True)
    checkpoint.write(run_dir / "checkpoints", snapshot, checkpoint.Retention(2))
    return run_dir


def calibrated(run_dir: Path, head: str) -> Path:
    """The run with a threshold of val for one head."""
    digest = checkpoint.find(run_dir / "checkpoints", "best").digest()
    fixed = {head: Fixed(threshold=0.0, rule="youden", num=10, num_positive=5)}
    about = {"split": "val", "data": "shards", "data_fingerprint": "f", "created": "now"}
    write_calibration(run_dir, Calibration(checkpoint=digest, heads=fixed, **about))
    return run_dir


@pytest.fixture(scope="session")
def multitask_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Matches, writes and guesses hidden parts."""
    return made_run(tmp_path_factory.mktemp("made") / "mine", "demo/tiny_multitask")


@pytest.fixture(scope="session")
def bars() -> list[np.ndarray]:
    """Three films that differ."""
    return [np.roll(moving_bar(), 7 * number, axis=2) for number in range(3)]
