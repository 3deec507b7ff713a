"""A frozen video tower speaks once of each film; training with what it said is training with the tower."""

from pathlib import Path
from unittest import mock

import numpy as np
import pydantic
import pytest
import torch

from deepcoro.config import DataError
from deepcoro.run_config import RunConfig
from deepcoro.stored_features import StoredFeatures, write_part
from deepcoro.towers.video_mvit import Config, VideoMViT
from tests.launch import METRICS, losses, main_on_rank, main_on_this_rank, metrics
from tests.ranks import Ranks

RETRIEVAL = f"evaluate.metrics={{{', '.join(f'{name}: false' for name in METRICS if name != 'retrieval')}, retrieval: {{bootstrap_samples: 5}}}}"  # fmt: skip


def words(shards: Path, run_dir: Path, is_cached: bool, *more: str) -> list[str]:
    return [
        *("demo/tiny", f"data.shards={shards}", f"run_dir={run_dir}", RETRIEVAL, "max_steps=5"),
        *("towers.text.from_scratch.dropout=0.0", "towers.video.video_freeze_ratio=1"),
        *("data.fields.video.jitter=false", f"towers.video.cache_features={is_cached}", *more),
    ]


def clips_encoded(*given: str) -> int:
    """Clips that go through the tower while train.py runs."""
    encode = VideoMViT.encode
    with mock.patch.object(VideoMViT, "encode", autospec=True, side_effect=encode) as counted:
        assert main_on_this_rank("ddp", *given) == 0
    return sum(len(call.args[1]) for call in counted.call_args_list)


def measured(run_dir: Path) -> dict[str, float]:
    """Of the evaluation at the end."""
    last = next(line for line in reversed(metrics(run_dir)) if any(key.startswith("val/") for key in line))
    return {key: value for key, value in last.items() if key.startswith("val/")}


def test_training_and_its_evaluations_read_what_the_tower_said_once_and_get_the_same_numbers(
    other_shards: Path, two_ranks: Ranks, tmp_path: Path
) -> None:
    plain, cached, other, divided = (tmp_path / name for name in ("plain", "cached", "other", "divided"))
    batch, shared = "batch_size=4", f"towers.video.features_folder={tmp_path / 'shared'}"
    assert clips_encoded(*words(other_shards, plain, False, batch)) == 5 * 4 + 6
    # two films of each of the six studies of train and the three of val
    assert clips_encoded(*words(other_shards, cached, True, batch, shared)) == 18
    assert losses(cached) == pytest.approx(losses(plain), rel=1e-6)
    assert measured(cached) == pytest.approx(measured(plain), rel=1e-6)
    assert clips_encoded(*words(other_shards, cached, True, batch, shared, "max_steps=6")) == 0, "found again"
    assert clips_encoded(*words(other_shards, other, True, batch, shared)) == 0, "by another run too"
    assert losses(other).items() <= losses(cached).items()
    given = words(other_shards, divided, True, "batch_size=2")
    assert two_ranks.run(main_on_rank, "zero3_whole", *given) == [0, 0]
    assert losses(divided) == pytest.approx(losses(plain), rel=1e-5)


def test_a_decoder_that_reads_all_tokens_of_a_study_gets_them_all(other_shards: Path, tmp_path: Path) -> None:
    more = (
        *("batch_size=2", "data.multi_video=true", "data.num_videos=2"),
        "objectives.captioning={decoder_layers: 1, decoder_heads: 2}",
    )
    plain, cached = tmp_path / "plain", tmp_path / "cached"
    for folder, is_cached in ((plain, False), (cached, True)):
        assert main_on_this_rank("ddp", *words(other_shards, folder, is_cached, *more)) == 0
    assert losses(cached) == pytest.approx(losses(plain), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stored_rows_come_back_to_the_bit_from_whichever_part_they_are_in(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    rows = torch.randn(6, 2, 3).to(dtype)
    write_part(tmp_path, ["b", "a"], [1, 3], rows[:4])
    write_part(tmp_path, ["c"], [2], rows[4:])
    stored = StoredFeatures(tmp_path)
    assert stored.has(["a", "x", "c"]).tolist() == [True, False, True]
    for name, expected in (("b", rows[:1]), ("a", rows[1:4]), ("c", rows[4:])):
        assert torch.equal(stored.of(name), expected)
    assert stored.no_clip().shape == (1, 2, 3)
    with pytest.raises(DataError, match="film x has no stored features"):
        stored.of("x")


def test_an_empty_folder_has_nothing_and_a_cut_part_is_an_error(tmp_path: Path) -> None:
    assert not StoredFeatures(tmp_path / "nowhere").has(["a"]).any()
    write_part(tmp_path, ["a"], [1], torch.zeros(1, 1, 4))
    part = next(tmp_path.glob("*.features"))
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(DataError, match="holds 15 bytes of stored features, not 16"):
        StoredFeatures(tmp_path).of("a")


def test_two_runs_that_store_the_same_films_give_them_once(tmp_path: Path) -> None:
    write_part(tmp_path, ["a", "b"], [1, 1], torch.tensor([[[1.0]], [[2.0]]]))
    write_part(tmp_path, ["b"], [1], torch.tensor([[[2.0]]]))
    stored = StoredFeatures(tmp_path)
    assert np.ravel([stored.of(name) for name in ("a", "b")]).tolist() == [1.0, 2.0]


FROZEN = {"type": "video_mvit", "video_freeze_ratio": 1, "cache_features": True}
STILL = {"fields": {"video": {"jitter": False}}}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data": {}}, "jitter is true"),
        ({"augment": {"rotation_deg": 5}}, "augment changes films"),
        ({"freeze": [{"until_fraction": 0.5, "video": 0.5}]}, "another video than 1"),
        (
            {"objectives": {"masked_modeling": {}}},
            r"objectives \['masked_modeling'\] read the films themselves",
        ),
    ],
)
def test_only_films_that_never_change_can_be_remembered(changed: dict, message: str) -> None:
    whole = {"towers": {"video": FROZEN}, "data": STILL}
    assert RunConfig(**whole).caches_films
    with pytest.raises(pydantic.ValidationError, match=message):
        RunConfig(**whole | changed)


def test_only_a_tower_that_is_frozen_altogether_can_be_remembered() -> None:
    for wrong in ({"video_freeze_ratio": 0.9}, {"patch_dropout": 0.5}):
        with pytest.raises(pydantic.ValidationError, match="needs video_freeze_ratio 1 and patch_dropout 0"):
            Config(**{"cache_features": True, "video_freeze_ratio": 1.0} | wrong)
    with pytest.raises(pydantic.ValidationError, match="features_folder is for cache_features"):
        Config(features_folder="somewhere")
