"""What may leave the house: no number that rests on fewer than ten."""

from deepcoro.aggregates import shareable

ENOUGH = {"a/num": 100.0, "a/num_positive": 40.0, "a/auroc": 0.8, "a/auroc_ci_low": 0.7}


def test_numbers_that_rest_on_many_stay():
    assert shareable(ENOUGH) == ENOUGH


def test_few_positives_or_few_negatives_take_everything_under_them_away():
    assert shareable(ENOUGH | {"a/num_positive": 9.0}) == {}
    assert shareable(ENOUGH | {"a/num_positive": 95.0, "a/deep/er": 1.0, "b": 2.0}) == {"b": 2.0}


def test_a_class_of_few_goes_and_leaves_the_others_of_its_head():
    kept = {"a/num": 100.0, "a/macro_auroc": 0.8, "a/class=1/num": 100.0, "a/class=1/num_positive": 40.0}
    few = {"a/class=2/num": 100.0, "a/class=2/num_positive": 2.0, "a/class=2/prevalence": 0.02}
    assert shareable(kept | few) == kept


def test_a_count_of_zero_points_at_nobody():
    none = {"a/num": 30.0, "a/num_positive": 0.0, "a/specificity": 0.9}
    assert shareable(none) == none


def test_a_small_group_goes_whole_and_its_neighbour_stays():
    small = {"by/sex=F/num_patients": 4.0, "by/sex=F/zero_shot/cto/auroc": 0.9}
    large = {"by/sex=M/num_patients": 40.0, "by/sex=M/zero_shot/cto/auroc": 0.8}
    assert shareable(small | large) == large


def test_what_took_no_part_is_left_out_alone():
    left = {"a/num_not_assessed": 3.0, "a/num_films_without_report": 4.0}
    assert shareable(ENOUGH | left) == ENOUGH


def test_a_value_with_a_small_basis_of_its_own_goes_with_its_bounds_and_controls():
    few = {
        "g/R@5": 0.5,
        "g/R@5_n": 7.0,
        "g/R@5_ci_low": 0.1,
        "g/R@5_chance": 0.2,
        "g/MRR": 0.3,
        "g/MRR_n": 70.0,
    }
    assert shareable(few) == {"g/MRR": 0.3, "g/MRR_n": 70.0}


def test_many_numbers_take_little_time_since_each_is_looked_at_once():
    many = {f"h{head}/{name}": 50.0 for head in range(3000) for name in ("num", "num_positive", "auroc")}
    few = many | {"h7/num_positive": 2.0}
    assert len(shareable(few)) == len(many) - 3
