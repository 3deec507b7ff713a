"""Whom a model has seen: the patients of its own training, and those of the runs whose weights it started from."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deepcoro.config import DataError
from deepcoro.exported import locate, read_card
from deepcoro.weights import FILE, STATE, read_pixel_constants, weights_file

SAW_NOBODY = "trained_on_no_patient"
"""Entry of an exported encoder's provenance: it comes from public weights."""


@dataclass(frozen=True)
class Seen:
    """Patients that a model was trained on, as digests of keyed ids."""

    patients: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()
    """Tell apart the secrets that their ids were keyed with; ids of two secrets cannot be compared."""
    is_whole: bool = True
    """No other patient: false where ids are missing."""

    def joined(self, other: "Seen") -> "Seen":
        return Seen(self.patients | other.patients, self.keys | other.keys, self.is_whole and other.is_whole)

    def to_state(self) -> dict[str, Any]:
        """What a checkpoint keeps beside its data's record."""
        return {
            "training_patients": sorted(self.patients),
            "training_keys": sorted(self.keys),
            "training_patients_are_all": self.is_whole,
        }


def seen_of_state(data: Mapping[str, Any]) -> Seen:
    """From the `data` of a checkpoint's state; an older one does not say whether these are all."""
    return Seen(
        frozenset(data["training_patients"]),
        frozenset(data.get("training_keys", ())),
        data.get("training_patients_are_all", False),
    )


def seen_through(source: str | None) -> Seen:
    """Whom a run has seen that starts from these weights (`towers.video.weights`).

    A checkpoint says so; weights of one tower without a checkpoint are taken for public ones, which saw nobody. An encoder exported
    from a run carries no patient, and a whole model's weights alone neither: not known.
    """
    if source is None:
        return Seen()
    path = locate(source)
    card = read_card(path)
    if card is not None:
        return Seen(is_whole=card["provenance"].get(SAW_NOBODY, False))
    file = weights_file(path)
    state = file.with_name(STATE)
    if file.name == FILE and state.is_file():
        return seen_of_state(json.loads(state.read_text())["data"])
    return Seen(is_whole=read_pixel_constants(file) is None)


def overlap(trained: Seen, met: Seen, split: str) -> str:
    """`none` or `unknown`: whether a model has been trained on one of the patients `met` in a split. DataError when it has."""
    shared = trained.patients & met.patients
    if shared:
        raise DataError(
            f"{len(shared)} of {len(met.patients)} patients of split '{split}' were in this checkpoint's training data, or in that of "
            "the weights it started from; the result would not be honest: evaluate on patients it has not seen",
            topic="patients-seen-in-training",
        )
    is_known = trained.is_whole and met.is_whole and len(trained.keys | met.keys) == 1
    return "none" if is_known and trained.patients and met.patients else "unknown"
