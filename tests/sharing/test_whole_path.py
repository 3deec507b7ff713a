"""The whole path on a run that was trained: export, load, and the numbers of its evaluation and inference."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

import deepcoro
from deepcoro.embeddings import matrix
from tests.inference.conftest import trained
from tests.inference.test_answers import evaluated_scores
from tests.launch import main_on_this_rank
from tests.tools.command import call_tool

pytestmark = pytest.mark.slow


def test_a_trained_run_is_exported_and_gives_the_numbers_of_its_evaluation_and_inference(
    tiny_shards: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    run_dir, folder = tmp_path / "runs" / "mine", tmp_path / "models" / "mine"
    trained(tiny_shards, run_dir, "evaluate.metrics.privacy={bootstrap_samples: 20}")
    said = evaluated_scores(run_dir, tiny_shards)
    config = str(run_dir / "config.yaml")
    more = ("run_mode=inference", "inference.splits=[test]", "inference.reports=true")
    assert main_on_this_rank("ddp", config, f"run_dir={run_dir}", f"data.shards={tiny_shards}", *more) == 0
    words = (run_dir, "--output", folder, "--with_reports", "--with_bank")
    assert call_tool("export_model", words, monkeypatch, capsys)[0] == 0
    numbers = json.loads((run_dir / "results.json").read_text())
    assert 0 <= numbers["privacy/copied/verbatim"] <= 1 and numbers["privacy/linked/same_study/num"] > 0
    model = deepcoro.load(folder, device="cpu")

    (table,) = (folder / "embeddings").glob("*_test_clips.parquet")
    rows = pyarrow.parquet.read_table(table)
    of_clip = dict(zip(rows["clip"].to_pylist(), matrix(rows["embedding"]), strict=True))
    for study, films in studies_of_test(tiny_shards.parent / "data"):
        embedded, scores, captions = model.embed(films), model.zero_shot(films), model.caption(films)
        keys = films_like(embedded.films, of_clip)
        for place, key in enumerate(keys):
            assert np.abs(embedded.films[place] - of_clip[key]).max() < 2e-6
            assert scores["zero_shot/cto"][place] == pytest.approx(float(said[key]["zero_shot_cto_score"]), abs=2e-6)  # fmt: skip
            assert captions[place] == said[key]["caption"]
        assert len({key.rpartition(".")[0] for key in keys}) == 1, study

    answers = tmp_path / "answers"
    words = (tiny_shards, "--split", "test", "--checkpoint", folder, "--output", answers, "--device", "cpu")
    bank = ("--bank", folder / "embeddings")
    assert call_tool("predict", (*words, *bank), monkeypatch, capsys)[0] == 0
    assert len(list(answers.glob("*.json"))) == len({row["study"] for row in said.values()})


def studies_of_test(data: Path) -> list[tuple[str, list[Path]]]:
    """Films of each study of the test split, in the order of the table."""
    studies: dict[str, list[Path]] = {}
    for row in csv.DictReader((data / "dataset.csv").open()):
        if row["Split"] == "test":
            studies.setdefault(row["StudyInstanceUID"], []).append(data / row["FileName"])
    return list(studies.items())


def films_like(embeddings: np.ndarray, of_clip: dict[str, np.ndarray]) -> list[str]:
    """Key of the clip in the run's table that each embedding is nearest to."""
    keys, table = list(of_clip), np.stack(list(of_clip.values()))
    return [keys[int((table @ each).argmax())] for each in embeddings]
