"""What may leave the house: no number that rests on fewer than ten patients, and none from which such a number follows."""

import pytest

from deepcoro.aggregates import shareable, told_and_withheld

ENOUGH = {"a/num": 100.0, "a/num_positive": 40.0, "a/auroc": 0.8, "a/auroc_ci_low": 0.7}


def test_numbers_that_rest_on_many_stay():
    assert shareable(ENOUGH) == ENOUGH


def test_few_positives_or_few_negatives_take_everything_under_them_away():
    assert shareable(ENOUGH | {"a/num_positive": 9.0}) == {}
    assert shareable(ENOUGH | {"a/num_positive": 95.0, "a/deep/er": 1.0, "b": 2.0}) == {"b": 2.0}


def test_a_count_of_zero_points_at_nobody_unless_it_says_that_all_are_alike():
    nobody = {"a/num": 30.0, "a/num_empty": 0.0, "a/num_said": 0.0, "a/mae": 0.9}
    assert shareable(nobody) == nobody
    assert shareable({"a/num": 0.0, "a/num_positive": 0.0}) == {"a/num": 0.0, "a/num_positive": 0.0}
    assert shareable({"a/num": 30.0, "a/num_positive": 0.0, "a/specificity": 0.9}) == {}
    assert shareable({"a/num": 30.0, "a/num_positive": 30.0, "a/sensitivity": 0.9}) == {}


@pytest.mark.parametrize("few", ["num_positive_patients", "num_negative_patients", "num_patients"])
def test_patients_are_counted_and_not_their_films(few: str):
    patients = {"a/num_patients": 30.0, "a/num_positive_patients": 15.0, "a/num_negative_patients": 15.0}
    assert shareable(ENOUGH | patients) == ENOUGH | patients
    assert shareable(ENOUGH | patients | {f"a/{few}": 2.0}) == {}


def test_events_are_as_few_as_those_who_had_none():
    assert shareable({"s/num": 40.0, "s/num_events": 36.0, "s/c_index": 0.7}) == {}
    enough = {"s/num": 40.0, "s/num_events": 20.0, "s/num_event_patients": 10.0, "s/c_index": 0.7}
    assert shareable(enough) == enough
    assert shareable(enough | {"s/num_event_patients": 9.0}) == {}


def of_class(name: str, num_positive: float) -> dict[str, float]:
    counts = {"num": 60.0, "num_positive": num_positive, "prevalence": num_positive / 60, "auroc": 0.8}
    return {f"p/dominance/class={name}/{key}": value for key, value in counts.items()}


def test_a_class_of_few_takes_its_head_away_whose_other_classes_would_tell_it():
    head = {"p/dominance/num": 60.0, "p/dominance/num_patients": 60.0, "p/dominance/accuracy": 0.8}
    enough = head | of_class("right", 45.0) | of_class("co", 15.0)
    assert shareable(enough) == enough
    few = {"p/dominance/class=co/num_positive_patients": 8.0}
    assert shareable(enough | few | {"p/lvef/mae": 4.0}) == {"p/lvef/mae": 4.0}
    assert shareable(head | of_class("right", 52.0) | of_class("co", 8.0)) == {}
    # a class that nobody has points at nobody
    assert shareable(enough | of_class("left", 0.0)) == enough | of_class("left", 0.0)
    assert shareable(head | of_class("right", 60.0) | of_class("co", 0.0)) == {}


def test_a_mean_goes_with_a_head_that_has_a_part_in_it_and_so_do_its_counts():
    told = {"p/a/num": 60.0, "p/a/num_positive": 30.0, "p/a/prevalence": 0.5, "p/a/auroc": 0.8}
    rare = {"p/b/num": 60.0, "p/b/num_positive": 4.0, "p/b/prevalence": 0.1, "p/b/auroc": 0.6}
    means = {
        "p/macro/auroc": 0.7,
        "p/macro/auroc_ci_low": 0.6,
        "p/macro/num_positive": 34.0,
        "p/macro/prevalence": 0.3,
        "p/micro/auroc": 0.7,
        "p/macro=early/auroc": 0.7,
    }
    assert shareable(told | means) == told | means
    assert shareable(told | rare | means) == told
    # of which nothing was measured
    nobody = {"p/c/num": 60.0, "p/c/num_positive": 0.0, "p/c/prevalence": 0.0}
    assert shareable(told | nobody | means) == told | means


WHOLE = {"by/sex/num_films": 90.0, "by/sex/num_patients": 90.0, "by/sex/num_not_assessed": 0.0}


def group(name: str, num: float, num_positive: float | None = None) -> dict[str, float]:
    sizes = {f"by/sex={name}/num_films": num, f"by/sex={name}/num_patients": num}
    if num_positive is None:
        return sizes
    of_cto = {"num": num, "num_patients": num, "num_positive": num_positive, "auroc": 0.8}
    return sizes | {f"by/sex={name}/zero_shot/cto/{key}": value for key, value in of_cto.items()}


def cto(num: float, num_positive: float) -> dict[str, float]:
    of_cto = {"num": num, "num_patients": num, "num_positive": num_positive, "auroc": 0.8}
    return {f"zero_shot/cto/{key}": value for key, value in of_cto.items()}


def test_a_small_group_takes_those_beside_it_along_from_which_its_size_follows():
    whole = cto(90.0, 40.0)
    numbers = whole | WHOLE | group("F", 4.0) | group("M", 86.0, 39.0)
    told, withheld = told_and_withheld(numbers)
    assert told == whole
    assert withheld == ["by/sex", "by/sex=F", "by/sex=M", "by/sex=M/zero_shot/cto"]
    # an earlier version does not say how many there are in all
    assert shareable(whole | group("F", 4.0) | group("M", 86.0, 39.0)) == whole


def test_small_groups_of_enough_patients_together_leave_the_others_in_sight():
    numbers = WHOLE | group("F", 50.0) | group("M", 28.0) | group("X", 6.0) | group("Y", 6.0)
    numbers["by/sex/num_patients"] = numbers["by/sex/num_films"] = 90.0
    assert shareable(numbers) == WHOLE | group("F", 50.0) | group("M", 28.0)


def test_what_few_of_a_group_have_does_not_follow_from_the_other_groups():
    whole = cto(90.0, 40.0)
    numbers = whole | WHOLE | group("F", 50.0, 36.0) | group("M", 40.0, 4.0)
    assert shareable(numbers) == whole | WHOLE | group("F", 50.0) | group("M", 40.0)
    enough = whole | WHOLE | group("F", 50.0, 25.0) | group("M", 40.0, 15.0)
    assert shareable(enough) == enough


def test_counts_of_means_in_groups_go_with_the_heads_that_they_would_tell():
    def heads(before: str, num: float, positives: dict[str, float]) -> dict[str, float]:
        families = {name: (num, positive) for name, positive in positives.items()}
        families["macro"] = (2 * num, sum(positives.values()))
        return {
            f"{before}p/{name}/{key}": value
            for name, (rows, positive) in families.items()
            for key, value in {"num": rows, "num_positive": positive, "auroc": 0.8}.items()
        }

    whole = heads("", 90.0, {"a": 45.0, "b": 40.0})
    groups = WHOLE | group("F", 50.0) | group("M", 40.0)
    told = shareable(
        whole
        | groups
        | heads("by/sex=F/", 50.0, {"a": 25.0, "b": 36.0})
        | heads("by/sex=M/", 40.0, {"a": 20.0, "b": 4.0})
    )
    of_groups = {key.split("/")[3] for key in told if key.startswith("by/sex=") and "/p/" in key}
    assert of_groups == {"a"}
    assert whole.items() <= told.items()


def test_a_class_that_few_of_a_group_have_does_not_follow_from_the_other_groups():
    def head(before: str, num: float, num_co: float) -> dict[str, float]:
        counts = {"num": num, "num_patients": num, "accuracy": 0.8}
        classes = {"right": num - num_co, "co": num_co}
        return {f"{before}p/dominance/{key}": value for key, value in counts.items()} | {
            f"{before}p/dominance/class={name}/{key}": value
            for name, count in classes.items()
            for key, value in {"num": num, "num_positive": count, "auroc": 0.8}.items()
        }

    whole = head("", 90.0, 40.0)
    groups = WHOLE | group("F", 50.0) | group("M", 40.0)
    measured = head("by/sex=F/", 50.0, 37.0) | head("by/sex=M/", 40.0, 3.0)
    assert shareable(whole | groups | measured) == whole | groups


def test_a_few_who_were_not_assessed_are_a_group_that_is_not_told():
    groups = group("F", 50.0, 25.0) | group("M", 37.0, 14.0)
    assert shareable(cto(90.0, 40.0) | WHOLE | {"by/sex/num_not_assessed": 3.0} | groups) == cto(90.0, 40.0)


def test_groups_of_lines_of_a_run_are_told_apart_by_what_stands_before_them():
    line = {f"val/{key}": value for key, value in (WHOLE | group("F", 4.0) | group("M", 86.0)).items()}
    assert shareable(line | {"val/loss": 0.5}) == {"val/loss": 0.5}


def test_counts_of_no_people_hide_nothing():
    numbers = {"r/num_films": 300.0, "r/num_strata": 2.0, "r/num_queries_excluded": 4.0, "r/R@5": 0.5}
    assert shareable(numbers) == {"r/num_films": 300.0, "r/R@5": 0.5}


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
    head = {"num": 50.0, "num_positive": 25.0, "auroc": 0.8}
    many = {f"h{number}/{name}": value for number in range(3000) for name, value in head.items()}
    few = many | {"h7/num_positive": 2.0}
    assert len(shareable(few)) == len(many) - 3
