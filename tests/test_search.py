"""Searches over the bank of a run, as a user does them: the command, its page, its refusals."""

import base64
import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from deepcoro.bank import Bank, FoundReport, Reading, read_bank
from deepcoro.data.shards import Shards
from deepcoro.embeddings import UNIT_SPACE, matrix, vectors, write_table
from deepcoro.search import FoundFilm, film_query, films_nearest
from deepcoro.search_page import NO_FILMS, Search, search_lines, write_search_page
from deepcoro.sharing.export import Asked, export_model
from tests.launch import SILENT, STEADY, main_on_rank, main_on_this_rank, tiny
from tests.ranks import Ranks
from tests.tools.command import call_tool

WORDS = (*STEADY, *SILENT, "run_mode=inference", "checkpoint=last", "inference.reports=true")
REPORTS = "shards_reports.parquet"


@pytest.fixture(scope="module")
def run_dir(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a bank of the test and val splits."""
    folder = tmp_path_factory.mktemp("search") / "run"
    assert main_on_this_rank("ddp", *tiny(tiny_shards, folder, *STEADY, *SILENT, "max_steps=2")) == 0
    words = tiny(tiny_shards, folder, *WORDS, "inference.splits=[test,val]")
    assert main_on_this_rank("ddp", *words) == 0
    return folder


@pytest.fixture(scope="module")
def shared(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a recipient has: the model with its bank and the training reports, and no film."""
    return export_model_with(run_dir, tmp_path_factory.mktemp("shared") / "model", Asked(True, True))


def export_model_with(run_dir: Path, folder: Path, asked: Asked) -> Path:
    export_model(run_dir, folder, "last", asked)
    return folder


def test_the_bank_of_reports_is_of_the_train_split_alone(tiny_shards: Path, run_dir: Path) -> None:
    table = pyarrow.parquet.read_table(run_dir / "embeddings" / REPORTS)
    opened = Shards.open(tiny_shards)
    of_train = opened.units("train", True, 1)
    assert set(table["study"].to_pylist()) == {of_train.study_id(unit) for unit in range(len(of_train))}
    first = opened.study(int(of_train.study_row[0]))
    assert table["text"][0].as_py() in [report.text for report in first.reports]
    assert {"label_cto", "label_side=left", "label_lvef"} <= set(table.column_names)
    np.testing.assert_allclose(np.linalg.norm(matrix(table["embedding"]), axis=1), 1, atol=1e-5)


def test_two_ranks_write_the_reports_that_one_does(
    tiny_shards: Path, run_dir: Path, two_ranks: Ranks, tmp_path: Path
) -> None:
    again = shutil.copytree(run_dir, tmp_path / "run", ignore=shutil.ignore_patterns("embeddings"))
    words = tiny(tiny_shards, again, *WORDS, "inference.splits=[test]")
    assert two_ranks.run(main_on_rank, "ddp", *words) == [0, 0]
    one, two = (pyarrow.parquet.read_table(folder / "embeddings" / REPORTS) for folder in (run_dir, again))
    np.testing.assert_allclose(matrix(two["embedding"]), matrix(one["embedding"]), atol=1e-6)
    assert two.drop_columns(["embedding"]).equals(one.drop_columns(["embedding"]))


def test_a_sentence_finds_films_in_the_order_of_their_cosines(
    tiny_shards: Path, run_dir: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    own = Shards.open(tiny_shards).units("test", False, 1)
    study = Shards.open(tiny_shards).study(int(own.study_row[0]))
    sentence = study.report_of((int(own.clip[0]),))
    page = tmp_path / "page.html"
    words = (sentence, "--bank", run_dir, "--splits", "test", "--num", 4, "--output", page)
    code, out, _ = call_tool("search", words, monkeypatch, capsys)
    lines = out.splitlines()
    assert code == 0 and lines[-1] == f"page: {page}" and len(lines) == 5
    similarities = [float(line.split()[1]) for line in lines[:4]]
    assert similarities == sorted(similarities, reverse=True) and all(
        line.endswith("test") for line in lines[:4]
    )
    html = page.read_text()
    assert html.count("data:image/jpeg;base64,") == 4 and "do not share it outside" in html
    assert "http://" not in html and "https://" not in html, "it loads nothing"
    strip = html.split("data:image/jpeg;base64,")[1].split('"')[0]
    assert Image.open(io.BytesIO(base64.b64decode(strip))).height == 120


def test_a_film_finds_training_reports_and_what_they_say(
    run_dir: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    bank = run_dir / "embeddings"
    film = read_bank(bank, ["test"]).clips["clip"][0].as_py()
    words = (
        "--film",
        film,
        "--bank",
        bank,
        "--num",
        3,
        "--neighbours",
        5,
        "--output",
        tmp_path / "page.html",
    )
    code, out, _ = call_tool("search", words, monkeypatch, capsys)
    assert code == 0
    texts = set(pyarrow.parquet.read_table(bank / REPORTS)["text"].to_pylist())
    shown = [line.split(maxsplit=2)[2] for line in out.splitlines()[:3]]
    assert {" ".join(text.split()) for text in texts} >= set(shown) and len(set(shown)) == 3
    assert any(line.startswith("lvef") and "known by" in line for line in out.splitlines())
    assert "What its neighbours say" in (tmp_path / "page.html").read_text()


def test_the_bank_of_an_exported_model_is_searched_as_that_of_its_run(
    tiny_shards: Path, run_dir: Path, shared: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    page = tmp_path / "page.html"

    def found(bank: Path, *words: object) -> list[str]:
        given = ("severe mid LAD stenosis", "--bank", bank, "--num", 3, "--output", page, *words)
        code, out, err = call_tool("search", given, monkeypatch, capsys)
        assert code == 0, err
        assert out.splitlines()[-1] == f"page: {page}"
        return out.splitlines()[:-1]

    of_run = found(run_dir)
    assert found(shared) == [*of_run, NO_FILMS] == found(shared / "embeddings")
    html = page.read_text()
    assert "data:image" not in html and "film not read" not in html and NO_FILMS in html
    assert of_run[0].split()[2] in html
    assert found(shared, "--shards", tiny_shards) == of_run
    assert page.read_text().count("data:image/jpeg;base64,") == 3


def test_a_film_of_an_exported_bank_finds_its_training_reports(
    tiny_shards: Path, run_dir: Path, shared: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    page = tmp_path / "page.html"
    film = read_bank(shared / "embeddings", ["test"]).clips["clip"][0].as_py()
    words = ("--film", film, "--num", 3, "--neighbours", 5, "--output", page)
    outs = [
        call_tool("search", (*words, "--bank", *bank), monkeypatch, capsys)
        for bank in ((run_dir,), (shared,), (shared, "--shards", tiny_shards))
    ]
    assert [code for code, _, _ in outs] == [0, 0, 0]
    of_run, of_shared, with_films = (out.splitlines() for _, out, _ in outs)
    assert of_shared == [*of_run[:-1], NO_FILMS, of_run[-1]] and with_films == of_run
    assert "data:image/jpeg;base64," in page.read_text()


@pytest.mark.parametrize(
    ("asked", "words", "message"),
    [
        (Asked(reports=True), ("a",), "no *_clips.parquet"),
        (Asked(), ("a",), "no *_clips.parquet"),
        (Asked(bank=True), ("--film", None), "the bank holds no reports"),
    ],
)
def test_what_an_export_left_at_home_is_told_with_the_flag_that_takes_it_along(
    run_dir: Path, tmp_path: Path, monkeypatch, capsys, asked: Asked, words: tuple, message: str
) -> None:
    folder = export_model_with(run_dir, tmp_path / "model", asked)
    film = read_bank(run_dir / "embeddings").clips["clip"][0].as_py()
    given = [film if word is None else word for word in words]
    code, _, err = call_tool("search", (*given, "--bank", folder), monkeypatch, capsys)
    assert code == 2 and message in err and len(err.splitlines()) == 1
    assert "tools/export_model.py" in err and "--with_bank" in err and "--with_reports" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give sentences, or a film"),
        (("a", "--film", "b.000"), "one of the two"),
        (("a", "--num", "0"), "must be 1 or more"),
        (("a", "--splits", "train"), "the bank has no films of ['train']"),
        (("--film", "nobody.000"), "no film 'nobody.000'"),
        (("--film", "nobody.000", "--splits", "test"), "leave --splits out"),
        (("a", "--shards", "nowhere"), "or say with --shards where the films are now"),
    ],
)
def test_what_cannot_be_searched_is_one_line(
    run_dir: Path, monkeypatch, capsys, words: tuple[str, ...], message: str
) -> None:
    code, _, err = call_tool("search", (*words, "--bank", run_dir), monkeypatch, capsys)
    assert code == 2 and message in err and len(err.splitlines()) == 1


def test_a_bank_of_another_checkpoint_is_refused(run_dir: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    bank = tmp_path / "bank"
    bank.mkdir()
    table = pyarrow.parquet.read_table(run_dir / "embeddings" / "shards_test_clips.parquet")
    about = {"checkpoint": "step 2 (0123456789abcdef)", "space": UNIT_SPACE}
    write_table(bank / "shards_test_clips.parquet", table, about)
    code, _, err = call_tool("search", ("a", "--bank", bank, "--run", run_dir), monkeypatch, capsys)
    assert code == 2 and "write the bank anew" in err and len(err.splitlines()) == 1


def bank_of_windows() -> Bank:
    """Two films; the first has two windows."""
    rows = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
    clips = pyarrow.table(
        {
            "clip": ["s0.000", "s0.000", "s1.000"],
            "patient": ["p0", "p0", "p1"],
            "split": ["test"] * 3,
            "embedding": vectors(rows),
        }
    )
    return Bank(clips, None, "step 1 (a)")


def test_a_film_of_several_windows_is_found_once_by_its_best() -> None:
    found = films_nearest(bank_of_windows(), np.array([0.0, 1.0]), 5)
    assert [(each.film, round(each.similarity, 6)) for each in found] == [("s0.000", 1.0), ("s1.000", 0.8)]
    _, query, patient = film_query(bank_of_windows(), "s0.000")
    assert patient == "p0"
    np.testing.assert_allclose(query, [0.5**0.5, 0.5**0.5])


def test_a_page_escapes_what_reports_say_and_says_what_could_not_be_read(tmp_path: Path) -> None:
    films = [FoundFilm("s0.000", "test", 0.5, "<b>a & b</b>")]
    reports, readings = [FoundReport("<i>x</i>", 0.25, 2)], [Reading("cto", 0.5, 3, 0.25)]
    page = write_search_page(tmp_path / "a.html", Search(2, "step 1 (a)", ["<q>"], films=films)).read_text()
    assert "&lt;b&gt;a &amp; b&lt;/b&gt;" in page and "<q>" not in page and "film not read" in page
    search = Search(9, "step 1 (a)", film=films[0], reports=reports, readings=readings, num_neighbours=5)
    page = write_search_page(tmp_path / "b.html", search).read_text()
    assert "&lt;i&gt;x&lt;/i&gt;" in page and "of 2 training films" in page
    assert "take fewer with --neighbours" not in page
    everyone = write_search_page(tmp_path / "c.html", replace(search, num_neighbours=9)).read_text()
    assert "take fewer with --neighbours" in everyone
    assert search_lines(search)[-1].split() == [
        "cto",
        "0.500",
        "all",
        "reports",
        "0.250",
        "known",
        "by",
        "3",
        "of",
        "5",
    ]
