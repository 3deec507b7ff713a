"""Models of the same findings side by side, a run a seed: what they reach, what the first is better by, what is left without motion or
film, whether a lesion raises the score, and which of the bars that were set are met. Reads run folders alone.
"""

import fnmatch
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deepcoro.comparison import compare_runs, markdown
from deepcoro.config import ConfigError, DataError
from deepcoro.lesion_pairs import read_lesion_pairs
from deepcoro.numerals import decimals, number, signed
from deepcoro.report_shortcuts import WORDS, Shortcuts, is_of, read_shortcuts

MEASURES = (
    "*/cto/auroc",
    "*/dominance/macro_auroc",
    "*/severe/auroc",
    "*/max_stenosis/mae",
    "*/max_stenosis/mae_ratio_to_median",
    "*/lvef/mae",
    "*/lvef/mae_ratio_to_median",
)
_CLIPS = ("without_top_clip", "without_random_clip")
_OTHER = "another checkpoint, split or data"
_LESS = ("whole", "first_frame", "shuffled_frames", "metadata")


@dataclass(frozen=True)
class Model:
    """One way to make a model, with a run a seed."""

    name: str
    runs: Sequence[Path]


@dataclass(frozen=True)
class Bar:
    """A number that was set beforehand."""

    words: str
    pattern: str
    """Of the measures that it is about."""
    least: float | None = None
    """Met from here on."""
    most: float | None = None
    """Met up to here."""

    def is_met(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


BARS = (
    Bar("stenosis >= 70 %: lower bound of the AUROC above 0.70", "*/severe/auroc_ci_low", least=0.70),
    Bar("worst stenosis: MAE at most 0.75 of the median's", "*/max_stenosis/mae_ratio_to_median", most=0.75),
)
LESION = Bar("the lesion raises the score in 90 % of visible pairs", "*/visible/share_raised", least=0.90)


def models_of(words: Sequence[str]) -> list[Model]:
    """From `NAME=RUN,RUN,...`. ConfigError for anything else, or a folder that is no run."""
    models = []
    for word in words:
        name, _, runs = word.partition("=")
        folders = [Path(each) for each in runs.split(",") if each]
        absent = [str(each) for each in folders if not (each / "results").is_dir()]
        if not folders or absent:
            raise ConfigError(
                f"'{word}': {f'{absent} hold no results (run_mode=test writes them)' if absent else 'give NAME=RUN,RUN,...'}"
            )
        models.append(Model(name, folders))
    return models


def findings_table(
    models: Sequence[Model], data: Sequence[str], patterns: Sequence[str] = MEASURES, num_samples: int = 2000
) -> str:
    """Markdown. `data`: evaluations by `{data}_{split}`; the bars are those of the first. DataError where a run was not evaluated on one."""
    parts: list[str] = []
    for name in data:
        parts += [f"## {name}", "", *_values(models, name, patterns), ""]
        for other in models[1:]:
            compared = compare_runs(models[0].runs, other.runs, name, num_samples, seed=0)
            parts += [markdown(compared, (models[0].name, other.name), patterns)]
    parts += ["## With less to see", "", *_shown_less(models, data[0], patterns), ""]
    parts += ["## Bars", "", *_bars(models, data[0])]
    return "\n".join(parts) + "\n"


def _document(run: Path, data: str) -> dict[str, Any]:
    path = run / "results" / f"{data}.json"
    if not path.is_file():
        there = sorted(each.stem for each in path.parent.glob("*.json"))
        raise DataError(f"{run} was not evaluated on {data}; there are {there}")
    return json.loads(path.read_text())


def _matching(numbers: Mapping[str, float], patterns: Sequence[str]) -> list[str]:
    """Measures of all rows, in the order of the patterns."""
    own = [key for key in numbers if not key.startswith("by/")]
    return list(dict.fromkeys(key for each in patterns for key in fnmatch.filter(own, each)))


def _values(models: Sequence[Model], data: str, patterns: Sequence[str]) -> Iterator[str]:
    of_model = [[_document(run, data)["metrics"] for run in model.runs] for model in models]
    yield f"| measure | {' | '.join(model.name for model in models)} |"
    yield "|---" * (1 + len(models)) + "|"
    for key in _matching(of_model[0][0], patterns):
        yield f"| {key} | {' | '.join(_told(seeds, key) for seeds in of_model)} |"
    yield ""
    yield "Mean ± standard deviation over seeds; in brackets the 95 % interval over patients of the first seed."


def _told(seeds: Sequence[Mapping[str, float]], key: str) -> str:
    values = [each[key] for each in seeds if key in each]
    if not values:
        return "–"
    spread = f" ± {np.std(values, ddof=1):.3f} (n = {len(values)})" if len(values) > 1 else ""
    low, high = (seeds[0].get(f"{key}_ci_{end}") for end in ("low", "high"))
    bounds = "" if None in (low, high) else f" ({decimals(low)}–{decimals(high)})"
    return f"{decimals(np.mean(values))}{spread}{bounds}"


def _shown_less(models: Sequence[Model], data: str, patterns: Sequence[str]) -> Iterator[str]:
    """Of the first run of each model that `tools/shortcuts.py` looked at."""
    looked_at = {
        model.name: (kept, _document(model.runs[0], data))
        for model in models
        if (kept := read_shortcuts(model.runs[0])) is not None
    }
    if not looked_at:
        yield "Not measured: `tools/shortcuts.py RUN` of the first run of a model does."
        return
    found = {name: kept for name, (kept, document) in looked_at.items() if is_of(kept, document)}
    if found:
        yield f"| model | measure | {' | '.join(WORDS[name] for name in _LESS)} |"
        yield "|---" * (2 + len(_LESS)) + "|"
    for name, kept in found.items():
        for key in _matching(kept.numbers.get("whole", {}), patterns):
            keys = dict.fromkeys(_LESS, key) | {"metadata": kept.metadata_of.get(key, "")}
            cells = [number(kept.numbers.get(each, {}).get(keys[each])) for each in _LESS]
            yield f"| {name} | {key} | {' | '.join(cells)} |"
    yield from _clips_taken(found)
    for name in looked_at:
        if name not in found:
            yield ""
            yield f"{name}: measured of {_OTHER} than {data}; `tools/shortcuts.py RUN` measures anew."


def _clips_taken(found: Mapping[str, Shortcuts]) -> Iterator[str]:
    """What the clip attended to most is worth beside a random one, over the same resampled patients; nothing where no clip was taken away."""
    rows = [(name, kept, key, gap) for name, kept in found.items() for key, gap in kept.gaps.items()]
    if rows:
        titles = [WORDS[name] for name in _CLIPS]
        yield ""
        yield f"| model | measure | {' | '.join(titles)} | the first is worse by (95 % interval, paired) |"
        yield "|---" * (3 + len(_CLIPS)) + "|"
    for name, kept, key, gap in rows:
        cells = [number(kept.numbers.get(each, {}).get(key)) for each in _CLIPS]
        apart, low, high = map(signed, gap)
        yield f"| {name} | {key} | {' | '.join(cells)} | {apart} ({low} to {high}) |"


def _bars(models: Sequence[Model], data: str) -> Iterator[str]:
    yield "| bar | model | found | |"
    yield "|---|---|---|---|"
    for model in models:
        document = _document(model.runs[0], data)
        for bar in BARS:
            yield from _judged(bar, model.name, document["metrics"], "no head of this name")
        yield from _lesions(model, document)
        yield from _attended(model, document)
    yield ""
    yield f"Of the first seed, on {data}."


def _lesions(model: Model, document: Mapping[str, Any]) -> Iterator[str]:
    """Of the evaluated checkpoint alone."""
    remedy = "`tools/counterfactuals.py FOLDER RUN --head severe`"
    found = read_lesion_pairs(model.runs[0])
    own = [each for each in found if each.is_of(document)]
    for each in own:
        about = replace(LESION, words=f"{LESION.words} ({each.title()})")
        yield from _judged(about, model.name, each.numbers, remedy)
    if not own and found:
        titles = "; ".join(each.title() for each in found)
        told = f"not judged: measured of another checkpoint or split than these results ({titles}); {remedy} measures anew"
        yield f"| {LESION.words} | {model.name} | – | {told} |"
    if not found:
        yield from _judged(LESION, model.name, {}, remedy)


def _judged(bar: Bar, model: str, numbers: Mapping[str, float], remedy: str) -> Iterator[str]:
    keys = [key for key in fnmatch.filter(numbers, bar.pattern) if not key.startswith("by/")]
    if not keys:
        yield f"| {bar.words} | {model} | – | not measured: {remedy} |"
    for key in keys:
        verdict = "met" if bar.is_met(numbers[key]) else "**not met**"
        yield f"| {bar.words} | {model} | {key} {decimals(numbers[key])} | {verdict} |"


def _attended(model: Model, document: Mapping[str, Any]) -> Iterator[str]:
    words = "taking away the clip attended to most hurts more than a random one"
    kept = read_shortcuts(model.runs[0])
    if kept and kept.gaps and not is_of(kept, document):
        told = f"not judged: measured of {_OTHER} than these results; `tools/shortcuts.py RUN` measures anew"
        yield f"| {words} | {model.name} | – | {told} |"
        return
    gaps = kept.gaps if kept else {}
    if not gaps:
        yield f"| {words} | {model.name} | – | not measured: `tools/shortcuts.py RUN` of studies whose pooler weighs clips |"
    for task, (gap, low, high) in gaps.items():
        verdict = "met" if low > 0 else "**not met**"
        yield f"| {words} | {model.name} | {task} {decimals(gap)} ({decimals(low)}–{decimals(high)}) | {verdict} |"
