"""A window of optimiser steps under torch.profiler: where the time of a step goes, as a Chrome trace in `run_dir/profile/`."""

import logging
from pathlib import Path
from typing import Literal

import pydantic
import torch
from torch.profiler import ProfilerActivity, profile

from deepcoro import distributed
from deepcoro.config import Block, ConfigError

logger = logging.getLogger(__name__)

FOLDER = "profile"


class Profile(Block):
    """Steps that torch.profiler watches, to see where the time goes."""

    steps: tuple[int, int] | None = None
    """First and last optimiser step of the window, such as [10, 13]; its Chrome trace is written to run_dir/profile/. Unset = none."""
    ranks: Literal["first", "all"] = "first"
    """Whose traces are written: the first process's, or one of each."""

    @pydantic.model_validator(mode="after")
    def _first_comes_first(self) -> "Profile":
        if self.steps is not None and not 1 <= self.steps[0] <= self.steps[1]:
            raise ValueError(
                f"profile.steps is {list(self.steps)}; give the first step, from 1, then the last"
            )
        return self


class Profiling:
    """Told of each step before it begins; changes nothing that is computed."""

    def __init__(self, config: Profile, run_dir: Path, max_steps: int) -> None:
        """ConfigError when the window lies past the run's last step."""
        self._window = config.steps
        self._folder = run_dir / FOLDER
        self._profile: profile | None = None
        if self._window is None:
            return
        if self._window[1] > max_steps:
            raise ConfigError(
                f"profile.steps is {list(self._window)} and the run has {max_steps} steps; choose steps from 1 to {max_steps}"
            )
        if config.ranks == "first" and distributed.rank():
            self._window = None

    def before(self, step: int) -> None:
        """`step`: the one that begins now, 1 the run's first. Waits for the device where the window begins and after it."""
        if self._window is None:
            return
        if step > self._window[1]:
            self.close()
        elif step == self._window[0]:
            self._start()

    def close(self) -> None:
        """Writes the trace of a window that has begun, also when the run ends within it."""
        if self._profile is None:
            return
        finished, self._profile = self._profile, None
        finished.stop()
        path = self._folder / f"steps_{self._window[0]}_{self._window[1]}_rank_{distributed.rank()}.json.gz"
        unfinished = path.with_name(f"unfinished_{path.name}")
        finished.export_chrome_trace(str(unfinished))
        unfinished.replace(path)
        logger.info("profile: %s (open it in ui.perfetto.dev or chrome://tracing)", path)

    def _start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            activities.append(ProfilerActivity.CUDA)
        self._profile = profile(activities=activities)
        self._profile.start()
