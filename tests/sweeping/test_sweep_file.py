"""The W&B sweep YAML: what is read, what is refused and how it is named, and what the distributions draw."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import scipy.stats
import yaml

from deepcoro.config import ConfigError, parse, shipped_sweeps
from deepcoro.sweeping.space import parameter_of, product
from deepcoro.sweeping.sweep_file import SweepFile, read_sweep
from deepcoro.sweeping.trials import Sweep, check_examples, in_yaml

METRIC = {"name": "val/loss", "goal": "minimize"}


def sweep_file(parameters: dict[str, Any], **more: Any) -> SweepFile:
    return parse(SweepFile, {"method": "random", "metric": METRIC, "parameters": parameters} | more, "sweep")


def drawn(given: dict[str, Any], number: int = 400) -> Sequence[Any]:
    parameter = parameter_of("x", given)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [parameter.suggest(study.ask()) for _ in range(number)]


def test_parameters_are_told_apart_as_wandb_does_without_a_distribution() -> None:
    space = sweep_file(
        {
            "a": {"value": 3},
            "b": {"values": [1, "two", None]},
            "c": {"min": 1, "max": 4},
            "d": {"min": 1, "max": 4.5},
            "e": {"values": [1, 2], "probabilities": [0.25, 0.75]},
        }
    ).space()
    kinds = {each.name: each.distribution for each in space}
    assert kinds == {
        "a": "constant",
        "b": "categorical",
        "c": "int_uniform",
        "d": "uniform",
        "e": "categorical_w_probabilities",
    }


def test_nested_parameters_are_dotted_keys() -> None:
    nested = {"optim": {"parameters": {"lr": {"min": 1e-5, "max": 1e-3}, "eps": {"value": 1e-6}}}}
    assert [each.name for each in sweep_file(nested | {"seed": {"value": 1}}).space()] == [
        "optim.lr",
        "optim.eps",
        "seed",
    ]


# of each continuous distribution: its keys, and the distribution function of its values by scipy
CONTINUOUS = {
    "uniform": ({"min": -1.0, "max": 3.0}, scipy.stats.uniform(-1, 4)),
    "log_uniform_values": ({"min": "1e-5", "max": 1e-2}, scipy.stats.loguniform(1e-5, 1e-2)),
    "log_uniform": ({"min": math.log(1e-5), "max": math.log(1e-2)}, scipy.stats.loguniform(1e-5, 1e-2)),
    "normal": ({"mu": 2.0, "sigma": 0.5}, scipy.stats.norm(2, 0.5)),
    "log_normal": ({"mu": -7.0, "sigma": 0.5}, scipy.stats.lognorm(0.5, scale=math.exp(-7))),
}


@pytest.mark.parametrize("name", CONTINUOUS)
def test_a_continuous_distribution_draws_what_its_name_says(name: str) -> None:
    given, expected = CONTINUOUS[name]
    block = sweep_file({"x": {"distribution": name, **given}}).blocks()["x"]
    values = drawn(block.model_dump(include=block.model_fields_set))
    assert scipy.stats.kstest(values, expected.cdf).pvalue > 0.01
    other = scipy.stats.uniform(min(values), np.ptp(values))
    if name != "uniform":  # and the test can tell
        assert scipy.stats.kstest(values, other.cdf).pvalue < 0.01


ROUNDED = {
    "q_uniform": {"min": 0.1, "max": 0.95, "q": 0.2},
    "q_log_uniform_values": {"min": 8, "max": 512, "q": 8},
    "q_log_uniform": {"min": 2.0, "max": 6.0, "q": 8},
    "q_normal": {"mu": 10.0, "sigma": 3.0, "q": 0.5},
    "q_log_normal": {"mu": 3.0, "sigma": 0.5, "q": 2},
}


@pytest.mark.parametrize("name", ROUNDED)
def test_a_q_distribution_draws_multiples_within_its_bounds(name: str) -> None:
    given = ROUNDED[name]
    values = drawn({"distribution": name, **given}, 200)
    q = given["q"]
    assert all(abs(value / q - round(value / q)) < 1e-9 for value in values)
    assert all(isinstance(value, type(q)) for value in values), "whole multiples are whole numbers"
    assert len(set(values)) > 3
    if name in ("q_uniform", "q_log_uniform_values"):
        assert given["min"] <= min(values) and max(values) <= given["max"]


def test_choices_are_drawn_with_their_probabilities_and_types() -> None:
    weighted = drawn({"values": ["a", "b"], "probabilities": [0.2, 0.8]})
    assert 0.7 < weighted.count("b") / len(weighted) < 0.9
    choices = [True, None, 3, {"type": "clip"}, [1, 2]]
    found = drawn({"values": choices}, 100)
    assert {json.dumps(each) for each in found} == {json.dumps(each) for each in choices}
    whole = drawn({"min": 2, "max": 4}, 100)
    assert set(whole) == {2, 3, 4} and all(isinstance(each, int) for each in whole)


def test_a_grid_is_every_combination_in_the_order_of_the_file() -> None:
    space = sweep_file(
        {
            "a": {"values": ["x", "y"]},
            "b": {"min": 1, "max": 2},
            "c": {"value": 0},
            "d": {"distribution": "q_uniform", "min": 0, "max": 0.5, "q": 0.25},
        },
        method="grid",
    ).space()
    points = product(space)
    assert len(points) == 12
    assert points[0] == {"a": "x", "b": 1, "c": 0, "d": 0.0}
    assert points[1] == {"a": "x", "b": 1, "c": 0, "d": 0.25}
    assert points[-1] == {"a": "y", "b": 2, "c": 0, "d": 0.5}


BAD = {
    "an unknown key": ({"x": {"value": 1}}, {"controler": {}}, "unknown key 'controler'"),
    "an unknown key of a parameter": ({"x": {"vaule": 1}}, {}, "'parameters.x.vaule'; did you mean 'value'?"),
    "a distribution": ({"x": {"distribution": "beta"}}, {}, "'parameters.x.distribution' = 'beta'"),
    "a method": ({"x": {"value": 1}}, {"method": "bays"}, "'method' = 'bays'"),
    "a metric of training": (
        {"x": {"value": 1}},
        {"metric": {"name": "train/loss"}},
        "choose by the val split",
    ),
    "a metric whose default goal is its worst value": (
        {"x": {"value": 1}},
        {"metric": {"name": "val/linear_probing/cto/auroc"}},
        "set goal: maximize",
    ),
    "no values": ({"x": {"min": 1}}, {}, "'x' says nothing of its values"),
    "a key too much": ({"x": {"values": [1], "min": 0}}, {}, "'x' is categorical: it has no use for ['min']"),
    "a key too few": ({"x": {"distribution": "uniform", "min": 1}}, {}, "'x' is uniform: it lacks ['max']"),
    "bounds": ({"x": {"min": 3, "max": 1}}, {}, "min 3 is not below max 1"),
    "a logarithm of zero": (
        {"x": {"distribution": "log_uniform_values", "min": 0, "max": 1}},
        {},
        "min 0 is not above zero",
    ),
    "no multiple": (
        {"x": {"distribution": "q_uniform", "min": 0.3, "max": 0.4, "q": 0.25}},
        {},
        "no multiple of q 0.25",
    ),
    "probabilities": ({"x": {"values": [1, 2], "probabilities": [0.5, 0.6]}}, {}, "with the sum 1"),
    "a grid without an end": (
        {"x": {"min": 0.5, "max": 1}},
        {"method": "grid"},
        "of which a grid has no end",
    ),
    "a group with a value": (
        {"x": {"parameters": {"y": {"value": 1}}, "value": 2}},
        {},
        "'x' has parameters below it and ['value']",
    ),
    "strict hyperband": (
        {"x": {"value": 1}},
        {"early_terminate": {"type": "hyperband", "min_iter": 3, "strict": True}},
        "'early_terminate.strict' = True",
    ),
    "hyperband without a look": (
        {"x": {"value": 1}},
        {"early_terminate": {"type": "hyperband", "max_iter": 27}},
        "max_iter needs s",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_run_is_refused_by_name(case: str) -> None:
    parameters, more, expected = BAD[case]
    with pytest.raises(ConfigError) as error:
        sweep_file(parameters, **more)
    assert expected in str(error.value)


def test_hyperband_looks_first_where_wandb_does() -> None:
    by_min = {"type": "hyperband", "min_iter": 3, "eta": 2}
    by_max = {"type": "hyperband", "max_iter": 27, "s": 2, "eta": 3}
    one = {"x": {"value": 1}}
    assert sweep_file(one, early_terminate=by_min).early_terminate.first_look == 3
    assert sweep_file(one, early_terminate=by_max).early_terminate.first_look == 3


@pytest.mark.parametrize("value", [1e-5, 3, True, None, "clip", "1e-5", [1, 2], {"type": "clip"}])
def test_a_value_on_the_command_line_reads_back_as_itself(value: Any) -> None:
    assert yaml.safe_load(in_yaml(value)) == value and "\n" not in in_yaml(value)


def test_a_key_that_the_config_lacks_is_found_before_a_run(tmp_path: Path) -> None:
    made = Sweep("demo/tiny", (), sweep_file({"optim.lrr": {"min": 1e-5, "max": 1e-3}}), tmp_path)
    with pytest.raises(ConfigError, match=r"^[^']*unknown key 'optim.lrr'; did you mean 'lr'"):
        check_examples(made)
    old = Sweep("demo/tiny", (), sweep_file({"lr": {"min": 1e-5, "max": 1e-3}}), tmp_path)
    with pytest.raises(ConfigError, match=r"'lr' is a key of DeepCORO_CLIP, docs/migrating.md.*unknown key"):
        check_examples(old)


OF_CONFIG = {
    "sweep_config_single_video": "clip/base_config",
    "sweep_config_multitask": "clip/multitask_config",
    "linear_probing/sweep_config": "linear_probing/base_config",
}


def test_the_shipped_sweeps_are_these() -> None:
    assert set(shipped_sweeps()) == set(OF_CONFIG)
    with pytest.raises(ConfigError, match="neither a file nor shipped"):
        read_sweep("sweep_config_multi")


@pytest.mark.parametrize("name", OF_CONFIG)
def test_a_shipped_sweep_fits_its_config_and_names_its_command(name: str, tmp_path: Path) -> None:
    check_examples(Sweep(OF_CONFIG[name], (), read_sweep(name), tmp_path))
    first = shipped_sweeps()[name].read_text().splitlines()[0]
    assert first.startswith(f"# python tools/sweep.py {OF_CONFIG[name]} {name} --count ")
