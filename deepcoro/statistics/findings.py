"""All that is measured of one finding: by the order of its scores and by the decisions made, for two classes or several."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from deepcoro.bootstrap import Statistic, joined, mean_of_known, together
from deepcoro.statistics.confusion import (
    class_measures,
    confusions,
    decision_statistic,
    each_class_measures,
)
from deepcoro.statistics.ranking import ranked

BY_ORDER = ("auroc", "auprc")
DECISIONS = ("sensitivity", "specificity", "ppv", "npv", "f1", "accuracy", "balanced_accuracy")


def finding_statistic(
    score: Float[np.ndarray, "row"],
    called: Bool[np.ndarray, "row"] | None,
    positive: Bool[np.ndarray, "row"],
    patients: Int[np.ndarray, "row"],
    num_patients: int,
    specificities: Sequence[float] = (),
) -> Statistic:
    """`BY_ORDER`, sensitivities at specificities and, where decisions were `called`, `DECISIONS`."""
    order = ranked(score, positive, patients, num_patients).statistic(specificities)
    if called is None:
        return order
    decided = decision_statistic(called, positive, patients, num_patients)
    return together(order, decided)


def classes_statistic(
    said: Float[np.ndarray, "row class"],
    truth: Int[np.ndarray, "row"],
    names: Sequence[str],
    patients: Int[np.ndarray, "row"],
    num_patients: int,
    is_ordered: bool,
) -> Statistic:
    """`BY_ORDER` of each class against the others under `class={name}/`, of classes that some rows have and some have not; their mean
    `macro_...` and that of all classes in one heap `micro_...`; and of the most probable class (the first of several) what
    `class_measures` gives, the kappa for ordered classes alone, and `precision` and `recall` of each class beside its AUROC.
    """
    one_hot = truth[:, None] == np.arange(len(names))
    parts = {
        f"class={class_part(name)}": ranked(
            said[:, number], one_hot[:, number], patients, num_patients
        ).statistic()
        for number, name in enumerate(names)
        if one_hot[:, number].any() and not one_hot[:, number].all()
    }
    in_one_heap = ranked(
        said.reshape(-1), one_hot.reshape(-1), np.repeat(patients, len(names)), num_patients
    ).statistic()
    decided = confusions(said.argmax(axis=1), truth, len(names), patients, num_patients)
    of_each = joined(parts)

    def values(weights: Float[np.ndarray, "sample patient"]) -> dict[str, Float[np.ndarray, "sample"]]:
        found, heap, confusion = of_each(weights), in_one_heap(weights), decided(weights)
        chosen = class_measures(confusion)
        if not is_ordered:
            del chosen["weighted_kappa"]
        for key in BY_ORDER if parts else ():
            classes = np.stack([found[f"{part}/{key}"] for part in parts])
            chosen |= {f"macro_{key}": mean_of_known(classes, axis=0), f"micro_{key}": heap[key]}
        for key, values_of_classes in each_class_measures(confusion).items():
            of_names = zip(names, values_of_classes.T, strict=True)
            found |= {f"class={class_part(name)}/{key}": value for name, value in of_names}
        return found | chosen

    return values


def class_part(name: str) -> str:
    """A class name as a part of a key."""
    return name.replace("/", "_").replace(" ", "_")
