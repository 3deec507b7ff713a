"""Hyper-parameters and how their values are drawn, in W&B's words over Optuna's three distributions (number, whole number, choice).

Normal and weighted draws are quantiles: Optuna draws a number between 0 and 1, which the inverse of the distribution function turns
into the value. So every sampler can work on them, and what a trial is given is a function of what Optuna stored.
"""

import itertools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

_MOST_QUANTILE = 0.999
"""Normal draws stay within 3.1 standard deviations: beyond lie values that break a run and teach nothing."""
_OF_GRIDS = ("constant", "categorical", "int_uniform", "q_uniform")


@dataclass(frozen=True)
class Parameter:
    """One key of the config and the values it may take."""

    name: str
    """Dotted, as in the config."""
    distribution: str
    choices: tuple[Any, ...] = ()
    weights: tuple[int | float, ...] = ()
    low: int | float = 0
    high: int | float = 0
    """Values, never logarithms."""
    mu: float = 0.0
    sigma: float = 1.0
    q: int | float = 1

    @property
    def is_log(self) -> bool:
        """Whether it is drawn, and drawn up, on a logarithmic scale."""
        return "log" in self.distribution

    def suggest(self, trial: "optuna.trial.Trial") -> Any:
        """The value in this trial; the same again when asked again."""
        kind = self.distribution.removeprefix("q_")
        if kind == "constant":
            return self.choices[0]
        if kind == "categorical":
            return json.loads(
                trial.suggest_categorical(self.name, [json.dumps(each) for each in self.choices])
            )
        if kind == "categorical_w_probabilities":
            return self._weighted(trial.suggest_float(self.name, 0, 1))
        if kind == "int_uniform":
            return trial.suggest_int(self.name, int(self.low), int(self.high))
        if kind in ("normal", "log_normal"):
            return self._at(trial.suggest_float(self.name, 1 - _MOST_QUANTILE, _MOST_QUANTILE))
        return self._rounded(
            trial.suggest_float(self.name, float(self.low), float(self.high), log=self.is_log)
        )

    def _weighted(self, quantile: float) -> Any:
        sums = itertools.accumulate(self.weights)
        return next((each for each, upto in zip(self.choices, sums, strict=True) if quantile < upto), self.choices[-1])  # fmt: skip

    def _at(self, quantile: float) -> int | float:
        drawn = statistics.NormalDist(self.mu, self.sigma).inv_cdf(quantile)
        return self._rounded(math.exp(drawn) if self.is_log else drawn)

    def _rounded(self, value: int | float) -> int | float:
        """To a multiple of q, and within the bounds where they are; whole where q is."""
        if not self.distribution.startswith("q_"):
            return value
        whole = round(value / self.q)
        if "normal" not in self.distribution:
            whole = min(
                max(whole, math.ceil(self.low / self.q - 1e-9)), math.floor(self.high / self.q + 1e-9)
            )
        return whole * self.q if isinstance(self.q, int) else float(f"{whole * self.q:.12g}")

    def grid(self) -> list[Any]:
        """Every value, in order. ValueError where there is no end of them."""
        if self.distribution in ("constant", "categorical"):
            return list(self.choices)
        if self.distribution == "int_uniform":
            return list(range(int(self.low), int(self.high) + 1))
        if self.distribution == "q_uniform":
            first, last = self._rounded(self.low), self._rounded(self.high)
            return [
                self._rounded(first + step * self.q) for step in range(round((last - first) / self.q) + 1)
            ]
        raise ValueError(
            f"'{self.name}' is {self.distribution}, of which a grid has no end; method grid takes {list(_OF_GRIDS)}"
        )

    def stored(self, value: Any) -> Any:
        """A value of the grid as Optuna stores it."""
        return json.dumps(value) if self.distribution == "categorical" else value

    def examples(self) -> list[Any]:
        """Values that stand for all: a key or a type that the config does not take is found before the first run."""
        if self.choices:
            return list(self.choices)
        if "normal" in self.distribution:
            return [self._at(0.5)]
        low, high = self._rounded(self.low), self._rounded(self.high)
        return [int(low), int(high)] if self.distribution == "int_uniform" else [low, high]


def product(space: Sequence[Parameter]) -> list[dict[str, Any]]:
    """Every combination, the last parameter first to change. ValueError for a parameter without an end of values."""
    values = [parameter.grid() for parameter in space]
    names = [parameter.name for parameter in space]
    return [dict(zip(names, combination, strict=True)) for combination in itertools.product(*values)]


def parameter_of(name: str, given: Mapping[str, Any]) -> Parameter:
    """From the keys that the file gives. ValueError names the parameter, what is missing or too much, and what is allowed."""
    distribution = given.get("distribution") or _implied(name, given)
    need, may = _keys_of(distribution)
    missing, surplus = sorted(need - set(given)), sorted(set(given) - need - may - {"distribution"})
    if missing or surplus:
        told = [f"lacks {missing}"] * bool(missing) + [f"has no use for {surplus}"] * bool(surplus)
        raise ValueError(f"'{name}' is {distribution}: it {' and '.join(told)}")
    if "min" in need:
        return _between(name, distribution, given)
    choices = [given["value"]] if distribution == "constant" else given.get("values", [])
    weights = given.get("probabilities", ())
    _check_choices(name, distribution, choices, weights)
    return Parameter(
        name,
        distribution,
        choices=tuple(_number_if_one(each) for each in choices),
        weights=tuple(weights),
        mu=given.get("mu", 0.0),
        sigma=given.get("sigma", 1.0),
        q=given.get("q", 1),
    )


def _implied(name: str, given: Mapping[str, Any]) -> str:
    """W&B's defaults."""
    if "value" in given:
        return "constant"
    if "values" in given:
        return "categorical_w_probabilities" if "probabilities" in given else "categorical"
    if "min" in given and "max" in given:
        return "int_uniform" if isinstance(given["min"], int) and isinstance(given["max"], int) else "uniform"
    raise ValueError(f"'{name}' says nothing of its values: give value, values, or min and max")


def _keys_of(distribution: str) -> tuple[set[str], set[str]]:
    """Keys that it needs, and that it may have."""
    q = {"q"} if distribution.startswith("q_") else set()
    if distribution == "constant":
        return {"value"}, set()
    if distribution == "categorical":
        return {"values"}, set()
    if distribution == "categorical_w_probabilities":
        return {"values", "probabilities"}, set()
    if "normal" in distribution:
        return set(), {"mu", "sigma"} | q
    return {"min", "max"}, q


def _between(name: str, distribution: str, given: Mapping[str, Any]) -> Parameter:
    low, high = given["min"], given["max"]
    if distribution in ("log_uniform", "q_log_uniform"):
        low, high = math.exp(low), math.exp(high)
    if not low < high:
        raise ValueError(f"'{name}': min {given['min']} is not below max {given['max']}")
    if "log" in distribution and low <= 0:
        raise ValueError(f"'{name}': min {low} is not above zero, which {distribution} needs")
    if distribution == "int_uniform" and not (float(low).is_integer() and float(high).is_integer()):
        raise ValueError(f"'{name}': int_uniform between {low} and {high}; give whole numbers")
    made = Parameter(name, distribution, low=low, high=high, q=given.get("q", 1))
    if distribution.startswith("q_") and math.floor(high / made.q) < math.ceil(low / made.q):
        raise ValueError(f"'{name}': no multiple of q {made.q} lies between {low} and {high}")
    return made


def _check_choices(
    name: str, distribution: str, choices: Sequence[Any], weights: Sequence[int | float]
) -> None:
    if "normal" in distribution:
        return
    if not choices:
        raise ValueError(f"'{name}': values is empty")
    if distribution == "categorical_w_probabilities" and (
        len(weights) != len(choices) or abs(sum(weights) - 1) > 1e-6 or min(weights) < 0
    ):
        raise ValueError(f"'{name}': probabilities {list(weights)} are not one a value with the sum 1")


def value_text(value: Any) -> str:
    """As people read it: four digits, and of a choice such as `{type: siglip}` its type."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:.4g}".replace("e-0", "e-")
    if isinstance(value, dict):
        others = [f"{key}={value_text(each)}" for key, each in value.items() if key != "type"]
        return " ".join([str(value["type"])] * ("type" in value) + others)
    return str(value)


def _number_if_one(value: Any) -> Any:
    """YAML takes 1e-4, which has no dot, for a word; whoever wrote it meant a number."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value
