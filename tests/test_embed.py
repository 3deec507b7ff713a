from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from deepcoro.build import Parts, build_metrics, build_model, build_parts
from deepcoro.config import find_config
from deepcoro.embed import Wanted, embed_split
from deepcoro.evaluate import retrieval_examples, write_split_predictions
from deepcoro.facts import merged_labels
from deepcoro.model import VideoTextModel
from deepcoro.run_config import RunConfig, load_run_config
from deepcoro.sample import ClipRecord
from tests.launch import tiny
from tests.ranks import Ranks


def built(shards: Path, run_dir: Path, *words: str) -> tuple[RunConfig, Parts, VideoTextModel]:
    name, *overrides = tiny(shards, run_dir, *words)
    config = load_run_config(find_config(name), overrides)
    parts = build_parts(config, make_tokenizer=True)
    return config, parts, build_model(config, parts)


def embedded_on_rank(rank: int, shards: Path, run_dir: Path) -> dict[str, np.ndarray]:
    config, parts, model = built(shards, run_dir, "evaluate.batch_size=4")
    split = embed_split(model, config, parts, "test", Wanted(["a prompt", "another one", "a third"]))
    return {"films": split.films, "texts": split.text_embeddings, "prompt": split.prompts["another one"]}


def test_two_ranks_embed_what_one_does(tiny_shards: Path, two_ranks: Ranks, tmp_path: Path) -> None:
    alone = embedded_on_rank(0, tiny_shards, tmp_path / "alone")
    for rank in two_ranks.run(embedded_on_rank, tiny_shards, tmp_path / "two"):
        for name, rows in alone.items():
            np.testing.assert_allclose(rank[name], rows, atol=1e-6)


@pytest.mark.parametrize("multi_video", [False, True])
def test_an_embedding_does_not_depend_on_its_batch(
    tiny_shards: Path, tmp_path: Path, multi_video: bool
) -> None:
    words = [f"data.multi_video={multi_video}", "data.num_videos=3"]
    config, parts, model = built(tiny_shards, tmp_path, *words, "evaluate.batch_size=1")
    one = embed_split(model, config, parts, "test")
    config, parts, _ = built(tiny_shards, tmp_path, *words, "evaluate.batch_size=7")
    seven = embed_split(model, config, parts, "test")
    np.testing.assert_allclose(one.films, seven.films, atol=1e-6)
    assert one.clips == seven.clips and len(one.films) == (5 if multi_video else 18)
    np.testing.assert_allclose(np.linalg.norm(one.films, axis=1), 1, atol=1e-5)


def test_every_film_is_paired_with_its_own_text(tiny_shards: Path, tmp_path: Path) -> None:
    config, parts, model = built(tiny_shards, tmp_path)
    split = embed_split(model, config, parts, "test", Wanted(["a prompt"]))
    units = parts.shards.units("test", False, 1)
    assert len(set(split.texts)) == len(split.texts)
    for film, unit in enumerate(split.units):
        study = parts.shards.study(int(units.study_row[unit]))
        assert split.texts[split.text_of_film[film]] == study.report_of((int(units.clip[unit]),))
        assert split.labels["side"][film] == study.clips[units.clip[unit]].side
    tokens = parts.tokenizer(["a prompt"], return_tensors="pt")
    report = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        by_hand = model({"report": report}, task="features")["text"][0]
    np.testing.assert_allclose(split.prompts["a prompt"], by_hand, atol=1e-6)
    assert not model.training


class SaysItsUnit(nn.Module):
    """Writes the number of each row's unit and ends."""

    reads: frozenset[str] = frozenset()

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def evaluate(self, features: Any, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        rows = [self.tokenizer(f"unit {unit}")["input_ids"] for unit in batch["unit"].tolist()]
        fill = self.tokenizer.pad_token_id
        return {"tokens": torch.tensor([(row + [fill] * 12)[:12] for row in rows])}


def captioned_on_rank(rank: int, shards: Path, run_dir: Path) -> dict[str, Any]:
    config, parts, model = built(shards, run_dir, "evaluate.batch_size=4", "evaluate.training_reports=30")
    model.objectives["captioning"] = SaysItsUnit(parts.tokenizer)
    split = embed_split(model, config, parts, "test", Wanted(["a prompt"], "beside_captions"))
    return vars(split) | vars(split.training)


def test_captions_and_training_reports_come_with_the_split(
    tiny_shards: Path, two_ranks: Ranks, tmp_path: Path
) -> None:
    alone = captioned_on_rank(0, tiny_shards, tmp_path / "alone")
    assert alone["captions"] == [f"unit {unit}" for unit in alone["units"]]
    config, parts, model = built(tiny_shards, tmp_path / "again")
    units = parts.shards.units("train", False, 1)
    known = {
        parts.shards.study(int(units.study_row[unit])).report_of((int(units.clip[unit]),))
        for unit in range(len(units))
    }
    assert set(alone["texts"]) <= known and 1 < len(alone["texts"]) <= 30
    assert set(alone["modal"]) == {None, "left", "right"} and set(alone["modal"].values()) <= set(
        alone["texts"]
    )
    assert alone["modal"]["left"].startswith("Left") and alone["modal"]["right"].startswith("Right")
    of_texts = embed_split(model, config, parts, "test", Wanted(alone["texts"]))
    assert of_texts.captions == [] and of_texts.training is None
    np.testing.assert_allclose(alone["embeddings"], np.stack(list(of_texts.prompts.values())), atol=1e-6)
    for rank in two_ranks.run(captioned_on_rank, tiny_shards, tmp_path / "two"):
        assert (rank["captions"], rank["texts"], rank["modal"]) == (
            alone["captions"],
            alone["texts"],
            alone["modal"],
        )


def test_an_objective_that_takes_no_part_says_nothing(tiny_shards: Path, tmp_path: Path) -> None:
    config, parts, model = built(tiny_shards, tmp_path)
    model.objectives["captioning"] = SaysItsUnit(parts.tokenizer)
    found = [
        embed_split(model, config, parts, "test", Wanted(active=active))
        for active in (None, ("contrastive",))
    ]
    assert len(found[0].captions) == 18 and found[1].captions == []
    assert "captioning/tokens" in found[0].rows and "captioning/tokens" not in found[1].rows
    np.testing.assert_array_equal(found[0].films, found[1].films)


def test_a_model_without_a_contrastive_objective_has_no_space_for_texts(
    tiny_shards: Path, tmp_path: Path
) -> None:
    config, parts, model = built(tiny_shards, tmp_path)
    model.objectives = nn.ModuleDict({"captioning": SaysItsUnit(parts.tokenizer)})
    split = embed_split(model, config, parts, "test", Wanted(["a prompt"], "beside_captions"))
    assert not split.shares_space and len(split.texts) == len(split.text_embeddings)
    assert split.training.embeddings.shape[1] == 0
    assert split.only(np.arange(18) < 5).captions == split.captions[:5]
    for metric in config.evaluate.metrics.values():
        numbers, notes = metric.build().measure(split)
        assert not any("_nearest" in key for key in numbers)
        assert bool(numbers) == (metric.type in ("captioning", "clinical_findings")) or notes
    assert retrieval_examples(config, parts, split) == []
    write_split_predictions(config, parts, "tiny_test", split, build_metrics(config))
    header = (tmp_path / "predictions" / "tiny_test.csv").read_text().splitlines()[0].split(",")
    assert "caption" in header and "predicted_text_1" in header and "zero_shot_side_score" not in header
    assert "video_name" not in header, "a row is a film"
    of_studies = config.model_copy(update={"data": config.data.model_copy(update={"multi_video": True})})
    write_split_predictions(
        of_studies, parts, "studies", split.only(np.arange(18) < 3), build_metrics(config)
    )
    assert "video_name" in (tmp_path / "predictions" / "studies.csv").read_text().splitlines()[0]


def clip(side: str | None, **labels: float | str | None) -> ClipRecord:
    known = {name: value for name, value in ClipRecord.model_fields.items() if value.is_required()}
    given = dict.fromkeys(known, 1) | {"side": side, "labels": labels}
    return ClipRecord.model_construct(**given, view=None)


def test_labels_of_a_study_are_those_its_films_agree_on() -> None:
    films = [
        clip("left", cto=1.0, lvef=55.0),
        clip("left", cto=0.0, lvef=None),
        clip("left", dominance="right"),
    ]
    expected = {"side": "left", "view": None, "cto": None, "lvef": 55.0, "dominance": "right"}
    assert merged_labels(films) == expected
