"""Which way a measure is better, by its name."""

import pytest

from deepcoro.statistics.directions import direction, known_direction


@pytest.mark.parametrize(
    "metric",
    [
        *("linear_probing/calcif/multiclass_brier", "linear_probing/calcif/top_label_ece"),
        *("linear_probing/lvef/mae", "linear_probing/macro/rmse", "prompt_sweep/max_stenosis/mae_ci_high"),
        *("linear_probing/cto/brier", "linear_probing/cto/ece_recalibrated", "by/sex=F/linear_probing/lvef/mae"),
        *("retrieval/text_to_video/median_rank", "masked_modeling/error_on_vessels", "my/huber_loss"),
        *("linear_probing/cto/selective/aurc", "alignment_uniformity/uniformity_films", "wrong_side/caption/rate"),
        *("alignment_uniformity/alignment", "linear_probing/lvef/mae_ratio_to_median"),
    ],
)  # fmt: skip
def test_of_errors_the_lower_one_is_better(metric: str) -> None:
    assert known_direction(metric) == "min"


@pytest.mark.parametrize(
    "metric",
    [
        *("retrieval/text_to_video/R@5", "linear_probing/macro/auroc", "linear_probing/dominance/macro_auroc"),
        *("linear_probing/lvef/pearson_r", "captioning/cider_d", "survival/mace/c_index", "survival/mace/auc_at_365"),
        *("linear_probing/calcif/macro_precision", "linear_probing/calcif/class=severe/recall"),
        *("linear_probing/cto/sensitivity_at_specificity_0.90", "clinical_findings/lesion/f1"),
    ],
)  # fmt: skip
def test_of_scores_the_higher_one_is_better(metric: str) -> None:
    assert known_direction(metric) == "max"


def test_a_head_that_is_called_like_an_error_does_not_turn_its_measures_over() -> None:
    assert known_direction("linear_probing/mae/auroc") == "max"


def test_of_a_name_that_nobody_knows_the_higher_value_is_taken_for_the_better() -> None:
    assert known_direction("reciprocal_rank/mean") is None
    assert direction("reciprocal_rank/mean") == "max"
