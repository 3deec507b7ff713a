"""What answers: a run's checkpoint, or a folder that `tools/export_model.py` wrote. Either way a config, weights and a name."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from deepcoro import __version__, checkpoint
from deepcoro.calibrated import Calibration, read_calibration
from deepcoro.config import ConfigError
from deepcoro.inference.prediction import Model
from deepcoro.model import VideoTextModel
from deepcoro.normalisation import carried_by
from deepcoro.run_config import RunConfig, run_config_from_dump
from deepcoro.seen import Seen, seen_of_state
from deepcoro.sharing.layout import TOKENIZER, is_shared_model, read_shared_model, read_shared_weights


@dataclass(frozen=True)
class Trained:
    """A trained model, not yet built."""

    config: RunConfig
    weights: Callable[[], dict[str, Tensor]]
    """Reads them: every tensor of the model by name."""
    tokenizer_folder: Path
    calibration: Calibration | None
    """What val fixed; None where val was not run with these weights."""
    trained_on: Seen
    """Whom the weights have seen, as far as is told."""
    who: Model

    def build(self) -> tuple[VideoTextModel, Any]:
        """The model on the CPU, with the grey levels it was trained with, and the tokenizer of its texts (None without a text tower)."""
        text = self.config.towers.text
        tokenizer = None if text is None else text.load_tokenizer(self.tokenizer_folder)
        return model_of_weights(self.config, self.weights(), tokenizer), tokenizer


def open_trained(path: Path, load: str = "best") -> Trained:
    """`load`: of a run folder best, last or step_N; a shared folder holds one model. ConfigError when there is no such checkpoint, or
    `path` is no run."""
    if is_shared_model(path):
        return _shared(path, load)
    if not (path / "checkpoints").is_dir():
        what = "is neither a run folder nor one of tools/export_model.py" if path.is_dir() else "is no folder"
        raise ConfigError(
            f"'{path}' {what}; a run folder is the run_dir that train.py wrote, with checkpoints/ in it",
            topic="no-checkpoint",
        )
    saved = checkpoint.find(path / "checkpoints", load)
    state = saved.state()
    who = Model(
        name=path.resolve().name,
        step=saved.step,
        digest=saved.digest(),
        data=str(state["data"].get("fingerprint", "unknown"))[:16],
        deepcoro=__version__,
    )
    return Trained(
        config=config_of_checkpoint(state, path),
        weights=saved.evaluated_weights,
        tokenizer_folder=path / "tokenizer",
        calibration=read_calibration(path, who.digest),
        trained_on=seen_of_state(state["data"]),
        who=who,
    )


def _shared(folder: Path, load: str) -> Trained:
    about = read_shared_model(folder)
    if load not in ("best", "last", f"step_{about.step}"):
        raise ConfigError(f"'{folder}' holds the model of step {about.step} alone, and {load} is asked for")
    known = {key: getattr(about, key) for key in ("name", "step", "digest", "data")}
    return Trained(
        config=about.run_config().model_copy(update={"run_dir": folder}),
        weights=lambda: read_shared_weights(folder, about),
        tokenizer_folder=folder / TOKENIZER,
        calibration=about.calibration,
        trained_on=Seen(is_whole=False),  # a folder for others names no patient
        who=Model(deepcoro=__version__, **known),
    )


def config_of_checkpoint(state: dict[str, Any], run_dir: Path) -> RunConfig:
    """The config of the checkpoint's training; the weights that it started from may be on another machine and are not asked for."""
    config = run_config_from_dump(state["config"], "the checkpoint")
    video = config.towers.video.model_copy(update={"weights": None})
    towers = config.towers.model_copy(update={"video": video})
    return config.model_copy(update={"run_dir": run_dir, "towers": towers})


def model_of_weights(config: RunConfig, weights: dict[str, Tensor], tokenizer: Any) -> VideoTextModel:
    """The model with these weights and the constants of the grey levels that they were trained with."""
    model = VideoTextModel(config, tokenizer, *carried_by(weights))
    model.load_state_dict(weights)
    return model
