"""Models side by side: what the table says is what the run folders hold, and what they do not hold is said with its command."""

import json
from pathlib import Path

import pytest

from deepcoro.findings_table import Model, findings_table, models_of
from deepcoro.lesion_pairs import LesionPairs, add_lesion_pairs, read_lesion_pairs
from deepcoro.report_shortcuts import Shortcuts
from tests.test_comparison import run, split
from tests.tools.command import load_tool

METRICS = {
    "probe/cto/auroc": 0.8, "probe/cto/auroc_ci_low": 0.71, "probe/cto/auroc_ci_high": 0.9,
    "by/sex=F/probe/cto/auroc": 0.1, "by/sex=F/probe/severe/auroc_ci_low": 0.2, "probe/severe/auroc": 0.75, "probe/severe/auroc_ci_low": 0.69,
    "probe/max_stenosis/mae_ratio_to_median": 0.7,
}  # fmt: skip

OF = {"split": "test", "data_fingerprint": "f1", "checkpoint": "step 9 (ab)"}
PAIRS = LesionPairs(
    checkpoint="step 9 (ab)",
    split="test",
    recipe={"preset": "small", "seed": 0},
    min_stenosis_percent=70,
    max_pairs=200,
    numbers={"severe/Cormorant/visible/share_raised": 0.5},
)


def run_folder(folder: Path, noise: float, seed: int, **changes: float) -> Path:
    run(folder, split(noise, seed))
    numbers = METRICS | {f"probe/{name.replace('__', '/')}": value for name, value in changes.items()}
    (folder / "results").mkdir()
    (folder / "results" / "mine_test.json").write_text(json.dumps(OF | {"metrics": numbers}))
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Model]:
    folder = tmp_path_factory.mktemp("models")
    good = [run_folder(folder / "good_0", 0.6, 0), run_folder(folder / "good_1", 0.6, 1, cto__auroc=0.9)]
    bad = [run_folder(folder / "bad_0", 1.5, 0, max_stenosis__mae_ratio_to_median=0.9)]
    values = {"whole": 0.8, "first_frame": 0.6, "without_top_clip": 0.65, "without_random_clip": 0.75}
    numbers = {name: {"probe/cto/auroc": value} for name, value in values.items()}
    numbers["metadata"] = {"m/cto/auroc": 0.55}
    shortcuts = Shortcuts(
        **OF,
        numbers=numbers,
        metadata_of={"probe/cto/auroc": "m/cto/auroc"},
        gaps={"probe/cto/auroc": (0.1, 0.02, 0.2)},
    )
    (good[0] / "shortcuts.json").write_text(shortcuts.model_dump_json())
    add_lesion_pairs(
        good[0], PAIRS.model_copy(update={"numbers": {"severe/Aster/visible/share_raised": 0.93}})
    )
    add_lesion_pairs(good[0], PAIRS)
    add_lesion_pairs(good[0], PAIRS.model_copy(update={"checkpoint": "step 1 (old)"}))
    return [Model("good", good), Model("bad", bad)]


def test_the_table_has_seeds_differences_what_is_left_without_films_and_the_bars(models: list[Model]) -> None:
    table = findings_table(models, ["mine_test"], num_samples=40)
    lines = table.splitlines()
    assert "| probe/cto/auroc | 0.850 ± 0.071 (n = 2) (0.710–0.900) | 0.800 (0.710–0.900) |" in lines
    assert any(line.startswith("| probe/cto/auroc | ") and "to +" in line for line in lines)  # paired
    assert "by/sex" not in table
    assert "| good | probe/cto/auroc | 0.800 | 0.600 | – | 0.550 |" in lines
    assert "| good | probe/cto/auroc | 0.650 | 0.750 | +0.100 (+0.020 to +0.200) |" in lines  # paired
    bar = "(step 9 (ab), test of small (seed 0), lesions of 70 % or more) | good | severe/Aster"
    assert bar in table and "step 1" not in table
    said = [
        line for line in lines if line.endswith("met |") or line.endswith("met** |") or "not measured" in line
    ]
    assert [line.split(" | ")[1:] for line in said] == [
        ["good", "probe/severe/auroc_ci_low 0.690", "**not met** |"],
        ["good", "probe/max_stenosis/mae_ratio_to_median 0.700", "met |"],
        ["good", "severe/Aster/visible/share_raised 0.930", "met |"],
        ["good", "severe/Cormorant/visible/share_raised 0.500", "**not met** |"],
        ["good", "probe/cto/auroc 0.100 (0.020–0.200)", "met |"],
        ["bad", "probe/severe/auroc_ci_low 0.690", "**not met** |"],
        ["bad", "probe/max_stenosis/mae_ratio_to_median 0.900", "**not met** |"],
        ["bad", "–", "not measured: `tools/counterfactuals.py FOLDER RUN --head severe` |"],
        ["bad", "–", "not measured: `tools/shortcuts.py RUN` of studies whose pooler weighs clips |"],
    ]


def test_what_is_of_another_checkpoint_is_told_and_not_judged(models: list[Model], tmp_path: Path) -> None:
    run = run_folder(tmp_path / "later", 0.6, 0)
    (run / "shortcuts.json").write_bytes((models[0].runs[0] / "shortcuts.json").read_bytes())
    add_lesion_pairs(run, PAIRS)
    document = OF | {"metrics": METRICS, "checkpoint": "step 12 (cd)"}
    (run / "results" / "mine_test.json").write_text(json.dumps(document))
    lines = findings_table([Model("later", [run])], ["mine_test"], num_samples=20).splitlines()
    assert (
        "later: measured of another checkpoint, split or data than mine_test; `tools/shortcuts.py RUN` measures anew."
        in lines
    )
    judged = [line for line in lines if "not judged" in line]
    assert len(judged) == 2 and "step 9 (ab), test of small" in judged[0] and "shortcuts.py" in judged[1]
    assert not [line for line in lines if "share_raised" in line or "0.650" in line]


def test_numbers_of_other_facts_are_kept_apart_and_those_of_earlier_versions_are_of_no_checkpoint(
    tmp_path: Path,
) -> None:
    (tmp_path / "counterfactuals.json").write_text(json.dumps({"severe/visible/share_raised": 0.99}))
    add_lesion_pairs(tmp_path, PAIRS)
    add_lesion_pairs(tmp_path, PAIRS.model_copy(update={"min_stenosis_percent": 50, "numbers": {"a": 1.0}}))
    add_lesion_pairs(tmp_path, PAIRS.model_copy(update={"numbers": {"b": 2.0}}))
    earlier, lower, own = read_lesion_pairs(tmp_path)
    assert own.numbers == PAIRS.numbers | {"b": 2.0} and own.is_of(OF)
    assert lower.numbers == {"a": 1.0}
    assert earlier.numbers == {"severe/visible/share_raised": 0.99} and not earlier.is_of(OF)
    assert not own.is_of(OF | {"split": "val"})


def test_the_command_writes_the_table_and_says_what_is_wrong(
    models: list[Model], tmp_path: Path, capsys
) -> None:
    words = [f"{model.name}={','.join(map(str, model.runs))}" for model in models]
    more = ["--data", "mine_test", "--bootstrap_samples", "20", "--output", str(tmp_path / "table.md")]
    tool = load_tool("findings_table")
    assert tool.main([*words, *more]) == 0
    assert (tmp_path / "table.md").read_text().strip() == capsys.readouterr().out.strip()
    assert [each.name for each in models_of(words)] == ["good", "bad"]
    for wrong, told in (
        ([*words, "--data", "other_test"], "was not evaluated on other_test; there are ['mine_test']"),
        ([f"x={tmp_path}", "--data", "mine_test"], "hold no results"),
        (["x", "--data", "mine_test"], "give NAME=RUN,RUN,..."),
    ):
        assert tool.main(wrong) == 2
        assert told in capsys.readouterr().err
