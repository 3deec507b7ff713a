"""One small trained run, asked where it looks, what a lesion changes, and what it does with less to see."""

import json
from pathlib import Path

import pytest
import torch

from deepcoro.evaluate import open_run
from deepcoro.lesion_pairs import read_lesion_pairs
from deepcoro.numerals import decimals
from deepcoro.report import read_inputs
from deepcoro.report_explanations import read_explanations
from deepcoro.report_shortcuts import read_shortcuts, shortcut_table
from tests.launch import main_on_this_rank, tiny
from tests.tools.command import load_tool

WORDS = (
    "data.multi_video=true",
    "data.num_videos=3",
    "pooler.type=attention",
    "evaluate.metrics={retrieval: {bootstrap_samples: 9}, zero_shot: {bootstrap_samples: 9}, alignment_uniformity: false}",
    "evaluate.num_examples=1",
)


@pytest.fixture(scope="module")
def run_dir(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained for two steps and tested."""
    folder = tmp_path_factory.mktemp("explained") / "run"
    words = tiny(tiny_shards, folder, *WORDS, "max_steps=2")
    assert main_on_this_rank("ddp", *words) == 0
    assert main_on_this_rank("ddp", *words, "run_mode=test") == 0
    return folder


def test_every_verb_leaves_its_pages_and_a_record_of_the_start(run_dir):
    record = json.loads((run_dir / "run_record.json").read_text())
    (start,) = record["starts"]
    assert start["global_batch"] > 0
    assert start["processes"] == 1
    assert record["splits"]["train"]["patients"] > record["splits"]["test"]["patients"] > 0
    assert record["splits"]["train"]["studies"] > 0
    card = (run_dir / "model_card.md").read_text()
    assert "### test split of" in card
    assert "video tower" in card
    assert "parameters" in card
    assert "Aggregates only" in (run_dir / "report_aggregates.html").read_text()


def test_maps_of_named_studies_stand_in_the_report_and_not_in_its_twin(run_dir, capsys):
    rows = (run_dir / "predictions").glob("*_test.csv")
    key = next(rows).read_text().splitlines()[1].split(",")[0]
    words = [str(run_dir), "--task", "cto", "--maps", "tokens", "attention", "pixels", "--clip", key]
    assert load_tool("explain").main(words) == 0
    record = json.loads((run_dir / "explain" / "cto.json").read_text())
    numbers = record["numbers"]
    document = json.loads(next((run_dir / "results").glob("*_test.json")).read_text())
    assert all(record[key] == document[key] for key in ("checkpoint", "split", "data_fingerprint"))
    assert {name.split("/")[2] for name in numbers} == {"tokens", "attention", "pixels"}
    (explanation,) = read_explanations(run_dir)
    assert explanation.title == key
    assert set(explanation.maps) == {"tokens", "attention", "pixels"}
    assert "Where the model looks" in (run_dir / "report.html").read_text()
    assert "Where the model looks" not in (run_dir / "report_aggregates.html").read_text()
    assert "more than hiding as much at random" in (run_dir / "report.html").read_text()
    out = capsys.readouterr().out
    assert "gain" in out and "python tools/shortcuts.py RUN --split test" in out


@pytest.mark.gpu
def test_a_checkpoint_is_asked_on_the_gpu(run_dir):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    _, _, model = open_run(run_dir, "best")
    assert next(model.parameters()).is_cuda


def test_another_score_keeps_the_pictures_of_the_first(run_dir):
    before = len(read_explanations(run_dir))
    words = [str(run_dir), "--text", "Severe stenosis of the mid LAD.", "--check", "2", "--pictures", "1"]
    assert load_tool("explain").main(words) == 0
    assert len(read_explanations(run_dir)) == before + 1


def test_what_cannot_be_explained_is_told_in_one_line(run_dir, capsys):
    for words in (["--task", "none"], ["--head", "none"], ["--task", "cto", "--clip", "nobody"]):
        assert load_tool("explain").main([str(run_dir), *words]) == 2
    told = capsys.readouterr().err
    assert "zero-shot task 'none'" in told
    assert "has a head 'none'" in told
    assert "no film or study 'nobody'" in told


def write_recipe(folder: Path) -> Path:
    recipe = {"preset": "tiny", "seed": 3, "patients": 12, "format": "avi", "generation": 4}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    return folder


def test_scenes_with_and_without_a_lesion_are_scored(run_dir, tmp_path, capsys):
    words = [
        str(write_recipe(tmp_path)),
        str(run_dir),
        "--task",
        "cto",
        "--pairs",
        "3",
        "--vendors",
        "Aster",
        "Cormorant",
    ]
    assert load_tool("counterfactuals").main([*words, "--split", "train"]) == 0
    (found,) = read_lesion_pairs(run_dir)
    assert (found.split, found.min_stenosis_percent, found.recipe["seed"]) == ("train", 70, 3)
    document = json.loads(next((run_dir / "results").glob("*_test.json")).read_text())
    assert found.checkpoint == document["checkpoint"]
    numbers = found.numbers
    assert numbers["cto/Aster/num_pairs"] == numbers["cto/Cormorant/num_pairs"] == 3
    assert 0 <= numbers["cto/Aster/visible/share_raised"] <= 1
    assert "share_raised" in capsys.readouterr().out


def test_less_to_see_is_measured_by_every_metric(run_dir, capsys):
    assert load_tool("shortcuts").main([str(run_dir)]) == 0
    found = read_shortcuts(run_dir)
    assert set(found.numbers) == {
        "whole",
        "first_frame",
        "middle_frame",
        "shuffled_frames",
        "without_top_clip",
        "without_random_clip",
        "metadata",
    }
    assert found.numbers["whole"].keys() == found.numbers["first_frame"].keys()
    inputs = read_inputs(run_dir)
    shared = set(found.numbers["whole"]) & set(inputs.results)
    assert all(found.numbers["whole"][key] == pytest.approx(inputs.results[key]) for key in shared)
    assert set(found.paired) == set(found.numbers) - {"whole"}
    key = "retrieval/text_to_video/R@5"
    apart, low, high = found.paired["first_frame"][key]
    assert apart == pytest.approx(found.numbers["whole"][key] - found.numbers["first_frame"][key])
    assert low <= apart <= high
    assert inputs.baselines[f"{key}_first_frame"] == found.numbers["first_frame"][key]
    assert inputs.shortcuts_missing is None
    assert "Shown less" in (run_dir / "report.html").read_text()
    assert "R@5" in capsys.readouterr().out
    words = [str(run_dir), "--task", "cto", "--check", "1", "--pictures", "1"]
    assert load_tool("explain").main(words) == 0
    told = capsys.readouterr().out
    assert all(f"{measure}: taking away the clip" in told for measure in found.gaps)


@pytest.fixture(scope="module")
def probe_dir(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads, trained for a step."""
    folder = tmp_path_factory.mktemp("explained") / "probe"
    words = ["demo/tiny_probe", f"data.shards={tiny_shards}", f"run_dir={folder}", "max_steps=1"]
    assert main_on_this_rank("ddp", *words) == 0
    return folder


def test_a_head_that_reads_angles_is_told_those_of_the_scene(probe_dir, tmp_path):
    words = [str(write_recipe(tmp_path)), str(probe_dir), "--head", "cto", "--pairs", "2", "--split", "train"]
    assert load_tool("counterfactuals").main(words) == 0
    assert read_lesion_pairs(probe_dir)[0].numbers["cto/num_pairs"] == 2


def test_a_head_of_a_run_is_explained_as_a_sentence_is(probe_dir):
    words = [str(probe_dir), "--head", "max_stenosis", "--maps", "tokens", "pixels", "--check", "1"]
    assert load_tool("explain").main([*words, "--split", "val"]) == 0
    numbers = json.loads((probe_dir / "explain" / "max_stenosis.json").read_text())["numbers"]
    assert {name.split("/")[2] for name in numbers} == {"tokens", "pixels"}
    assert read_explanations(probe_dir)[0].maps["tokens"]


def test_numbers_of_heads_stand_beside_what_columns_without_films_say_of_the_same_studies(probe_dir):
    assert load_tool("shortcuts").main([str(probe_dir), "--split", "val"]) == 0
    found = read_shortcuts(probe_dir)
    cells = {row.label: row.cells[-1] for row in shortcut_table(found).rows}
    metadata, whole = found.numbers["metadata"], found.numbers["whole"]
    assert cells["linear_probing/lvef/mae"].value == decimals(metadata["lvef/mae"])
    apart, _, _ = found.paired["metadata"]["linear_probing/lvef/mae"]
    assert apart == pytest.approx(whole["linear_probing/lvef/mae"] - metadata["lvef/mae"])
    assert metadata["lvef/num"] == whole["linear_probing/lvef/num"]
    for measure in ("rmse", "icc", "bias"):
        assert found.metadata_of[f"linear_probing/lvef/{measure}"] == f"lvef/{measure}"
        assert f"linear_probing/lvef/{measure}" in found.numbers["first_frame"]
