"""What a user is to know of a shard folder before a run meets it: how it was split, which splits are empty, which films have no report, and
which paths of its table lead nowhere.

The closing words of `tools/shard_dataset.py` and the data sheet say the same sentences.
"""

from collections.abc import Iterable, Iterator

import pyarrow
import pyarrow.compute

from deepcoro.data.manifest import Manifest
from deepcoro.ingest.open import OF_WINDOWS

_WITHOUT = {
    "train": "nothing can be trained",
    "val": "nothing is measured while training, and checkpoint=best is the newest one",
    "test": "run_mode=test has nothing to measure",
}
"""What a run lacks whose split holds no film."""


def split_rule_told(manifest: Manifest) -> str:
    """Who chose the splits, what moves a patient, and how to keep them."""
    if manifest.split_rule == "given":
        return "The table gives the split of each study; it was taken unchanged."
    unit = (
        "patient"
        if manifest.patient_split == "verified"
        else "patient (of the study, where no patient is named)"
    )
    return (
        f"Splits were {manifest.split_rule} (train/val/test, per cent) by a keyed hash of the {unit}, and of nothing else: rows that"
        " are added or taken away move nobody. Another --key_file or other --split_shares draw anew; a Split column in the table wins"
        " over the draw and keeps splits whatever changes."
    )


def empty_splits(manifest: Manifest) -> Iterator[str]:
    """A sentence for each of train, val and test that holds no film, unless that is meant: a share of 0, or a folder for evaluation or
    inference alone."""
    there = manifest.counts.splits.keys()
    if there <= {"test", "inference"}:
        return
    for split, lacking in _WITHOUT.items():
        if split not in there and _share(manifest, split) != 0:
            yield f"No film is in split '{split}': {lacking}. {_remedy(manifest, split)}"


def _share(manifest: Manifest, split: str) -> float | None:
    """Per cent of the patients that were to be drawn into a split; None where the table gave it."""
    if manifest.split_rule == "given":
        return None
    shares = manifest.split_rule.removeprefix("drawn ").split("/")
    return float(shares[tuple(_WITHOUT).index(split)])


def _remedy(manifest: Manifest, split: str) -> str:
    again = "then give the same command again (no film is opened twice)"
    if manifest.split_rule == "given":
        return (
            f"No row of the table says {split}, or no such row gave a film (rejected.csv says why): write {split} into the rows of"
            f" some patients, {again}."
        )
    num = manifest.counts.patients or manifest.counts.studies
    return (
        f"The draw put none of {num} there, or its films were refused (rejected.csv says why): with few patients write the splits"
        f" yourself, in a Split column of the table, {again}."
    )


def films_without_text(films: pyarrow.Table) -> Iterator[str]:
    """How many films of `films.parquet` have no report, and what becomes of them; nothing where all have one."""
    has_text = pyarrow.compute.greater_equal(films["text_id"], 0)
    with_text = films.filter(has_text)
    num = films.num_rows - with_text.num_rows
    if not with_text.num_rows:
        yield "No film has a report: contrastive learning, captions and retrieval need some; heads and masked modelling do without."
    elif num:
        distinct = [pyarrow.compute.count_distinct(each["study"]).as_py() for each in (films, with_text)]
        yield (
            f"{num} of {films.num_rows} films have no report (studies without any: {distinct[0] - distinct[1]}). That is unknown, not"
            " negative: such a film makes no contrastive pair and no caption, is nobody's negative and takes no part in retrieval; heads"
            " and masked modelling read it. Shown with other films of its study (data.multi_video) it goes with their reports."
            " data.where='text_words is not null' leaves it out."
        )


def windows_paths(reasons: Iterable[str]) -> Iterator[str]:
    """What to do about rows that were refused because they name a film as Windows does; nothing where there are none."""
    num = sum(reason == OF_WINDOWS for reason in reasons)
    if num:
        yield (
            f"{num} paths are those of Windows (D:\\films\\a.avi, \\\\server\\films\\a.avi): replace their beginning in the table by the folder"
            " where these films are mounted here, or take it away and put the table into that folder (paths start from the table's)"
        )
