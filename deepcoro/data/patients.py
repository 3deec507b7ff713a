"""Splits are what they were at sharding and share no patient: looked at again whenever a run starts, over tables and sources."""

import itertools
import logging

import numpy as np

from deepcoro.config import DataError
from deepcoro.data.index import StudyTable
from deepcoro.data.manifest import SPLIT_NAMES
from deepcoro.data.shards import Shards

logger = logging.getLogger(__name__)


def refuse_other_splits(shards: Shards) -> None:
    """DataError when the splits are not those that the manifest counts. A table that was corrected since is logged: it is part of the run."""
    if shards.splits_sha256 != shards.manifest.splits_sha256:
        logger.warning(
            "%s: splits.csv was changed after sharding; this run takes it as it is", shards.folder.name
        )
        return
    counts = shards.manifest.counts.splits
    for code, name in enumerate(SPLIT_NAMES):
        films = int(shards.studies.num_clips[shards.studies.split == code].sum())
        counted = counts[name].clips if name in counts else 0
        if films != counted:
            raise DataError(
                f"split '{name}' has {films} films, the manifest counts {counted}; copy the folder again or run"
                " tools/shard_dataset.py again",
                topic="shards-changed",
            )


def refuse_shared_patients(studies: StudyTable) -> None:
    """DataError that names the two splits and how many patients they share, never a patient."""
    named = np.flatnonzero((studies.patient != b"") & (studies.split >= 0))
    patients, patient = np.unique(studies.patient[named], return_inverse=True)
    is_in = np.zeros((len(patients), len(SPLIT_NAMES)), bool)
    is_in[patient, studies.split[named]] = True
    shared = [
        f"{SPLIT_NAMES[one]} and {SPLIT_NAMES[other]} share {count}"
        for one, other in itertools.combinations(range(len(SPLIT_NAMES)), 2)
        if (count := int((is_in[:, one] & is_in[:, other]).sum()))
    ]
    if shared:
        raise DataError(
            f"patients are in two splits: {', '.join(shared)} of {len(patients)} patients; "
            "correct splits.csv or the Split of data.tables: a patient belongs to one split",
            topic="patients-in-two-splits",
        )


def every_patient_is_named(studies: StudyTable) -> bool:
    """Whether the check above has seen every study."""
    unnamed = int(((studies.patient == b"") & (studies.split >= 0)).sum())
    if unnamed:
        logger.warning("patient split unverifiable: %d of %d studies name no patient", unnamed, len(studies))
    return unnamed == 0
