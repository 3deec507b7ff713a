"""A study's answer without each of its films: the pooler and heads run again, and it is as if the whole model had."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from deepcoro.inference.audit import AUDIT, AuditLog
from deepcoro.inference.findings import HeadFindings
from deepcoro.inference.found import studies_of_folder
from deepcoro.inference.left_out import LeftOut, cells_without
from deepcoro.inference.model import Answerer
from deepcoro.inference.opened import FilmOpener, OpenedStudy, settings_of
from deepcoro.inference.prediction import StudyAnswer
from deepcoro.inference.service import Limits, Service, make_app
from deepcoro.inference.study_page import study_page
from deepcoro.inference.written import write_tables
from deepcoro.ingest.identity import Identity
from tests.inference.conftest import Predict
from tests.inference.test_findings import config, fixed
from tests.ingest.films import moving_bar, of_film, write_dicom
from tests.launch import main_on_this_rank

SECRET = b"0123456789abcdef0123456789abcdef"
ANGLES = ((-30, 20), (0, 0), (45, -25), (10, 30))


@pytest.fixture(scope="module")
def probe(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads of every kind, at study and clip level, over weighed tokens and views, on up to five films."""
    return run_of(tiny_shards, tmp_path_factory.mktemp("probe") / "run")


def run_of(shards: Path, run: Path, *more: str) -> Path:
    """Studies of up to five films; evaluated three at a time, so that four left-out rows are two batches."""
    words = ("max_steps=1", "data.num_videos=5", "evaluate.batch_size=3", *more)
    where = (f"data.shards={shards}", f"run_dir={run}")
    assert main_on_this_rank("ddp", "demo/tiny_probe", *where, *words) == 0
    return run


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four films of one study in DICOM, each from another side."""
    folder, found = tmp_path_factory.mktemp("films"), []
    for number, (primary, secondary) in enumerate(ANGLES):
        bar = np.roll(moving_bar(), 7 * number, axis=2)
        angles = {"PositionerPrimaryAngle": str(primary), "PositionerSecondaryAngle": str(secondary)}
        found.append(folder / f"{number}.dcm")
        write_dicom(found[-1], bar, InstanceNumber=number, **angles, **of_film(number))
    return found


@pytest.fixture(scope="module")
def answerer(probe: Path) -> Answerer:
    return Answerer(probe, "last", "cpu")


@pytest.fixture(scope="module")
def study(films: list[Path]) -> OpenedStudy:
    (found,) = studies_of_folder(films[0].parent, Identity(SECRET))
    with FilmOpener(settings_of(1, "XA", False, "sector")) as opener:
        return opener.open(found)


def of_films(study: OpenedStudy, kept: list[int]) -> OpenedStudy:
    """The study as if it had these films alone, in this order."""
    record = study.record.model_copy(update={"clips": [study.record.clips[film] for film in kept]})
    payloads, rows = [study.payloads[film] for film in kept], tuple(study.rows[film] for film in kept)
    return replace(study, record=record, payloads=payloads, rows=rows)


def assert_as_rerun(answerer: Answerer, study: OpenedStudy) -> None:
    """The slow way: the whole model, films and all, on the study without each film."""
    left_out, num_films = answerer.ask(study, leave_out=True).left_out, len(study.payloads)
    assert left_out.clips == [clip.clip for clip in study.record.clips]
    for film in range(num_films):
        rerun = answerer.ask(of_films(study, [each for each in range(num_films) if each != film]))
        np.testing.assert_allclose(left_out.films[film], rerun.films[0], atol=2e-6)
        assert left_out.numbers.keys() <= rerun.numbers.keys()
        for name, said in left_out.numbers.items():
            np.testing.assert_allclose(said[film], rerun.numbers[name][0], rtol=2e-5, atol=2e-6)


def scores_of(answer: StudyAnswer) -> dict[str, dict[str, float]]:
    return {each.name: each.without_one_film.scores for each in answer.findings}


def test_leaving_a_film_out_after_the_encoder_is_as_running_the_whole_model_without_it(
    answerer: Answerer, study: OpenedStudy
) -> None:
    assert_as_rerun(answerer, study)
    assert answerer.ask(study).left_out is None  # a site's metrics do not pay for it
    scores = scores_of(answerer.answer(study))
    assert len(scores) == 5 and all(len(set(each.values())) == 4 for each in scores.values())


@pytest.mark.parametrize(
    "words",
    [
        ("pooler={type: aggregator, embed_dim: 16, num_attention_heads: 2}",),
        ("pooler={type: multi_instance, absent_films: counted}",),
        (
            "pooler={type: max}",
            *(
                f"data.fields.video.{word}"
                for word in ("sampling=multi_window", "stride_s=0.02", "windows=2")
            ),
            "data.fields.video.default_frame_rate_fps=15",
        ),
    ],
    ids=["places", "counted", "windows"],
)
def test_poolers_of_places_those_that_count_absent_films_and_films_of_several_windows_are_rerun_too(
    words: tuple[str, ...], tiny_shards: Path, study: OpenedStudy, tmp_path: Path
) -> None:
    """A gap would tell of the film that is gone, and so would one of its windows that stayed."""
    assert_as_rerun(Answerer(run_of(tiny_shards, tmp_path / "run", *words), "last", "cpu"), study)


def test_the_encoder_sees_each_film_once(answerer: Answerer, study: OpenedStudy, monkeypatch) -> None:
    tower, encoded = answerer._model.towers["video"], []
    features = tower.features
    monkeypatch.setattr(tower, "features", lambda video, *more: (encoded.append(len(video)), features(video, *more))[1])  # fmt: skip
    answerer.answer(study)
    assert encoded == [4]


def test_neither_the_order_of_films_nor_padding_changes_what_a_film_is_worth(
    answerer: Answerer, study: OpenedStudy, monkeypatch
) -> None:
    expected = scores_of(answerer.answer(study))
    turned = scores_of(answerer.answer(of_films(study, [2, 0, 3, 1])))
    data = answerer.config.data.model_copy(update={"num_videos": 9})
    monkeypatch.setattr(answerer, "config", answerer.config.model_copy(update={"data": data}))
    padded = scores_of(answerer.answer(study))
    for name, scores in expected.items():
        assert turned[name] == pytest.approx(scores, rel=2e-5, abs=2e-6)
        assert padded[name] == pytest.approx(scores, rel=2e-5, abs=2e-6)


def test_films_that_the_model_was_not_shown_are_not_left_out_either(
    answerer: Answerer, study: OpenedStudy
) -> None:
    many = of_films(study, [0, 1, 2, 3, 0, 1, 2])
    clips = [each.model_copy(update={"clip": f"c{n}"}) for n, each in enumerate(many.record.clips)]
    answer = answerer.answer(replace(many, record=many.record.model_copy(update={"clips": clips})))
    shown = [film.clip for film in answer.films if film.shown]
    assert len(shown) == 5
    assert all(list(each) == shown for each in scores_of(answer).values())


def test_a_study_of_one_film_has_no_spread_and_not_one_of_width_zero(
    answerer: Answerer, study: OpenedStudy, tmp_path: Path
) -> None:
    alone = of_films(study, [1])
    answer = answerer.answer(alone)
    assert answer.findings and all(each.spread is None for each in answer.findings)
    assert all((each.without_one_film, each.lowest, each.highest) == (None,) * 3 for each in answer.findings)
    page = study_page(answer, alone)
    assert page.count("no spread: one film") == 5 and "when left out" not in page
    write_tables(tmp_path, [answer])
    assert "without" not in (tmp_path / "studies.csv").read_text() + (tmp_path / "films.csv").read_text()


def test_a_study_without_films_has_no_findings(answerer: Answerer, study: OpenedStudy) -> None:
    assert answerer.answer(of_films(study, [])).findings == []


def test_json_tables_and_page_say_what_the_answer_hangs_on_and_a_broken_film_takes_no_part(
    predict: Predict, probe: Path, films: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    for film in films:
        (folder / film.name).write_bytes(film.read_bytes())
    broken = write_dicom(folder / "9.dcm", moving_bar(), **of_film(9))
    broken.write_bytes(broken.read_bytes()[:-4000])
    code, _, complained = predict(folder, "--load", "last", "--html", checkpoint=probe)
    assert code == 0, complained
    (path,) = (tmp_path / "answers").glob("*.json")
    answer = StudyAnswer.model_validate_json(path.read_text())
    assert len(answer.films) == 4 and len(answer.skipped) == 1
    (row,) = csv.DictReader((tmp_path / "answers" / "studies.csv").open())
    rows = {each["clip"]: each for each in csv.DictReader((tmp_path / "answers" / "films.csv").open())}
    for finding in answer.findings:
        name, without = finding.name.replace("/", "_"), finding.without_one_film
        assert (without.lowest, without.highest) == finding.spread
        assert list(without.scores) == [film.clip for film in answer.films]
        assert without.lowest == min(without.scores.values()) and without.highest == max(without.scores.values())  # fmt: skip
        assert row[f"{name}_without_one_film_lowest"] == f"{without.lowest:.6f}"
        assert row[f"{name}_without_one_film_highest"] == f"{without.highest:.6f}"
        assert {clip: each[f"{name}_score_without"] for clip, each in rows.items()} == {
            clip: f"{score:.6f}" for clip, score in without.scores.items()
        }
    page = path.with_suffix(".html").read_text()
    assert "It is no confidence interval" in page and "the class when left out" in page
    assert "Lowest to highest film" not in page


def test_the_service_says_it_too(answerer: Answerer, films: list[Path], tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    limits = Limits(upload_bytes=300_000, files=4, waiting=1)
    with FilmOpener(settings_of(1, "XA", False, "sector")) as opener:
        log = AuditLog(tmp_path / AUDIT)
        service = Service(answerer, opener, Identity(SECRET), limits, tmp_path / "scratch", log)
        client = TestClient(make_app(service, "a-token"), headers={"Authorization": "Bearer a-token"})
        parts = [("file", (film.name, film.read_bytes())) for film in films]
        reply, page = (client.post(path, files=parts) for path in ("/studies", "/page"))
    (answer,) = reply.json()["studies"]
    assert {len(each["without_one_film"]["scores"]) for each in answer["findings"]} == {4}
    assert "Without one film" in page.text


def test_calls_and_classes_that_one_film_decides_are_counted() -> None:
    def numbers(cto: list[float], dominance: list[list[float]]) -> dict[str, np.ndarray]:
        said = {"cto": np.array(cto)[:, None], "dominance": np.array(dominance)}
        return {f"probe/{name}/prediction": each for name, each in said.items()}

    right, left = [0.7, 0.2, 0.1], [0.3, 0.6, 0.1]
    left_out = LeftOut(["a", "b", "c"], np.zeros((3, 0)), numbers([0.5, 0.39, 0.2], [right, left, right]))
    settings = config(multi_video=True)
    cto, dominance = HeadFindings(settings, fixed(0.4), 0.5).of(numbers([0.6], [right]), 3, left_out)
    assert (cto.call, cto.without_one_film.num_changing, cto.spread) == ("positive", 2, (0.2, 0.5))
    assert (cto.score, cto.lowest, cto.highest) == (
        0.6,
        None,
        None,
    )  # a film has no score, and the whole may lie outside
    assert (dominance.word, dominance.without_one_film.num_changing) == ("right", 1)
    assert dominance.without_one_film.scores == {"a": 0.7, "b": 0.3, "c": 0.7}
    uncalled, _ = HeadFindings(settings, None, 0.5).of(numbers([0.6], [right]), 3, left_out)
    assert uncalled.without_one_film.num_changing is None


def test_clips_that_stay_move_up_and_all_windows_of_a_film_go() -> None:
    tokens = torch.arange(4.0)[:, None, None]
    cells = cells_without(tokens, film_of_clip=[7, 8, 8, 9], films=[8, 9], num_slots=6)
    assert cells["video_features"].flatten().tolist() == [0, 3, 0, 1, 2]
    assert cells["clip_mask"].sum(1).tolist() == [2, 3] and cells["clip_mask"].shape == (2, 6)
    assert cells["clip_mask"][0].tolist() == [True, True] + 4 * [False]
    with pytest.raises(ValueError, match=r"no clip shows the films \[5\]"):
        cells_without(tokens, [7, 8, 8, 9], [5], 6)
