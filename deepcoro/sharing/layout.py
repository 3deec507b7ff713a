"""What a shared model's folder holds, and how it is read: `config.json` says what to build, `model*.safetensors` fill it."""

import hashlib
import json
from pathlib import Path
from typing import Any

from torch import Tensor

from deepcoro import exported
from deepcoro.calibrated import Calibration
from deepcoro.config import Block, ConfigError, DataError
from deepcoro.run_config import RunConfig, run_config_from_dump

CONFIG, CARD = exported.CARD, exported.README
TOKENIZER, BANK = "tokenizer", "embeddings"
SHARD_BYTES = 5_000_000_000
"""Weights that take more are written as several files, as the hub wants them."""


class SharedModel(Block):
    """`config.json`: which model this is, and all that is needed to build it and to show it films."""

    format: str = exported.MODEL_FORMAT
    """Version of this form."""
    name: str
    """Of the run."""
    step: int
    """Optimiser steps it was trained for."""
    digest: str
    """Of the checkpoint that it was, as predictions and banks of the run name it."""
    data: str
    """Fingerprint of the films it was trained on."""
    deepcoro: str
    """Version that wrote the folder."""
    weights: dict[str, str]
    """File -> sha256."""
    calibration: Calibration | None = None
    """Thresholds and recalibration that val fixed; None where val was not run with this checkpoint."""
    config: dict[str, Any]
    """Of the run, what building the model and showing it films takes: no place of a machine, no table, no key."""

    def run_config(self) -> RunConfig:
        return run_config_from_dump(self.config, CONFIG)


def is_shared_model(folder: Path) -> bool:
    """Whether the folder is one that `tools/export_model.py` wrote (of whatever version)."""
    file = folder / CONFIG
    if not file.is_file():
        return False
    named = json.loads(file.read_text()).get("format", "")
    return str(named).startswith(exported.MODEL_FORMAT.split("/")[0] + "/")


def read_shared_model(folder: Path) -> SharedModel:
    """ConfigError for another version's form."""
    tree = json.loads((folder / CONFIG).read_text())
    if tree.get("format") != exported.MODEL_FORMAT:
        raise ConfigError(
            f"'{folder}' has format {tree.get('format')!r}; this version of deepcoro reads {exported.MODEL_FORMAT!r}"
        )
    return SharedModel.model_validate(tree)


def read_shared_weights(folder: Path, about: SharedModel) -> dict[str, Tensor]:
    """Every tensor by name, from one file or several. DataError where a file is not the one that was written."""
    from safetensors.torch import load_file

    weights: dict[str, Tensor] = {}
    for name, digest in about.weights.items():
        file = folder / name
        if not file.is_file() or sha256_of(file) != digest:
            raise DataError(
                f"'{file}' is missing or damaged (config.json has its sha256); copy the folder anew"
            )
        weights |= load_file(file)
    return weights


def sha256_of(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
