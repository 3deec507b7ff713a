from pathlib import Path

import numpy as np
import pytest
import torch

from deepcoro.build import Parts, build_model, build_parts
from deepcoro.config import find_config
from deepcoro.embed import embed_split, merged_labels
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
    split = embed_split(model, config, parts, "test", ["a prompt", "another one", "a third"])
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
    split = embed_split(model, config, parts, "test", ["a prompt"])
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
