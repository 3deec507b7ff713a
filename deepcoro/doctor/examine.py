"""All that the doctor looks at, in order."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from deepcoro.doctor import films, kernels, machine, ranks, software
from deepcoro.doctor.finding import Finding
from deepcoro.run_config import RunConfig

BATCHES_AHEAD = 3
"""That a loader worker holds: two ready and one in the making."""


@dataclass(frozen=True)
class Examination:
    """What is to be looked at."""

    config: RunConfig
    has_config: bool = True
    """False: `config` are the defaults, and what belongs to a config is left out."""
    seconds: float = 10.0
    """Of reading shards."""
    timeout_s: float = 120.0
    """For ranks to find each other."""


def examine(asked: Examination, say: Callable[[str], None]) -> Iterator[Finding]:
    """`say` is told what is looked at next: some of it takes seconds."""
    with _errors_only():
        yield from _examine(asked, say)


@contextlib.contextmanager
def _errors_only() -> Iterator[None]:
    """The findings say what would be logged."""
    ours = logging.getLogger("deepcoro")
    level = ours.level
    ours.setLevel(logging.ERROR)
    try:
        yield
    finally:
        ours.setLevel(level)


def _examine(asked: Examination, say: Callable[[str], None]) -> Iterator[Finding]:
    config = asked.config
    say("machine and software")
    found = machine.machine(config.run_dir)
    yield from software.findings(software.software(bool(found.gpus)))
    num_ranks = max(len(found.gpus), 1)
    yield from machine.findings(found, need_of(config, num_ranks, counts_model=asked.has_config))
    if asked.has_config:
        say("kernels")
        yield from kernels.findings(kernels.kernels(config))
    say("ranks")
    yield from ranks.findings(ranks.talk(len(found.gpus), asked.timeout_s))
    if config.data.shards is None and not config.data.sources:
        yield Finding(
            "shards", "note", "none were named", "CONFIG --shards FOLDER measures how fast they are read"
        )
        return
    say(f"shards, {asked.seconds:g} s")
    yield from films.findings(films.films(config, asked.seconds), num_ranks, found.cores)


def need_of(config: RunConfig, num_ranks: int, counts_model: bool = True) -> machine.Need:
    """What a config asks of one machine."""
    data, video = config.data, config.data.fields["video"]
    clip_bytes = video.frames * video.size_px**2  # grey, a byte a pixel
    batch_bytes = config.batch_size * data.clips_per_sample * clip_bytes
    return machine.Need(
        ranks=num_ranks,
        run_dir=Path(config.run_dir),
        workers=data.num_workers,
        loader_gb=data.num_workers * BATCHES_AHEAD * batch_bytes / 1e9,
        checkpoints_gb=_checkpoints_gb(config) if counts_model else 0.0,
        bf16=config.precision == "bf16",
    )


def _checkpoints_gb(config: RunConfig) -> float:
    """The newest, the best, and the one being written."""
    from deepcoro.planning.activations import Subject

    return (config.checkpoint.keep + 2) * Subject(config, "cpu").parameters.checkpoint_bytes / 1e9
