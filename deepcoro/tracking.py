"""Where numbers go: metrics.jsonl always, TensorBoard, W&B and trackio on request, a progress bar on rank 0. The same keys everywhere.

Films go nowhere unless `tracking.log_films` says so.
"""

import importlib.util
import io
import json
import logging
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from deepcoro.config import ConfigError, dump
from deepcoro.logged_films import LoggedFilm
from deepcoro.run_config import RunConfig

logger = logging.getLogger(__name__)

Numbers = dict[str, float]
NOTHING: Mapping[str, Any] = MappingProxyType({})


class Tracker:
    """Writes on rank 0; on other ranks every call does nothing."""

    def __init__(
        self,
        config: RunConfig,
        is_main: bool,
        start_step: int,
        max_steps: int,
        start: Mapping[str, Any] = NOTHING,
    ):
        """`start`: what this start is remembered by (deepcoro.run_record), told with the config to who keeps configs."""
        self._is_main = is_main
        if not is_main:
            return
        self.path = config.run_dir / "metrics.jsonl"
        cut_back(self.path, start_step)
        self._lines = self.path.open("a")
        self._sinks = _sinks(config, dict(start))
        self._bar = Progress(
            TextColumn("train"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._task = self._bar.add_task("train", total=max_steps, completed=start_step, note="")
        self._bar.start()

    def advance(self, step: int) -> None:
        """Moves the progress bar; touches no tensor."""
        if self._is_main:
            self._bar.update(self._task, completed=step)

    def log(self, step: int, numbers: Numbers) -> None:
        """One line of metrics.jsonl, on the disk before this returns: neither a killed process nor a node that dies loses it."""
        if not self._is_main:
            return
        self._lines.write(json.dumps({"step": step} | numbers) + "\n")
        self._lines.flush()
        os.fsync(self._lines.fileno())
        for sink in self._sinks:
            sink.log(step, numbers)
        if "train/loss" in numbers:
            self._bar.update(self._task, note=f"loss {numbers['train/loss']:.4f}")

    def go_back(self, step: int) -> None:
        """Drops the lines after `step`, which the run is about to write anew. W&B and TensorBoard keep what they were told."""
        if not self._is_main:
            return
        self._lines.close()
        cut_back(self.path, step)
        self._lines = self.path.open("a")
        self.advance(step)

    def log_films(self, step: int, films: Sequence[LoggedFilm]) -> None:
        """To the sinks that show pictures: W&B and TensorBoard."""
        if not (self._is_main and films):
            return
        for sink in self._sinks:
            if hasattr(sink, "log_films"):
                sink.log_films(step, films)

    def close(self) -> None:
        if not self._is_main:
            return
        self._bar.stop()
        self._lines.close()
        for sink in self._sinks:
            sink.close()


def cut_back(path: Path, step: int) -> None:
    """Drops the lines after `step`: the resumed run writes them anew. An unfinished last line goes too."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines(keepends=True):
        try:
            if line.endswith("\n") and json.loads(line)["step"] <= step:
                kept.append(line)
        except json.JSONDecodeError:
            logger.warning("an unfinished line of %s was dropped", path.name)
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept))
    temporary.replace(path)


class _TensorBoard:
    def __init__(self, config: RunConfig):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(config.run_dir / "tensorboard"))

    def log(self, step: int, numbers: Numbers) -> None:
        for key, value in numbers.items():
            self._writer.add_scalar(key, value, step)

    def log_films(self, step: int, films: Sequence[LoggedFilm]) -> None:
        for number, film in enumerate(films):
            picture = np.asarray(Image.open(io.BytesIO(film.jpeg)).convert("RGB"))
            self._writer.add_image(f"films/{number}", picture, step, dataformats="HWC")
            # TensorBoard's pictures have no captions
            self._writer.add_text(f"films/{number}", film.caption.replace("\n", "  \n"), step)

    def close(self) -> None:
        self._writer.close()


class _WandB:
    """Resumes the run whose id the run folder holds."""

    def __init__(self, config: RunConfig, start: dict[str, Any]):
        import wandb

        id_file = config.run_dir / "wandb_id"
        # the agent of a W&B sweep has named the run already
        fresh = os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
        run_id = id_file.read_text() if id_file.is_file() else fresh
        id_file.write_text(run_id)
        self._run = wandb.init(
            id=run_id,
            resume="allow",
            project=config.tracking.wandb_project,
            entity=config.tracking.wandb_entity,
            name=config.run_dir.name,
            dir=str(config.run_dir),
            config=dump(config) | {"start": start},
            mode=wandb_mode(),
            save_code=False,
        )

    def log(self, step: int, numbers: Numbers) -> None:
        self._run.log(numbers, step=step)

    def log_films(self, step: int, films: Sequence[LoggedFilm]) -> None:
        import wandb

        pictures = [
            wandb.Image(Image.open(io.BytesIO(film.jpeg)), caption=film.caption, file_type="jpg")
            for film in films
        ]
        self._run.log({"films": pictures}, step=step)

    def close(self) -> None:
        self._run.finish()


class _Trackio:
    """Numbers of one run of that name, gone on with when the run is resumed."""

    def __init__(self, config: RunConfig, start: dict[str, Any]):
        if importlib.util.find_spec("trackio") is None:
            raise ConfigError(
                "tracking.use_trackio=true needs the package trackio: pip install trackio, or set it to false",
                topic="missing-packages",
            )
        import trackio

        self._run = trackio.init(
            project=config.tracking.wandb_project,
            name=config.run_dir.name,
            config=dump(config) | {"start": start},
            resume="allow",
            private=True,
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, step: int, numbers: Numbers) -> None:
        self._run.log(numbers, step=step)

    def close(self) -> None:
        self._run.finish()


def wandb_mode() -> str:
    """The environment's WANDB_MODE, else online with an API key and offline without one (wandb itself would raise)."""
    if "WANDB_MODE" in os.environ:
        return os.environ["WANDB_MODE"]
    has_key = "WANDB_API_KEY" in os.environ or _netrc_names_wandb()
    if not has_key:
        logger.info("no W&B key: logging offline; `wandb sync` uploads the run folder later")
    return "online" if has_key else "offline"


def _netrc_names_wandb() -> bool:
    netrc = Path.home() / ".netrc"
    return netrc.is_file() and "wandb" in netrc.read_text()


def _sinks(config: RunConfig, start: dict[str, Any]) -> list[Any]:
    sinks: list[Any] = []
    if config.tracking.use_tensorboard:
        sinks.append(_TensorBoard(config))
    if config.tracking.use_wandb:
        sinks.append(_WandB(config, start))
    if config.tracking.use_trackio:
        sinks.append(_Trackio(config, start))
    return sinks
