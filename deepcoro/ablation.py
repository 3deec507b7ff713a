"""Which objective earns what: a run for each subset of them and each seed, and one table of all.

A run is `accelerate launch train.py` twice, for training and for evaluation. What is done is not done again: a run folder with results
of the split is kept as it is, one that was interrupted continues from its checkpoint.
"""

import csv
import fnmatch
import io
import itertools
import json
import logging
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from deepcoro import atomic
from deepcoro.config import ConfigError, DataError, dump, find_config
from deepcoro.numerals import decimals
from deepcoro.resumable import changed_keys
from deepcoro.run_config import RunConfig, load_run_config, run_config_from_dump

logger = logging.getLogger(__name__)

Subset = tuple[str, ...]
Launch = Callable[[Sequence[str]], int]
"""Runs `train.py` with these words; its exit code."""

_LENGTH = ("max_steps", "epochs", "batch_size", "gradient_accumulation_steps")
SHOWN = (
    "retrieval/text_to_video/R@5",
    "retrieval/text_to_video/within_stratum/R@5",
    "zero_shot/*/auroc",
    "clinical_findings/side/balanced_accuracy",
    "clinical_findings/dominance/balanced_accuracy",
    "clinical_findings/lesion/f1",
    "clinical_findings/lesion/hallucination_rate",
    "clinical_findings/lesion/f1_if_complete",
    "clinical_findings/lesion/hallucination_rate_if_complete",
    "masked_modeling/error",
    "masked_modeling/advantage_over_nearest_visible",
)
"""Columns of the Markdown table unless others are named; those that no run measured are left out."""


@dataclass(frozen=True)
class Study:
    """What is compared."""

    config: str
    """File or shipped name of the config that trains all objectives."""
    overrides: tuple[str, ...]
    """key=value words laid over it in every run."""
    subsets: tuple[Subset, ...]
    seeds: tuple[int, ...]
    split: str
    """val or test."""
    checkpoint: str
    """last or best."""
    output: Path


@dataclass(frozen=True)
class Arm:
    """One run of a study."""

    subset: Subset
    seed: int
    folder: Path


def all_subsets(objectives: Sequence[str], others_are_on: bool) -> tuple[Subset, ...]:
    """Every subset, the small ones first; the empty one too, where objectives that are always on remain."""
    sizes = range(0 if others_are_on else 1, len(objectives) + 1)
    return tuple(subset for size in sizes for subset in itertools.combinations(objectives, size))


def name_of(subset: Subset) -> str:
    """As in folders and tables."""
    return "+".join(subset) or "none"


def subset_named(text: str, objectives: Sequence[str]) -> Subset:
    """`contrastive+captioning` as a subset. ConfigError for a name that is no objective of the study."""
    names = text.split("+")
    unknown = [name for name in names if name not in objectives]
    if unknown or len(set(names)) < len(names):
        raise ConfigError(
            f"subset '{text}' names {unknown or 'an objective twice'}; allowed: {list(objectives)} joined by +"
        )
    return tuple(name for name in objectives if name in names)


def arms(study: Study) -> list[Arm]:
    """All runs; seeds outside, so that an interrupted study has whole rounds."""
    return [
        Arm(subset, seed, study.output / name_of(subset) / f"seed_{seed}")
        for seed in study.seeds
        for subset in study.subsets
    ]


def words(study: Study, arm: Arm, objectives: Sequence[str]) -> list[str]:
    """What `train.py` is given: the config, the user's overrides, and what makes this run the one it is."""
    whole = load_run_config(find_config(study.config), list(study.overrides))
    off = [name for name in objectives if name not in arm.subset]
    own = [f"objectives.{name}=false" for name in off]
    for key in ("loss_weights", "schedules"):  # they may name objectives of the run only
        of_whole = dump(whole)[key]
        of_run = {name: value for name, value in of_whole.items() if name not in off}
        own += [f"{key}={json.dumps(of_run)}"] if of_run != of_whole else []
    return [study.config, *study.overrides, *own, f"seed={arm.seed}", f"run_dir={arm.folder}"]


def run(study: Study, objectives: Sequence[str], launch: Launch) -> None:
    """Runs what is not done yet, one after the other. DataError when a run fails, ConfigError when a folder holds another run."""
    todo = arms(study)
    for number, arm in enumerate(todo, start=1):
        own = words(study, arm, objectives)
        expected = load_run_config(find_config(study.config), own[1:])
        _refuse_another_run(arm, expected)
        if results_of(arm, study.split) is not None:
            logger.info("%d of %d: %s is done", number, len(todo), arm.folder)
            continue
        logger.info("%d of %d: %s", number, len(todo), arm.folder)
        for mode in ("train", study.split):
            more = [] if mode == "train" else [f"checkpoint={study.checkpoint}"]
            if launch([*own, f"run_mode={mode}", *more]):
                raise DataError(
                    f"run {arm.folder} ({mode}) failed: {_reason(arm.folder)}; the same command goes on from here"
                )


def _refuse_another_run(arm: Arm, expected: RunConfig) -> None:
    path = arm.folder / "config.yaml"
    if not path.is_file():
        return
    there = dump(run_config_from_dump(yaml.safe_load(path.read_text()), str(path)))
    here = dump(expected)
    changed = changed_keys(there, here) + [key for key in _LENGTH if there[key] != here[key]]
    if changed:
        raise ConfigError(
            f"{arm.folder} was run with other values of {changed}; choose another --output or give them back"
        )


def _reason(folder: Path) -> str:
    path = folder / "exit.json"
    return (
        json.loads(path.read_text())["reason"]
        if path.is_file()
        else "it left no exit.json; see its output above"
    )


def results_of(arm: Arm, split: str) -> dict[str, float] | None:
    """Flat metrics of the split; None where it was not evaluated."""
    found = sorted((arm.folder / "results").glob(f"*_{split}.json"))
    return json.loads(found[-1].read_text())["metrics"] if found else None


@dataclass(frozen=True)
class Cell:
    """One measure of one subset over seeds."""

    subset: Subset
    metric: str
    mean: float
    sd: float | None
    """Sample standard deviation; None of one seed."""
    num_seeds: int


def cells(study: Study) -> list[Cell]:
    """Every metric that a finished run has, subset by subset."""
    made = []
    for subset in study.subsets:
        runs = [results_of(arm, study.split) for arm in arms(study) if arm.subset == subset]
        done = [each for each in runs if each is not None]
        for metric in sorted({key for each in done for key in each}):
            values = [each[metric] for each in done if metric in each]
            sd = statistics.stdev(values) if len(values) > 1 else None
            made.append(Cell(subset, metric, statistics.fmean(values), sd, len(values)))
    return made


def write_tables(study: Study, objectives: Sequence[str], shown: Sequence[str]) -> list[Path]:
    """`ablation.csv` with every metric and `ablation.md` with those that match `shown`."""
    found = cells(study)
    paths = [study.output / "ablation.csv", study.output / "ablation.md"]
    atomic.write_text(paths[0], csv_table(found))
    atomic.write_text(paths[1], markdown_table(found, study, objectives, shown))
    return paths


def csv_table(found: Sequence[Cell]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["objectives", "metric", "mean", "sd", "seeds"])
    for cell in found:
        sd = "" if cell.sd is None else f"{cell.sd:.6g}"
        writer.writerow([name_of(cell.subset), cell.metric, f"{cell.mean:.6g}", sd, cell.num_seeds])
    return buffer.getvalue()


def markdown_table(
    found: Sequence[Cell], study: Study, objectives: Sequence[str], shown: Sequence[str]
) -> str:
    """One row a subset, a tick for each objective that is on, mean ± standard deviation over seeds."""
    known = {(cell.subset, cell.metric): cell for cell in found}
    columns = list(_columns({cell.metric for cell in found}, shown))
    head = [*objectives, "seeds", *(f"`{name}`" for name in columns)]
    lines = [_line(head), _line(["---"] * len(head))]
    for subset in study.subsets:
        seeds = max((cell.num_seeds for cell in found if cell.subset == subset), default=0)
        ticks = ["✓" if name in subset else "" for name in objectives]
        values = [_printed(known.get((subset, name)), seeds) for name in columns]
        lines.append(_line([*ticks, str(seeds), *values]))
    return "\n".join(lines) + "\n"


def _columns(metrics: set[str], shown: Sequence[str]) -> Iterator[str]:
    for pattern in shown:
        yield from sorted(name for name in metrics if _is_like(name, pattern))


def _is_like(name: str, pattern: str) -> bool:
    """A star stands for one part of a name: `zero_shot/*/auroc` are the tasks and not their controls."""
    parts, wanted = name.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


def _printed(cell: Cell | None, num_seeds: int) -> str:
    if cell is None:
        return "–"
    sd = "" if cell.sd is None else f" ± {cell.sd:.3f}"
    return f"{decimals(cell.mean)}{sd}" + (
        f" ({cell.num_seeds} of {num_seeds})" if cell.num_seeds < num_seeds else ""
    )


def _line(row: Sequence[str]) -> str:
    return f"| {' | '.join(row)} |"


def launcher(accelerate_config: Path, script: Path) -> Launch:
    """`accelerate launch` of train.py in a process of its own. ConfigError for a file that is not there or of several machines."""
    if not accelerate_config.is_file():
        raise ConfigError(f"--launch {accelerate_config} is not a file; see accelerate_configs/")
    machines = (yaml.safe_load(accelerate_config.read_text()) or {}).get("num_machines", 1)
    if machines != 1:
        raise ConfigError(
            f"--launch {accelerate_config} is of {machines} machines; runs are started from one"
        )
    # port 0: the launcher finds a free one, so that other runs of this machine do not matter
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(accelerate_config)]
    command += ["--main_process_port", "0", str(script)]
    return lambda train_words: subprocess.run([*command, *train_words], check=False).returncode
