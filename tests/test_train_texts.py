"""Training on texts of a table: the whole way from two CSVs to metrics."""

from pathlib import Path

import pytest

from tests.launch import STEADY, losses, main_on_rank, main_on_this_rank, metrics
from tests.ranks import Ranks
from tests.text_tables import write_text_tables

RETRIEVAL = "{zero_shot: false, captioning: false, clinical_findings: false, alignment_uniformity: false, retrieval: {bootstrap_samples: 20, strata: []}}"


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    write_text_tables(folder)
    return folder


def words(shards: Path, run_dir: Path, tables: Path, *more: str) -> list[str]:
    field = {
        "type": "texts",
        "texts": tables / "texts.csv",
        "edges": tables / "edges.csv",
        "num_negatives": 2,
    }
    given = [f"data.fields.report.{key}={value}" for key, value in field.items()]
    return [
        *("demo/tiny", f"data.shards={shards}", f"run_dir={run_dir}", *STEADY, *given),
        *("max_steps=2", "objectives.contrastive.loss.type=siglip", f"evaluate.metrics={RETRIEVAL}", *more),
    ]


def test_two_ranks_train_as_one_process_and_films_are_searched_by_their_heaviest_text(
    other_shards: Path, tables: Path, two_ranks: Ranks, tmp_path: Path
):
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert main_on_this_rank("ddp", *words(other_shards, alone, tables, "batch_size=8")) == 0
    assert two_ranks.run(main_on_rank, "ddp", *words(other_shards, together, tables, "batch_size=4")) == [
        0,
        0,
    ]
    assert losses(alone) == pytest.approx(losses(together), rel=1e-5)
    assert metrics(alone)[-1]["val/retrieval/num_distinct_reports"] <= 7


def test_a_run_does_not_go_on_with_other_edges(other_shards: Path, tables: Path, tmp_path: Path, capsys):
    run_dir, moved = tmp_path / "run", tmp_path / "moved"
    moved.mkdir()
    for path in tables.iterdir():
        (moved / path.name).write_text(path.read_text())
    first = words(other_shards, run_dir, tables, "evaluate.metrics={}")
    assert main_on_this_rank("ddp", *first) == 0
    assert main_on_this_rank("ddp", *words(other_shards, run_dir, moved, "max_steps=3")) == 0
    (moved / "edges.csv").write_text("clip,text_id\nother0-film1,T1\n")
    assert main_on_this_rank("ddp", *words(other_shards, run_dir, moved, "max_steps=4")) == 2
    assert "fingerprint" in capsys.readouterr().err


def test_a_rule_beside_edges_and_a_table_of_other_films_are_refused(
    other_shards: Path, tables: Path, tmp_path: Path, capsys
):
    ruled = words(other_shards, tmp_path / "a", tables, "objectives.contrastive.positives.type=findings")
    assert main_on_this_rank("ddp", *ruled) == 2
    assert "take report_id" in capsys.readouterr().err
    edges = tmp_path / "edges.csv"
    edges.write_text("clip,text_id\nnobody,T1\n")
    other = words(other_shards, tmp_path / "b", tables, f"data.fields.report.edges={edges}")
    assert main_on_this_rank("ddp", *other) == 2
    assert "no edge is of a film of this run" in capsys.readouterr().err
