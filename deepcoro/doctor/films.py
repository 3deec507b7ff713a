"""How fast one rank's loader reads films from the shards, through the stream that training uses, against what a GPU takes."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from deepcoro.config import ConfigError, DataError
from deepcoro.doctor.finding import Finding

H200 = "H200"
"""On which the speed of a training step was measured (deepcoro/speed.py); of other GPUs it is taken in the ratio of their peaks."""
WARM_UP = 3
"""Batches a worker that are not timed: those it has made ahead, and one."""


@dataclass(frozen=True)
class Films:
    """What was read, and what is wanted."""

    clips_per_s: float | None
    """Of one rank; None where nothing could be read."""
    workers: int
    error: str = ""
    wanted_clips_per_s: float | None = None
    """Of one GPU."""
    wanted_by: str = ""
    bad: int = 0
    """Samples among them that could not be read."""


def films(config: Any, seconds: float = 10.0) -> Films:
    """Reads the training split for about so long. Raises nothing that bad shards cause."""
    workers = config.data.num_workers
    try:
        clips_per_s, bad = _read(config, seconds)
    except (ConfigError, DataError, OSError) as error:
        return Films(None, workers, str(error))
    wanted, by = wanted_rate(config)
    return Films(clips_per_s, workers, "", wanted, by, bad)


def findings(found: Films, ranks: int, cores: int) -> Iterator[Finding]:
    """One line, or two where samples are damaged."""
    if found.clips_per_s is None:
        yield Finding(
            "shards",
            "broken",
            found.error,
            "tools/shard_dataset.py --output FOLDER --verify reads every byte",
        )
        return
    if found.bad:
        yield Finding(
            "shards",
            "broken",
            f"{found.bad} samples could not be read",
            "tools/shard_dataset.py --output FOLDER --verify names them",
        )
    a_worker = found.clips_per_s / max(min(found.workers, cores), 1)  # those past the cores only shared them
    what = f"one rank reads {found.clips_per_s:.0f} clips/s with {found.workers} workers"
    if found.wanted_clips_per_s is None:
        yield Finding("shard speed", "ok", what)
        return
    what += f"; {found.wanted_by} takes {found.wanted_clips_per_s:.0f}"
    if found.clips_per_s >= found.wanted_clips_per_s:
        yield Finding("shard speed", "ok", what)
        return
    workers = math.ceil(found.wanted_clips_per_s / a_worker)
    if ranks * (workers + 1) <= cores:
        yield Finding("shard speed", "slow", what, f"data.num_workers={workers}")
        return
    yield Finding(
        "shard speed",
        "slow",
        what,
        f"{workers} workers a rank would do and {ranks} x {workers + 1} processes are more than {cores} cores: shards of 256 px, "
        "local disks or data.cache.folder, or GPUs that wait",
    )


def wanted_rate(config: Any) -> tuple[float | None, str]:
    """Clips/s that one GPU takes, and who says so: the run's own log where run_dir has one, else operations over what is reached."""
    logged = _logged_rate(config.run_dir)
    if logged is not None:
        return logged * config.data.clips_per_sample, f"a rank of {config.run_dir}"
    if config.towers.video.type != "video_mvit":
        return None, ""
    name, tflops = _gpu()
    return tflops * 1e12 / _flops_per_clip(config), name


def _read(config: Any, seconds: float) -> tuple[float, int]:
    """Clips/s without the first batches, and damaged samples."""
    from deepcoro.data.collection import Collection
    from deepcoro.data.damage import Damage
    from deepcoro.data.plan import Plan
    from deepcoro.data.stream import TrainingStream
    from deepcoro.data.training_order import training_order

    data = config.data
    shards = Collection.open(data)
    units = shards.units("train", data.multi_video, data.num_videos)
    order = training_order(shards, units, data, config.seed, config.batch_size)
    plan = Plan(order=order, batch_size=config.batch_size)
    damage = Damage(plan.num_units, 1.0)
    fields = {"video": data.fields["video"].build(None)}
    batches = iter(TrainingStream(shards, units, fields, plan, data.workers, damage))
    for _ in islice(batches, WARM_UP * max(data.num_workers, 1)):
        pass
    clips, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        clips += int(next(batches)["clip_mask"].sum())
    batches.close()
    return clips / spent, damage.own


def _logged_rate(run_dir: Path) -> float | None:
    """Samples/s of a rank while it did not wait for data, from the last line that has them; None where nothing was trained yet."""
    log, record = run_dir / "metrics.jsonl", run_dir / "run_record.json"
    if not log.is_file() or not record.is_file():
        return None
    lines = [json.loads(line) for line in log.read_text().splitlines() if '"speed/step_s"' in line]
    starts = json.loads(record.read_text()).get("starts", [])
    if not lines or not starts:
        return None
    speed = {key.removeprefix("speed/"): value for key, value in lines[-1].items()}
    busy_s = speed["step_s"] - speed["data_wait_s"]
    return speed["samples_per_s"] * speed["step_s"] / max(busy_s, 1e-3) / starts[-1]["processes"]


def _gpu() -> tuple[str, float]:
    import torch

    from deepcoro.speed import PEAK_TFLOPS, REACHED_TFLOPS, peak_tflops

    if not torch.cuda.is_available():
        return f"an {H200}", REACHED_TFLOPS
    peak = peak_tflops(torch.device("cuda"))
    if peak is None:
        return f"an {H200}", REACHED_TFLOPS
    return torch.cuda.get_device_name(), REACHED_TFLOPS * peak / PEAK_TFLOPS[H200]


def _flops_per_clip(config: Any) -> float:
    """Of forward and backward, counted in a forward pass of one clip on the CPU."""
    from deepcoro.planning.example import without_files
    from deepcoro.speed import training_flops_per_clip

    video = config.data.fields["video"]
    tower = without_files(config).towers.video.build(video.frames, video.size_px)
    return training_flops_per_clip(tower, video.frames, video.size_px)
