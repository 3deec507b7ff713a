"""Where numbers go: metrics.jsonl always, TensorBoard and W&B on request, a progress bar on rank 0. The same keys everywhere."""

import json
import logging
import os
import secrets
from pathlib import Path
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from deepcoro.config import dump
from deepcoro.run_config import RunConfig

logger = logging.getLogger(__name__)

Numbers = dict[str, float]


class Tracker:
    """Writes on rank 0; on other ranks every call does nothing."""

    def __init__(self, config: RunConfig, is_main: bool, start_step: int, max_steps: int):
        self._is_main = is_main
        if not is_main:
            return
        self.path = config.run_dir / "metrics.jsonl"
        cut_back(self.path, start_step)
        self._lines = self.path.open("a")
        self._sinks = _sinks(config)
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
        """One line of metrics.jsonl, flushed, so that a crash loses nothing that was logged."""
        if not self._is_main:
            return
        self._lines.write(json.dumps({"step": step} | numbers) + "\n")
        self._lines.flush()
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

    def close(self) -> None:
        self._writer.close()


class _WandB:
    """Resumes the run whose id the run folder holds; films and reports are never sent."""

    def __init__(self, config: RunConfig):
        import wandb

        id_file = config.run_dir / "wandb_id"
        run_id = id_file.read_text() if id_file.is_file() else secrets.token_hex(4)
        id_file.write_text(run_id)
        self._run = wandb.init(
            id=run_id,
            resume="allow",
            project=config.tracking.wandb_project,
            entity=config.tracking.wandb_entity,
            name=config.run_dir.name,
            dir=str(config.run_dir),
            config=dump(config),
            mode=wandb_mode(),
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


def _sinks(config: RunConfig) -> list[Any]:
    sinks: list[Any] = []
    if config.tracking.use_tensorboard:
        sinks.append(_TensorBoard(config))
    if config.tracking.use_wandb:
        sinks.append(_WandB(config))
    return sinks
