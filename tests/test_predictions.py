"""The table of predictions, read back as a spreadsheet would."""

import ast
import csv
from dataclasses import replace

import numpy as np

from deepcoro.predictions import Predictions, predictions_rows, write_predictions
from deepcoro.sample import text_id

TEXTS = ['Normal, "smooth".', "Severe\nLAD stenosis", "CTO of the RCA"]


def three_films() -> Predictions:
    embeddings = np.eye(3, dtype=np.float32)
    return Predictions(
        clips=["c0", "c1", "c2"],
        studies=["s0", "s0", "s1"],
        split="val",
        films=embeddings[[1, 0, 2]],
        texts=TEXTS,
        text_embeddings=embeddings,
        text_of_film=np.array([1, 2, -1]),
        scores={"zero_shot_cto_score": np.array([0.5, -0.25, np.nan])},
        labels={"cto": [1, None, float("nan")], "side": ["left", "right", None]},
    )


def read(path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_names_the_film_its_text_and_what_came_nearest():
    first, second, _ = predictions_rows(three_films())
    assert (first["clip"], first["study"], first["split"]) == ("c0", "s0", "val")
    assert (first["ground_truth_idx"], first["ground_truth_text"]) == (1, TEXTS[1])
    assert (first["ground_truth_indices"], first["ground_truth_texts"]) == (1, TEXTS[1])
    assert first["text_id"] == text_id(TEXTS[1])
    assert (first["predicted_idx_1"], first["sim_1"], first["predicted_text_1"]) == (1, "1.000000", TEXTS[1])
    assert second["predicted_idx_1"] == 0
    assert first["zero_shot_cto_score"] == "0.500000" and not {"video_name", "epoch"} & set(first)


def test_columns_of_heads_come_with_the_films_that_a_row_shows():
    heads = {"lvef_pred": ["40", "50", "60"], "lvef_true": ["41", None, "61"]}
    names = [["s0.000", "s0.001"], ["s0.000"], ["s1.002"]]
    rows = predictions_rows(replace(three_films(), heads=heads, video_names=names, epoch=4))
    assert [row["epoch"] for row in rows] == [4, 4, 4]
    assert [row["lvef_true"] for row in rows] == ["41", None, "61"]
    assert ast.literal_eval(rows[0]["video_name"]) == [
        "s0.000",
        "s0.001",
    ], "a list, as earlier tools wrote it"


def test_what_does_not_exist_is_an_empty_cell_never_a_zero(tmp_path):
    path = write_predictions(tmp_path / "predictions", "demo_val", three_films())
    rows = read(path)
    assert [row["label_cto"] for row in rows] == ["1", "", ""]
    assert rows[2]["ground_truth_idx"] == rows[2]["text_id"] == rows[2]["ground_truth_text"] == ""
    assert [row["zero_shot_cto_score"] for row in rows] == ["0.500000", "-0.250000", ""]
    assert rows[0]["predicted_idx_4"] == rows[0]["sim_5"] == ""


def test_texts_with_commas_quotes_and_line_breaks_read_back_the_same(tmp_path):
    path = write_predictions(tmp_path, "demo_val", three_films())
    texts = read(tmp_path / "demo_val_unique_texts.csv")
    assert [(row["Index"], row["Text"]) for row in texts] == [
        (str(row), text) for row, text in enumerate(TEXTS)
    ]
    assert read(path)[0]["predicted_text_1"] == TEXTS[1]
    assert not list(tmp_path.glob("*.tmp"))
