"""run_mode=inference: films without labels or reports through a trained checkpoint."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from deepcoro.embeddings import matrix
from tests.launch import ROOT, SILENT, STEADY, main_on_rank, main_on_this_rank, tiny
from tests.ranks import Ranks


def shards_to_predict(tiny_shards: Path, folder: Path) -> Path:
    """The tiny films again: those of the test split are now split `inference` and have no report."""
    data = tiny_shards.parent / "data"
    rows = list(csv.DictReader((data / "dataset.csv").open()))
    for row in rows:
        row["FileName"] = str(data / row["FileName"])
        if row["Split"] == "test":
            row |= {"Split": "inference", "Report": ""}
    table = folder / "table.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    words = [
        "--csv",
        table,
        "--output",
        folder / "shards",
        "--report_scope",
        "side",
        "--key_file",
        data / "demo.key",
    ]
    subprocess.run(
        [sys.executable, "tools/shard_dataset.py", *map(str, words)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=900,
    )
    return folder / "shards"


def embeddings(run_dir: Path, name: str) -> pyarrow.Table:
    return pyarrow.parquet.read_table(run_dir / "embeddings" / f"shards_{name}.parquet")


def test_films_without_reports_get_embeddings_and_scores(tiny_shards: Path, tmp_path: Path) -> None:
    shards, run_dir = shards_to_predict(tiny_shards, tmp_path), tmp_path / "run"
    assert main_on_this_rank("ddp", *tiny(shards, run_dir, "max_steps=2")) == 0
    assert main_on_this_rank("ddp", *tiny(shards, run_dir, "run_mode=inference", "checkpoint=last")) == 0
    rows = list(csv.DictReader((run_dir / "predictions" / "shards_inference.csv").open()))
    films = embeddings(run_dir, "inference_clips")
    assert [row["clip"] for row in rows] == films["clip"].to_pylist() and len(
        set(films["clip"].to_pylist())
    ) == 18
    np.testing.assert_allclose(np.linalg.norm(matrix(films["embedding"]), axis=1), 1, rtol=1e-5)
    assert embeddings(run_dir, "inference_studies").num_rows == 5
    assert {row["split"] for row in rows} == {"inference"}
    assert all(row["zero_shot_side_score"] for row in rows)
    assert not any(row["ground_truth_idx"] for row in rows)


@pytest.fixture(scope="module")
def studies_run(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on studies of up to three films, which a pooler weighs."""
    run_dir = tmp_path_factory.mktemp("studies") / "run"
    words = tiny(tiny_shards, run_dir, *OF_STUDIES, "max_steps=3", "optim.lr=0.03")
    assert main_on_this_rank("ddp", *words) == 0
    assert main_on_this_rank("ddp", *tiny(tiny_shards, run_dir, *OF_STUDIES, *PREDICT)) == 0
    return run_dir


OF_STUDIES = (*STEADY, *SILENT, "data.multi_video=true", "data.num_videos=3", "pooler.type=attention")
PREDICT = ("run_mode=inference", "checkpoint=last", "inference.splits=[test,val]")


@pytest.mark.parametrize(("engine", "batch_size"), [("ddp", 2), ("zero2", 3)])
def test_two_ranks_write_the_tables_that_one_does(
    tiny_shards: Path, studies_run: Path, two_ranks: Ranks, tmp_path: Path, engine: str, batch_size: int
) -> None:
    run_dir = shutil.copytree(
        studies_run, tmp_path / "run", ignore=shutil.ignore_patterns("embeddings", "predictions")
    )
    words = tiny(tiny_shards, run_dir, *OF_STUDIES, *PREDICT, f"evaluate.batch_size={batch_size}")
    assert two_ranks.run(main_on_rank, engine, *words) == [0, 0]
    for name in ("test_clips", "test_studies", "val_clips", "val_studies"):
        two, one = embeddings(run_dir, name), embeddings(studies_run, name)
        np.testing.assert_allclose(matrix(two["embedding"]), matrix(one["embedding"]), atol=1e-6)
        if "weight" in one.column_names:
            np.testing.assert_allclose(two["weight"], one["weight"], atol=1e-6)
        left_out = [column for column in ("embedding", "weight") if column in one.column_names]
        assert two.drop_columns(left_out).equals(one.drop_columns(left_out)), name
    for split in ("test", "val"):
        two, one = (predictions(folder, split) for folder in (run_dir, studies_run))
        assert [row["study"] for row in two] == [row["study"] for row in one] and len(one) > 1
        for row, expected in zip(two, one, strict=True):
            assert row.keys() == expected.keys()
            for column, value in expected.items():
                assert same(row[column], value), column


def predictions(run_dir: Path, split: str) -> list[dict[str, str]]:
    with (run_dir / "predictions" / f"shards_{split}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def same(cell: str, expected: str) -> bool:
    """Words alike; numbers to the last place that is written."""
    try:
        return abs(float(cell) - float(expected)) <= 1.01e-4
    except ValueError:
        return cell == expected


def test_a_clip_of_a_study_is_embedded_as_if_it_were_alone_and_weighed_among_the_others(
    tiny_shards: Path, studies_run: Path, tmp_path: Path
) -> None:
    run_dir = shutil.copytree(studies_run, tmp_path / "run")
    alone = ("data.multi_video=false", "inference.splits=[test]")
    assert main_on_this_rank("ddp", *tiny(tiny_shards, run_dir, *OF_STUDIES, *PREDICT, *alone)) == 0
    of_films, of_studies = embeddings(run_dir, "test_clips"), embeddings(studies_run, "test_clips")
    place = {clip: row for row, clip in enumerate(of_films["clip"].to_pylist())}
    rows = [place[clip] for clip in of_studies["clip"].to_pylist()]
    np.testing.assert_allclose(
        matrix(of_studies["embedding"]), matrix(of_films["embedding"])[rows], atol=1e-6
    )
    sums = of_studies.group_by("study").aggregate([("weight", "sum"), ("weight", "count")]).to_pydict()
    assert sums["weight_sum"] == pytest.approx([1] * 5) and max(sums["weight_count"]) == 3
    weights = of_studies["weight"].to_numpy()
    assert np.ptp(weights[: sums["weight_count"][0]]) > 1e-5, "they were learned"
    assert set(of_films["weight"].to_pylist()) == {1.0}


def test_windows_of_a_film_are_rows_of_their_own(
    tiny_shards: Path, studies_run: Path, tmp_path: Path
) -> None:
    run_dir = shutil.copytree(studies_run, tmp_path / "run")
    windows = ("sampling=multi_window", "stride_s=0.05", "windows=2")
    words = (
        *(f"data.fields.video.{key}" for key in windows),
        "data.multi_video=false",
        "inference.splits=[val]",
    )
    assert main_on_this_rank("ddp", *tiny(tiny_shards, run_dir, *OF_STUDIES, *PREDICT, *words)) == 0
    found = embeddings(run_dir, "val_clips")
    numbers, films = found["window"].to_pylist(), found["clip"].to_pylist()
    assert set(numbers) == {0, 1} and len(set(zip(films, numbers, strict=True))) == len(films)
    assert embeddings(run_dir, "val_studies")["num_clips"].to_pylist() == list(
        found["study"].value_counts().field("counts").to_pylist()
    )
