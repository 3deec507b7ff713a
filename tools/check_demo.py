#!/usr/bin/env python3
"""Whether the demo learned what it is there to show: each measure of its test split beside the bar that it has to reach."""

import argparse
import json
import operator
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

from deepcoro.config import ConfigError  # noqa: E402
from deepcoro.numerals import decimals  # noqa: E402
from deepcoro.tool import exit_code  # noqa: E402

EPILOG = """\
example, what `make demo` ends with:
  python tools/check_demo.py runs/demo

Captions and hidden parts are compared with what needs no model: the nearest report or the likeliest report of the train split, the mean
of a hidden part and the part beside it in time. One run of one seed: a bar that is met shows that the machine works, not how well.

exit codes: 0 every bar is met, 1 one is not, 2 the run is at fault (one line says how).
"""

_STRATUM = "retrieval/text_to_video/within_stratum/R@5"
_LESION = "clinical_findings/lesion"
_HIDDEN = "masked_modeling/error"
_COMPARED = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


@dataclass(frozen=True)
class Bar:
    """A measure and what it has to reach."""

    told: str
    measure: str
    is_least: bool = True
    """Else the bar is the most that is allowed."""
    number: float = 1.0
    """The bar, or what `reference` is multiplied with."""
    reference: str | None = None
    """Measure that the bar is taken from."""

    def place(self, results: Mapping[str, float]) -> float | None:
        """None where its reference was not measured."""
        if self.reference is None:
            return self.number
        return self.number * results[self.reference] if self.reference in results else None

    def is_met(self, results: Mapping[str, float]) -> bool:
        """Not by what was not measured, nor by NaN."""
        value, place = results.get(self.measure), self.place(results)
        if value is None or place is None:
            return False
        return _COMPARED[self.sign](value, place)

    @property
    def sign(self) -> str:
        """What is compared with a reference has to be better, not as good."""
        return (">" if self.is_least else "<") + ("=" if self.reference is None else "")


BARS = (
    Bar("report to film in the stratum, R@5: 1.4 times chance", _STRATUM, number=1.4, reference=f"{_STRATUM}_chance"),
    Bar("side of the reports, balanced accuracy", "clinical_findings/side/balanced_accuracy", number=0.95),
    Bar("dominance of the reports, balanced accuracy", "clinical_findings/dominance/balanced_accuracy", number=0.6),
    Bar("lesion F1: the nearest training report's", f"{_LESION}/f1", reference=f"{_LESION}/f1_nearest"),
    Bar("lesion F1: the likeliest report's", f"{_LESION}/f1", reference=f"{_LESION}/f1_modal"),
    Bar("lesions made up, of those that can be judged", f"{_LESION}/hallucination_rate", is_least=False, number=0.25),
    Bar("error of hidden parts: the mean's", _HIDDEN, is_least=False, reference=f"{_HIDDEN}_of_unit_mean"),
    Bar("error of hidden parts: the nearest visible's", _HIDDEN, is_least=False, reference=f"{_HIDDEN}_of_nearest_visible"),
)  # fmt: skip


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="check_demo.py",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run_dir", type=Path, help="of demo/multitask, after run_mode=test")
    parser.add_argument("--debug", action="store_true", help="show the traceback of bad input")
    return parser.parse_args(words)


def read_results(run_dir: Path) -> dict[str, float]:
    path = run_dir / "results.json"
    if not path.is_file():
        raise ConfigError(f"'{run_dir}' holds no results.json: run_mode=test writes it")
    return json.loads(path.read_text())


def lines(results: Mapping[str, float]) -> Iterator[str]:
    """A line a bar."""
    for bar in BARS:
        value, place = results.get(bar.measure), bar.place(results)
        value_told, place_told = (
            "not measured" if each is None else decimals(each, 3) for each in (value, place)
        )
        yield f"{'met    ' if bar.is_met(results) else 'NOT MET'}  {value_told:>12} {bar.sign:2} {place_told:<12}  {bar.told}"


def main(words: list[str] | None = None) -> int:
    options = parse_arguments(words)
    results: dict[str, float] = {}
    code = exit_code("check_demo", lambda: results.update(read_results(options.run_dir)), options.debug)
    if code:
        return code
    print("\n".join(lines(results)))
    return int(not all(bar.is_met(results) for bar in BARS))


if __name__ == "__main__":
    sys.exit(main())
