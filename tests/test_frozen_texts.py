"""A frozen text tower speaks once of each text; training with what it said is training with the tower."""

from pathlib import Path
from unittest import mock

import numpy as np
import pydantic
import pytest

from deepcoro.build import Parts
from deepcoro.config import ConfigError, DataError
from deepcoro.data.collection import Collection
from deepcoro.data.manifest import Encoding
from deepcoro.data.shards import Shards
from deepcoro.fields.report import Config as ReportConfig
from deepcoro.frozen_texts import training_texts
from deepcoro.run_config import RunConfig
from deepcoro.sample import Report
from deepcoro.tokens import TextFeatures
from deepcoro.towers.text_hf import Config, FromScratch, TextTower, train_tokenizer
from tests.data.folder import moving_film, study_with, write_folder
from tests.launch import SILENT, losses, main_on_rank, main_on_this_rank
from tests.ranks import Ranks


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the hub would hold it."""
    folder = tmp_path_factory.mktemp("bert")
    small = FromScratch(hidden_size=16, layers=2, heads=2, max_tokens=64)
    tokenizer = train_tokenizer(["Report of other0. Report of other 1 2 3 4 5 6 7 8 9."], 4096, 64)
    small.build(len(tokenizer), "sdpa").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def words(shards: Path, run_dir: Path, bert: Path, is_cached: bool, *more: str) -> list[str]:
    return [
        *("demo/tiny", f"data.shards={shards}", f"run_dir={run_dir}", *SILENT, "max_steps=3"),
        *("towers.text.from_scratch=null", f"towers.text.model={bert}", "towers.text.text_freeze_ratio=1"),
        *(f"towers.text.cache_features={is_cached}", "data.fields.report.length_buckets=2", *more),
    ]


def calls_of(*given: str) -> int:
    """Runs of the tower while train.py runs."""
    forward = TextTower.forward
    with mock.patch.object(TextTower, "forward", autospec=True, side_effect=forward) as counted:
        assert main_on_this_rank("ddp", *given) == 0
    return counted.call_count


def test_training_reads_what_the_tower_said_once_and_gets_the_same_losses(
    other_shards: Path, bert: Path, two_ranks: Ranks, tmp_path: Path
):
    plain, cached, divided = (tmp_path / name for name in ("plain", "cached", "divided"))
    batch = "batch_size=4"
    assert calls_of(*words(other_shards, plain, bert, False, batch)) == 3 * 2
    assert calls_of(*words(other_shards, cached, bert, True, batch)) == 1
    assert losses(cached) == pytest.approx(losses(plain), rel=1e-6)
    assert calls_of(*words(other_shards, cached, bert, True, batch, "max_steps=4")) == 0, "found again"
    given = words(other_shards, divided, bert, True, "batch_size=2")
    assert two_ranks.run(main_on_rank, "zero3_whole", *given) == [0, 0]
    assert losses(divided) == pytest.approx(losses(plain), rel=1e-5)


@pytest.fixture
def studies(tmp_path: Path) -> Shards:
    """Six films of both trees, a report a tree; and one study with a report a film."""
    films = [moving_film(number) for number in range(6)]
    sides = [Report(scope="side", side=side, text=f"the {side} tree") for side in ("left", "right")]
    record, payloads = study_with("two", films, Encoding(), "p", reports=sides)
    clips = [
        clip.model_copy(update={"side": ("left", "right")[n % 2]}) for n, clip in enumerate(record.clips)
    ]
    record = record.model_copy(update={"clips": clips})
    return write_folder(tmp_path / "shards", [(record, payloads)])


@pytest.mark.parametrize("num_videos", [1, 2, 4, 6])
def test_every_text_that_drawn_films_may_have_is_among_the_training_texts(studies: Path, num_videos: int):
    config = RunConfig(data={"shards": studies, "multi_video": True, "num_videos": num_videos})
    parts = mock.Mock(spec=Parts, shards=Collection.open(config.data))
    field = ReportConfig().build(mock.Mock())
    texts = set(training_texts(field, parts, config))
    units, study = parts.shards.units("train", True, num_videos), parts.shards.study(0)
    for seed in range(40):
        assert study.report_of(units.shown_clips(0, np.random.default_rng(seed))) in texts
    assert len(texts) == (1 if num_videos == 6 else 3)


def test_texts_that_may_be_any_of_too_many_are_refused(tmp_path: Path):
    reports = [Report(scope="clip", clip=number, text=f"film {number}") for number in range(9)]
    films = [moving_film(number, 2) for number in range(9)]
    shards = write_folder(tmp_path / "s", [study_with("many", films, Encoding(), "p", reports=reports)])
    config = RunConfig(data={"shards": shards, "multi_video": True, "num_videos": 4})
    parts = mock.Mock(spec=Parts, shards=Collection.open(config.data))
    with pytest.raises(ConfigError, match="study many has 9 reports of 9 films.*raise num_videos"):
        list(training_texts(ReportConfig().build(mock.Mock()), parts, config))


def test_a_text_without_a_feature_is_an_error(tmp_path: Path):
    np.save(tmp_path / TextFeatures.IDS, np.array([5]))
    np.save(tmp_path / TextFeatures.VALUES, np.zeros((1, 3), np.float32))
    with pytest.raises(DataError, match="1 of 1 texts have no feature"):
        TextFeatures(tmp_path).of(["text"])


def test_only_a_tower_that_stays_frozen_can_be_remembered():
    with pytest.raises(pydantic.ValidationError, match="needs text_freeze_ratio 1"):
        Config(cache_features=True, text_freeze_ratio=0.9)
    text = {"type": "text_hf", "cache_features": True, "text_freeze_ratio": 1}
    thawing = [{"until_fraction": 0.5}, {"until_fraction": 1, "text": 0.5}]
    with pytest.raises(pydantic.ValidationError, match="cache_features"):
        RunConfig(towers={"text": text}, freeze=thawing)
    assert RunConfig(towers={"text": text}, freeze=[{"until_fraction": 1, "text": 1}])
