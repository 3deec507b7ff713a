"""What is taken from a batch is what was asked for, and nothing else; baselines against other ways to compute them."""

import numpy as np
import pytest
import torch

from deepcoro.config import SHIPPED, ConfigError
from deepcoro.data import manifest as schema
from deepcoro.data.collection import Collection
from deepcoro.data.config import Data
from deepcoro.explain.metadata import Judged, metadata_baseline
from deepcoro.explain.shortcuts import (
    CHANGES,
    Altered,
    compared_objectives,
    without_clips,
    without_random_clip,
    without_top_clip,
)
from deepcoro.features import VideoFeatures, scatter_clips
from deepcoro.poolers import mean
from deepcoro.run_config import load_run_config
from tests.data.folder import moving_film, study_with, write_folder


def batch_of_studies() -> dict[str, torch.Tensor]:
    """Three studies of three, one and two clips; clip n is of grey n."""
    grey = torch.arange(6, dtype=torch.uint8).reshape(6, 1, 1, 1, 1)
    film = grey.expand(6, 1, 4, 2, 2) + torch.arange(4, dtype=torch.uint8).reshape(1, 1, 4, 1, 1) * 10
    mask = torch.tensor([[True, True, True], [True, False, False], [True, True, False]])
    return {"video": film.contiguous(), "clip_mask": mask, "position": torch.arange(3)}


NOBODY = torch.nn.Identity()
"""A model that is not asked."""


class Looking(torch.nn.Module):
    """A model whose pooler looks at the brightest clip."""

    def __init__(self, pooler: torch.nn.Module) -> None:
        super().__init__()
        self.pooler = pooler
        self.objectives = torch.nn.ModuleDict()

    def clip_features(self, batch):
        grey = batch["video"].float().mean(dim=(1, 2, 3, 4))
        tokens = grey[:, None, None].expand(-1, 1, 2)
        return VideoFeatures(scatter_clips(tokens, batch["clip_mask"]), batch["clip_mask"], True)

    def forward(self, batch, **more):
        return batch


class Brightest(torch.nn.Module):
    """A pooler that weighs the brightest clip most."""

    weighs_clips = True

    def clip_weights(self, features, views=None):
        grey = features.per_video().mean(dim=-1).masked_fill(~features.clip_mask, -1e9)
        return grey.softmax(dim=1) * features.clip_mask


def test_a_still_film_has_one_frame_and_the_shape_of_the_film():
    batch = batch_of_studies()
    for name, frame in (("first_frame", 0), ("middle_frame", 2)):
        changed = CHANGES[name](NOBODY, batch)["video"]
        assert changed.shape == batch["video"].shape
        assert (changed == batch["video"][:, :, frame : frame + 1]).all()


def test_shuffled_frames_are_the_same_frames_in_another_order():
    batch = batch_of_studies()
    changed = CHANGES["shuffled_frames"](NOBODY, batch)["video"]
    assert not torch.equal(changed, batch["video"])
    assert torch.equal(changed.sort(dim=2).values, batch["video"].sort(dim=2).values)


@pytest.mark.parametrize("frames", [2, 3, 4, 8, 16])
def test_no_shuffled_frame_stays_in_its_place_however_few_there_are(frames):
    video = torch.arange(float(frames)).expand(2, 3, frames).clone()
    changed = CHANGES["shuffled_frames"](NOBODY, {"video": video})["video"]
    assert (changed != video).all() and torch.equal(changed.sort(dim=2).values, video)


def test_a_film_of_one_frame_cannot_be_shuffled():
    video = torch.ones(2, 3, 1)
    assert torch.equal(CHANGES["shuffled_frames"](NOBODY, {"video": video})["video"], video)


def test_the_clip_that_weighs_most_is_taken_and_the_last_one_of_a_study_stays():
    changed = without_top_clip(Looking(Brightest()), batch_of_studies())
    assert changed["clip_mask"].tolist() == [[True, True, False], [True, False, False], [True, False, False]]
    assert changed["video"][:, 0, 0, 0, 0].tolist() == [0, 1, 3, 4]


def test_a_random_clip_is_the_same_one_each_time_and_all_clips_have_a_chance():
    one, two = (without_random_clip(NOBODY, batch_of_studies()) for _ in range(2))
    assert torch.equal(one["clip_mask"], two["clip_mask"])
    assert one["clip_mask"].sum(dim=1).tolist() == [2, 1, 1]
    taken = set()
    for position in range(30):
        batch = batch_of_studies() | {"position": torch.full((3,), position)}
        taken.add(int(without_random_clip(NOBODY, batch)["clip_mask"][0].int().argmin()))
    assert taken == {0, 1, 2}


def test_films_stay_with_their_places_when_a_middle_clip_goes():
    changed = without_clips(batch_of_studies(), torch.tensor([1, 0, 1]))
    assert changed["clip_mask"].tolist() == [[True, False, True], [True, False, False], [True, False, False]]
    assert changed["video"][:, 0, 0, 0, 0].tolist() == [0, 2, 3, 4]


def test_a_pooler_that_weighs_nothing_is_told():
    with pytest.raises(ConfigError, match="does not weigh clips"):
        without_top_clip(Looking(mean.Config().build(2)), batch_of_studies())


def test_texts_pass_an_altered_model_unchanged():
    altered = Altered(Looking(Brightest()), CHANGES["first_frame"])
    assert altered({"report": 1}) == {"report": 1}
    assert torch.equal(
        altered(batch_of_studies())["video"], CHANGES["first_frame"](NOBODY, batch_of_studies())["video"]
    )


@pytest.fixture(scope="module")
def collection(tmp_path_factory) -> Collection:
    """60 studies of two films. The number of frames tells `long` and `size`; nothing tells `luck`. The second film of every third
    study shows more than the first."""
    draw, studies = np.random.default_rng(1), []
    for number in range(60):
        frames = 4 + number % 3
        record, payloads = study_with(
            f"s{number:02d}",
            [moving_film(number + film, frames) for film in range(2)],
            schema.Encoding(),
            f"p{number:02d}",
        )
        labels = {
            "long": float(number % 3 > 0),
            "luck": float(draw.random() < 0.5),
            "amount": 10.0 * frames,
            "size": ("large", "medium", "small")[number % 3],
            "tree": "a",
        }
        clips = [
            clip.model_copy(update={"labels": labels | {"worse": float(film and number % 3 == 0)}})
            for film, clip in enumerate(record.clips)
        ]
        studies.append((record.model_copy(update={"clips": clips}), payloads))
    splits = {f"s{number:02d}": "test" for number in range(30, 60)}
    folder = write_folder(tmp_path_factory.mktemp("metadata"), studies, studies_per_shard=30, splits=splits)
    return Collection.open(Data(shards=folder))


def test_metadata_find_what_they_tell_and_nothing_else(collection):
    told = metadata_baseline(collection, "long", "test", num_samples=50).numbers
    assert told["long/auroc"] == 1.0
    assert told["long/num"] == 60
    luck = metadata_baseline(collection, "luck", "test", num_samples=200).numbers
    assert luck["luck/auroc_ci_low"] < 0.5 < luck["luck/auroc_ci_high"]


def test_an_amount_stands_beside_the_training_median(collection):
    found = metadata_baseline(collection, "amount", "test", num_samples=50).numbers
    assert found["amount/mae"] < 1
    assert found["amount/mae_of_median"] == pytest.approx(20 / 3)


def test_metadata_have_every_measure_that_scores_alone_give(collection):
    numbers = metadata_baseline(collection, "amount", "test", num_samples=20).numbers
    assert {"amount/rmse", "amount/pearson_r", "amount/icc", "amount/bias"} <= set(numbers)
    assert numbers["amount/pearson_r"] > 0.9 and numbers["amount/rmse_ci_low"] <= numbers["amount/rmse"]
    judged = Judged(specificities=(0.9,))
    numbers = metadata_baseline(collection, "long", "test", judged, num_samples=20).numbers
    assert numbers["long/brier"] < numbers["long/brier_of_prevalence"]
    assert numbers["long/sensitivity_at_specificity_0.90"] == 1.0
    assert "long/ece" in numbers and "long/ece_ci_low" not in numbers
    assert "long/sensitivity" not in numbers  # without val nothing chooses a threshold
    numbers = metadata_baseline(collection, "size", "test", num_samples=20).numbers
    assert {"size/macro_auprc", "size/accuracy", "size/macro_f1"} <= set(numbers)
    assert "size/weighted_kappa" not in numbers


def test_metadata_decide_at_the_threshold_that_they_choose_on_val(tmp_path):
    studies, splits = [], {}
    for number in range(40):
        record, payloads = study_with(
            f"s{number}", [moving_film(number, 4 + number % 2)], schema.Encoding(), f"p{number}"
        )
        (clip,) = record.clips
        clips = [clip.model_copy(update={"labels": {"long": float(number % 2)}})]
        studies.append((record.model_copy(update={"clips": clips}), payloads))
        splits[f"s{number}"] = ("train", "val", "test")[number % 3]
    shards = Collection.open(Data(shards=write_folder(tmp_path, studies, splits=splits)))
    numbers = metadata_baseline(shards, "long", "test", num_samples=20).numbers
    assert numbers["long/sensitivity"] == numbers["long/ppv"] == numbers["long/specificity"] == 1.0


def test_captions_are_compared_where_they_are_asked_for_and_hidden_cells_never():
    config = load_run_config(SHIPPED / "demo" / "tiny_multitask.yaml", [])
    names = {each.type: name for name, each in config.objectives.items()}
    assert names.keys() == {"contrastive", "captioning", "masked_modeling"}
    assert compared_objectives(config, captions=False) == [names["contrastive"]]
    assert set(compared_objectives(config, captions=True)) == {names["contrastive"], names["captioning"]}


def test_of_three_words_each_is_told_from_the_rest_and_two_named_ones_from_each_other(collection):
    found = metadata_baseline(collection, "size", "test", num_samples=20).numbers
    assert {key for key in found if key.endswith("/auroc")} == {
        f"size={word}/auroc" for word in ("large", "medium", "small")
    }
    aurocs = [found[f"size={word}/auroc"] for word in ("large", "medium", "small")]
    assert found["size/macro_auroc"] == pytest.approx(np.mean(aurocs))
    assert found["size=large/auroc"] == found["size=small/auroc"] == 1.0
    assert found["size=large/num_positive"] == 20
    named = metadata_baseline(collection, "size", "test", classes=("large", "small"), num_samples=20).numbers
    assert (named["size/auroc"], named["size/num"]) == (1.0, 40)


@pytest.mark.parametrize("num_videos", [1, 2])
def test_a_study_is_one_row_with_its_worst_label_or_none_where_films_disagree(collection, num_videos):
    """Also those that a row does not show."""
    judged = Judged(True, num_videos, True)
    worst = metadata_baseline(collection, "worse", "test", judged, num_samples=20).numbers
    assert (worst["worse/num"], worst["worse/num_positive"], worst["worse/auroc"]) == (30, 10, 1.0)
    dropped = metadata_baseline(collection, "worse", "test", Judged(True, num_videos), num_samples=20)
    assert dropped.numbers == {} and dropped.foretold is None and "one class only" in dropped.notes[0]


def test_a_label_of_one_word_or_none_has_no_baseline(collection):
    for classes, words in (((), "['a']"), (("b",), "[]")):
        found = metadata_baseline(collection, "tree", "test", classes=classes)
        assert found.numbers == {} and found.foretold is None
        assert found.notes == [f"metadata/tree: it takes two words or more, or numbers; there are {words}"]
