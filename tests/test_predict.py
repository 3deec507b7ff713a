"""run_mode=inference: films without labels or reports through a trained checkpoint."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.launch import ROOT, main_on_this_rank, tiny


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


def test_films_without_reports_get_embeddings_and_scores(tiny_shards: Path, tmp_path: Path) -> None:
    shards, run_dir = shards_to_predict(tiny_shards, tmp_path), tmp_path / "run"
    assert main_on_this_rank("ddp", *tiny(shards, run_dir, "max_steps=2")) == 0
    assert main_on_this_rank("ddp", *tiny(shards, run_dir, "run_mode=inference", "checkpoint=last")) == 0
    rows = list(csv.DictReader((run_dir / "predictions" / "shards_inference.csv").open()))
    arrays = np.load(run_dir / "embeddings" / "shards_inference.npz")
    assert len(rows) == len(arrays["clip"]) == 18
    assert len(set(arrays["clip"])) == 18
    np.testing.assert_allclose(np.linalg.norm(arrays["embedding"], axis=1), 1, rtol=1e-5)
    assert {row["split"] for row in rows} == {"inference"}
    assert all(row["zero_shot_side_score"] for row in rows)
    assert not any(row["ground_truth_idx"] for row in rows)
