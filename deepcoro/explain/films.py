"""Films of a split with maps, pictures and the deletion check: what `tools/explain.py` does once it has a model."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from einops import rearrange
from torch import Tensor, nn

from deepcoro.build import Parts
from deepcoro.config import ConfigError, DataError
from deepcoro.data.plan import Row
from deepcoro.data.stream import Fetch
from deepcoro.data.units import Units
from deepcoro.explain.deletion import SHARES, Deletion, deletion, summary
from deepcoro.explain.maps import map_of, over_frames
from deepcoro.explain.targets import Target
from deepcoro.model import to_device
from deepcoro.report_explanations import Curves, Explanation, overlaid, strip_of

logger = logging.getLogger(__name__)


@dataclass
class Explained:
    """What came out."""

    pictures: list[Explanation] = field(default_factory=list)
    checks: dict[str, list[Deletion]] = field(default_factory=dict)
    """Kind of map -> one a film."""
    patients: list[str | None] = field(default_factory=list)

    def numbers(self, target: str) -> dict[str, float]:
        """`explain/TARGET/KIND/gain`, ...; nothing without films."""
        return {
            f"explain/{target}/{kind}/{name}": value
            for kind, each in self.checks.items()
            for name, value in summary(each, self.patients).items()
        }


def explain_films(
    model: nn.Module,
    parts: Parts,
    units: Units,
    target: Target,
    methods: Sequence[str],
    chosen: Sequence[int],
    num_pictures: int,
) -> Explained:
    """Explains the chosen units (numbers among `units`); of the first `num_pictures` there are pictures. Bad samples are logged and left out."""
    model.eval()
    model.clips_per_chunk = None  # maps are taken from one call of the encoder
    found = Explained(checks={method: [] for method in methods})
    for unit, batch in _batches(model, parts, units, chosen):
        maps = {method: map_of(method, model, batch, target) for method in methods}
        checks = {method: deletion(model, batch, target, each) for method, each in maps.items()}
        for method, check in checks.items():
            found.checks[method].append(check)
        found.patients.append(units.patient(unit))
        if len(found.pictures) < num_pictures:
            found.pictures.append(_picture(units.name(unit), target, batch["video"], maps, checks))
    return found


def _batches(
    model: nn.Module, parts: Parts, units: Units, chosen: Sequence[int]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """One unit at a time."""
    fields = {name: each for name, each in parts.fields.items() if name != "report"}
    fetch, device = Fetch(parts.shards, units, fields, None), next(model.parameters()).device
    for unit in chosen:
        fetched = fetch[[Row(unit, 0, unit)]]
        if fetched.bad:
            logger.warning("%s could not be read and is left out", fetched.bad[0].key)
            continue
        yield unit, to_device(fetched.batch, device)


def _picture(
    title: str, target: Target, video: Tensor, maps: dict[str, Tensor], checks: dict[str, Deletion]
) -> Explanation:
    """Of the unit's first film."""
    film = rearrange(video[:1, :1], "1 1 frame height width -> frame height width").cpu().numpy()
    shown = {
        name: over_frames(each, *video.shape[2:])[0].float().cpu().numpy() for name, each in maps.items()
    }
    return Explanation(
        target=target.name,
        title=title,
        score=next(iter(checks.values())).whole,
        original=strip_of(film),
        maps={name: strip_of(overlaid(film, each)) for name, each in shown.items()},
        shares=list(SHARES),
        curves={name: Curves(by_map=each.by_map, at_random=each.at_random) for name, each in checks.items()},
    )


def units_named(units: Units, parts: Parts, keys: Sequence[str]) -> list[int]:
    """Units by name (`study` or `study.clip`) or by the keyed id of a film of theirs. DataError when there is none of that name."""
    names = {units.name(unit): unit for unit in range(len(units))}
    missing = [key for key in keys if key not in names]
    if missing:
        table = parts.shards.films.read(["clip"])["clip"].to_numpy(zero_copy_only=False)
        for key in missing:
            names[key] = _unit_of_film(units, np.flatnonzero(table == key), key)
    return [names[key] for key in keys]


def _unit_of_film(units: Units, rows: np.ndarray, key: str) -> int:
    if len(rows):
        study = int(units.studies.study_of_film()[rows[0]])
        clip = int(rows[0] - units.studies.first_clip[study])
        own = np.flatnonzero((units.study_row == study) & ((units.clip == clip) | (units.clip < 0)))
        if len(own):
            return int(own[0])
    raise DataError(f"split '{units.split}' of this run has no film or study '{key}'")


def spread_units(units: Units, num: int) -> list[int]:
    """Up to `num` units at equal distances through the split. ConfigError on less than one."""
    if num < 1:
        raise ConfigError(f"number of films is {num}; allowed: 1 or more")
    return np.unique(np.linspace(0, len(units) - 1, min(num, len(units))).round().astype(int)).tolist()
