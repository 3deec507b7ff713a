"""The content classifier from shards to a keyed table: it learns, it masks, it abstains, and its file says what it is."""

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from deepcoro.angiography.cohort import films_of, patient_of, studies_of
from deepcoro.angiography.content import CORONARY
from deepcoro.angiography.film import render_film
from deepcoro.angiography.presets import preset_named
from deepcoro.angiography.tables import dataset_row
from deepcoro.config import ConfigError, DataError
from deepcoro.content.measures import measure_head
from deepcoro.content.model import ContentModel
from deepcoro.content.network import ContentNetwork, jittered
from deepcoro.content.pictures import HEADS, read_pictures
from deepcoro.content.table import content_table
from deepcoro.content.train import Training, train_content
from deepcoro.data.manifest import Encoding
from deepcoro.data.shards import Shards
from tests.data.folder import moving_film, study_with, write_folder

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import label_content  # noqa: E402

SIZE_PX = 48
QUICK = Training(size_px=SIZE_PX, epochs=8, batch_size=24, seed=1)


def generated_shards(folder: Path, patients: int, size_px: int = SIZE_PX) -> Path:
    """Shards of preset content at a small size; every ninth film has an empty cell for contrast."""
    preset = preset_named("content").model_copy(update={"size_px": size_px, "frames": (8, 8)})
    studies, splits = [], {}
    for number in range(patients):
        patient = patient_of(preset, 0, number)
        study = studies_of(preset, 0, patient)[0]
        plans = films_of(preset, 0, study, "avi")
        films = [render_film(plan.injection).pixels for plan in plans]
        films = [
            (film >> (plan.injection.bits - 8)).astype(np.uint8)[..., None]
            for film, plan in zip(films, plans, strict=True)
        ]
        record, payloads = study_with(f"study{number}", films, Encoding(), patient.patient_id)
        clips = [
            clip.model_copy(update={"labels": _labels(dataset_row(plan), index)})
            for index, (clip, plan) in enumerate(zip(record.clips, plans, strict=True))
        ]
        studies.append((record.model_copy(update={"clips": clips}), payloads))
        splits[record.study] = patient.split
    return write_folder(folder, studies, studies_per_shard=8, splits=splits)


def _labels(row: dict, index: int) -> dict[str, float | str | None]:
    labels = {head: row[head] if isinstance(row[head], str) else float(row[head]) for head in HEADS}
    return labels | ({"contrast_agent": None} if index % 9 == 8 else {})


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generated_shards(tmp_path_factory.mktemp("content") / "shards", 40)


@pytest.fixture(scope="module")
def trained(shards: Path) -> ContentModel:
    films = read_pictures(Shards.open(shards), SIZE_PX)
    return train_content([films], ["fingerprint"], QUICK)[0]


def toy_shards(
    folder: Path,
    labels: Sequence[dict[str, float | str | None]],
    splits: Sequence[str],
    patient: str | None = None,
) -> Path:
    studies = []
    for number, each in enumerate(labels):
        record, payloads = study_with(
            f"s{number}", [moving_film(number)], Encoding(), patient or f"p{number}"
        )
        clips = [record.clips[0].model_copy(update={"labels": each})]
        studies.append((record.model_copy(update={"clips": clips}), payloads))
    return write_folder(folder, studies, splits={f"s{number}": split for number, split in enumerate(splits)})


@pytest.mark.slow
def test_it_beats_the_most_frequent_class_on_patients_it_has_not_seen(shards, trained):
    films = read_pictures(Shards.open(shards), SIZE_PX, splits=("test",))
    assert len(films.clips) > 30 and set(films.splits) == {"test"}
    chances = trained.probabilities(films)
    for head, better_by in (("main_structure", 0.15), ("contrast_agent", 0.15)):
        truth = films.targets(head, trained.card.heads[head].classes).numpy()
        measure = measure_head(chances[head].numpy(), truth, 0.0)
        assert measure.accuracy > measure.majority + better_by, (head, measure)
        assert measure.auroc > 0.85


@pytest.mark.slow
def test_a_film_that_is_not_assessed_teaches_nothing(shards):
    films = read_pictures(Shards.open(shards), SIZE_PX)
    empty = [word is None for word in films.words["contrast_agent"]]
    assert 0 < sum(empty) < len(empty) / 4
    assert (films.targets("contrast_agent", ["0", "1"]) < 0).tolist() == empty


def test_the_same_seed_trains_the_same_model(tmp_path):
    labels = [{"contrast_agent": float(n % 2)} for n in range(12)]
    folder = toy_shards(tmp_path / "toy", labels, ["train"] * 8 + ["val"] * 4)
    films = read_pictures(Shards.open(folder), 32)
    settings = Training(size_px=32, epochs=2, batch_size=4)
    one, other = (train_content([films], ["f"], settings)[0] for _ in range(2))
    for name, value in one.network.state_dict().items():
        torch.testing.assert_close(value, other.network.state_dict()[name], rtol=0, atol=0)


@pytest.mark.slow
def test_an_unsure_answer_is_an_empty_cell(shards, trained):
    films = read_pictures(Shards.open(shards), SIZE_PX, splits=("val",))
    own, strict, lax = (content_table(trained, films, floor) for floor in (None, 1.0, 0.0))
    assert all(row["main_structure"] for row in lax)
    assert sum(bool(row["status"]) for row in strict) <= sum(bool(row["status"]) for row in own)
    for row in own:
        for head in HEADS:
            floor = trained.card.heads[head].min_confidence
            # cells are rounded to four digits
            assert (row[head] == "") == (float(row[f"{head}_confidence"]) < floor) or abs(
                float(row[f"{head}_confidence"]) - floor
            ) < 1e-4
        chances = [float(value) for name, value in row.items() if name.startswith("status_p_")]
        assert sum(chances) == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
def test_thresholds_keep_their_promise_on_val(shards, trained):
    films = read_pictures(Shards.open(shards), SIZE_PX, splits=("val",))
    chances = trained.probabilities(films)
    for head, card in trained.card.heads.items():
        truth = films.targets(head, card.classes).numpy()
        measure = measure_head(chances[head].numpy(), truth, card.min_confidence - 1e-6)
        assert measure.accuracy_kept is None or measure.accuracy_kept >= QUICK.wanted_accuracy
        assert card.num_val == measure.num


@pytest.mark.slow
def test_a_saved_model_answers_as_before_and_says_what_it_learned_from(trained, shards, tmp_path):
    trained.save(tmp_path / "m.safetensors")
    again = ContentModel.load(tmp_path / "m.safetensors")
    films = read_pictures(Shards.open(shards), SIZE_PX, splits=("val",))
    for head, chances in again.probabilities(films).items():
        torch.testing.assert_close(chances, trained.probabilities(films)[head])
    card = json.loads((tmp_path / "m.json").read_text())
    assert card == again.card.model_dump()
    assert card["trained_on"]["data_fingerprints"] == ["fingerprint"] and card["trained_on"]["films"] > 100
    assert 250_000 < sum(value.numel() for value in again.network.parameters()) < 350_000


def test_a_file_that_is_no_model_is_refused(tmp_path):
    from safetensors.torch import save_file

    (tmp_path / "noise.safetensors").write_bytes(b"no model")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    for name in ("noise", "other", "absent"):
        with pytest.raises(ConfigError, match="label_content.py train"):
            ContentModel.load(tmp_path / f"{name}.safetensors")


def test_labels_of_one_class_only_are_refused(tmp_path):
    folder = toy_shards(tmp_path / "toy", [{"status": "PCI", "lvef": 3.0}] * 4, ["train"] * 4)
    films = read_pictures(Shards.open(folder), 32)
    with pytest.raises(ConfigError, match="two classes among the 4 training films"):
        train_content([films], ["f"], Training(size_px=32, epochs=1))


def test_a_patient_in_train_and_val_stops_it(tmp_path):
    labels = [{"contrast_agent": float(n % 2)} for n in range(4)]
    one = toy_shards(tmp_path / "one", labels, ["train"] * 4, patient="same")
    other = toy_shards(tmp_path / "other", labels, ["val"] * 4, patient="same")
    parts = [read_pictures(Shards.open(folder), 32) for folder in (one, other)]
    with pytest.raises(DataError, match="1 patients are in train and in val"):
        train_content(parts, ["a", "b"], Training(size_px=32, epochs=1))


def test_a_damaged_film_is_left_out_and_the_rest_keep_their_names(tmp_path, caplog):
    folder = toy_shards(tmp_path / "toy", [{"status": word} for word in "abcd"], ["train"] * 4)
    opened = Shards.open(folder)
    place = opened._clips.place(1)
    tar = folder / opened.manifest.shards[place.shard].name
    damaged = bytearray(tar.read_bytes())
    damaged[place.offset + 40] ^= 0xFF
    tar.write_bytes(damaged)
    films = read_pictures(Shards.open(folder), 32)
    assert films.words["status"] == ["a", "c", "d"] and films.clips == ["s0-film0", "s2-film0", "s3-film0"]
    assert "1 films cannot be read" in caplog.text


def test_jitter_never_mirrors():
    """A bright left half stays left under any draw."""
    pictures = torch.zeros(64, 3, 32, 32, dtype=torch.uint8)
    pictures[..., :16] = 200
    moved = jittered(pictures, torch.Generator().manual_seed(0)).float()
    assert (moved[..., :10].mean((1, 2, 3)) > 3 * moved[..., 22:].mean((1, 2, 3))).all()
    assert not torch.equal(moved[0], moved[1])


def test_the_network_ignores_brightness_but_not_place():
    network = ContentNetwork({"a": ["0", "1"]}).eval()
    picture = torch.randint(20, 100, (1, 3, 48, 48), dtype=torch.uint8)
    brighter = (picture.int() * 2).to(torch.uint8)
    assert torch.allclose(network(picture)["a"], network(brighter)["a"], atol=0.02)
    assert not torch.allclose(network(picture)["a"], network(picture.flip(-1))["a"], atol=1e-6)


@pytest.mark.slow
def test_the_command_trains_and_writes_a_keyed_table(shards, tmp_path, capsys):
    model, table = tmp_path / "c.safetensors", tmp_path / "content.csv"
    words = ["train", "--shards", str(shards), "--output", str(model), "--size_px", "32", "--epochs", "1"]
    assert label_content.main(words) == 0
    shown = capsys.readouterr().out
    assert "main_structure: accuracy" in shown and "<- said" in shown
    words = ["predict", "--shards", str(shards), "--model", str(model), "--output", str(table), "--check"]
    assert label_content.main([*words, "--min_confidence", "0"]) == 0
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    opened = Shards.open(shards)
    clips = [clip.clip for row in range(len(opened.studies)) for clip in opened.study(row).clips]
    assert [row["clip"] for row in rows] == clips
    assert {row["main_structure"] for row in rows} & set(CORONARY.values())
    assert {row["contrast_agent"] for row in rows} <= {"0", "1"}
    assert label_content.main([*words, "--min_confidence", "7"]) == 2
    assert label_content.main(["train", "--shards", str(shards), "--output", str(tmp_path / "x.pt")]) == 2
    assert (
        label_content.main(
            ["predict", "--shards", str(tmp_path), "--model", str(model), "--output", str(table)]
        )
        == 2
    )
    errors = capsys.readouterr().err
    assert "allowed: 0 to 1" in errors and ".safetensors" in errors and "manifest.json" in errors
