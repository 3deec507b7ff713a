"""How long a study takes from a folder of DICOM films to a written answer, and how much of it is decoding. Weights are random: they take as
long as trained ones.
"""

import dataclasses
import json
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deepcoro.angiography.cohort import FilmPlan, films_of, patient_of, studies_of
from deepcoro.angiography.folder import make_film
from deepcoro.angiography.presets import FULL
from deepcoro.checkpoint import Retention, Snapshot, write
from deepcoro.config import ConfigError, dump, find_config
from deepcoro.inference.model import Answerer
from deepcoro.inference.opened import FilmOpener
from deepcoro.inference.predict import Outputs, predict
from deepcoro.inference.sources import films_source
from deepcoro.ingest.identity import Identity
from deepcoro.model import VideoTextModel
from deepcoro.run_config import load_run_config

Syntax = Literal["explicit", "rle", "j2k"]
CONFIGS = {"tiny": "demo/tiny_probe", "mvit_v2_s": "linear_probing/base_config"}
"""Variant of the encoder -> config of a run of heads over whole studies."""
_SECRET = b"benchmark of generated films 000"


@dataclass(frozen=True)
class Study:
    """Films of one generated study."""

    films: int = 10
    frames: int = 60
    size_px: int = 512
    syntax: Syntax = "j2k"
    """`explicit` is not compressed; the others are lossless."""


@dataclass(frozen=True)
class Seconds:
    """Of one study."""

    wall: float
    """From the folder to the written answer."""
    decode: float
    """Of these, from the files to encoded films."""
    own_cpu: float
    """Process time of this process, in which the model runs."""
    decoding_cpu: float
    """Process time of the processes that decode."""


def write_study(folder: Path, study: Study) -> int:
    """Films of a generated patient, both trees; returns their bytes. ConfigError for more than the trees have views."""
    plans: list[FilmPlan] = []
    for a_side in range((study.films + 1) // 2, study.films + 1):  # a tree may have fewer views than half
        plans = _plans(study, a_side)
        if len(plans) >= study.films:
            break
    else:
        raise ConfigError(f"{study.films} films: a generated study has {len(plans)} views; ask for fewer")
    size = 0
    for plan in plans[: study.films]:
        plan = dataclasses.replace(plan, format=f"dicom_{study.syntax}")
        path = folder / plan.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        make_film(folder, plan)
        size += path.stat().st_size
    return size


def _plans(study: Study, a_side: int) -> list[FilmPlan]:
    """The films of a patient's one study, up to so many of each tree."""
    changes = {
        "films_per_side": (a_side, a_side),
        "frames": (study.frames, study.frames),
        "size_px": study.size_px,
        "one_sided": 0.0,
        "repeats": 0.0,
        "other_films": (0, 0),
        "interventions": 0.0,
    }
    preset = FULL.model_copy(update=changes)
    (whole,) = studies_of(preset, 0, patient_of(preset, 0, 0))
    return films_of(preset, 0, whole, "dicom")


def write_untrained(run_dir: Path, variant: str, num_films: int) -> Path:
    """A run folder whose checkpoint `step_0` has the weights that a run of heads starts from."""
    overrides = [f"run_dir={run_dir}", f"data.num_videos={num_films}", "data.shards=none"]
    config = load_run_config(find_config(CONFIGS[variant]), overrides)
    state = {"config": dump(config), "data": {"training_patients": []}}
    weights = VideoTextModel(config, None, 0.45, 0.22).state_dict()
    snapshot = Snapshot(0, weights, {}, json.dumps(state).encode(), is_best=False)
    write(config.checkpoint_folder, snapshot, Retention(newest=1))
    return run_dir


def time_study(
    films: Path, answerer: Answerer, opener: FilmOpener, output: Path, repeats: int
) -> list[Seconds]:
    """What `tools/predict.py` does with the folder, over and over, after one turn that is not counted."""
    identity, found = Identity(_SECRET), []
    for turn in range(repeats + 1):
        began, own, decoding = time.perf_counter(), time.process_time(), children_cpu_s()
        source = films_source(films, identity, opener, None, output)
        (answer,) = predict(source, answerer, Outputs(output)).answers
        wall = time.perf_counter() - began
        if answer.skipped:
            raise ConfigError(f"{len(answer.skipped)} films were skipped: {answer.skipped[0].reason}")
        cpu = (time.process_time() - own, children_cpu_s() - decoding)
        if turn:
            found.append(Seconds(wall, answer.seconds.decode, *cpu))
    return found


def children_cpu_s(pid: int | None = None) -> float:
    """Process time so far of the children that are there (Linux; elsewhere 0)."""
    parent, ticks = pid or os.getpid(), 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it ended between the two looks
            continue
        if int(fields[1]) == parent:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def row_of(name: str, syntax: str, times: Sequence[Seconds]) -> str:
    """A line of the table: medians over the turns."""
    wall, decode, own, decoding = (
        statistics.median(getattr(each, key) for each in times)
        for key in ("wall", "decode", "own_cpu", "decoding_cpu")
    )
    return f"| {name} | {syntax} | {wall:.2f} | {decode:.2f} | {decode / wall:.0%} | {decoding:.2f} | {own:.2f} |"


HEADER = """\
| model | DICOM | s a study | of these decoding | share | CPU s, processes that decode | CPU s, model |
|---|---|---|---|---|---|---|"""
