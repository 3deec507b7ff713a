"""What is taken from a batch is what was asked for, and nothing else; gaps and baselines against other ways to compute them."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from deepcoro.config import ConfigError
from deepcoro.data import manifest as schema
from deepcoro.data.collection import Collection
from deepcoro.data.config import Data
from deepcoro.evaluated import Evaluated, Head
from deepcoro.explain.compare import gaps
from deepcoro.explain.metadata import Judged, metadata_baseline
from deepcoro.explain.shortcuts import (
    CHANGES,
    Altered,
    without_clips,
    without_random_clip,
    without_top_clip,
)
from deepcoro.features import VideoFeatures, scatter_clips
from deepcoro.poolers import mean
from deepcoro.report_shortcuts import Shortcuts, shortcut_table
from tests.data.folder import moving_film, study_with, write_folder
from tests.metrics.heads import BINARY, MULTICLASS, REGRESSION, evaluated


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


def heads_of(cto: np.ndarray, lvef: np.ndarray, dominance: np.ndarray) -> Evaluated:
    """What three heads said of the same 80 rows of 40 patients."""
    draw = np.random.default_rng(0)
    labels = {
        "cto": [None, *(draw.random(79) < 0.4).astype(float)],
        "lvef": draw.uniform(20, 70, 80).tolist(),
        "dominance": draw.integers(0, 3, 80).astype(float).tolist(),
    }
    heads = {
        "cto": Head(BINARY, "cto", 2),
        "lvef": Head(REGRESSION, "lvef", 0),
        "dominance": Head(MULTICLASS, "dominance", 3),
    }
    return evaluated(heads, {"cto": cto, "lvef": lvef, "dominance": dominance}, labels)


def test_a_gap_is_how_much_worse_each_head_is_without_the_top_clip_than_without_a_random_one():
    draw = np.random.default_rng(1)
    truth = heads_of(*np.zeros((2, 80)), np.zeros((80, 3))).labels
    cto, lvef = np.array([0.5, *truth["cto"][1:]]), np.array(truth["lvef"])
    random = heads_of(
        cto * 0.5 + draw.random(80) * 0.6, lvef + draw.normal(0, 3, 80), draw.dirichlet(np.ones(3), 80)
    )
    top = heads_of(draw.random(80), lvef + draw.normal(0, 9, 80), draw.dirichlet(np.ones(3), 80))
    found = gaps([], random, top)
    assert {"probe/cto/auroc", "probe/lvef/mae", "probe/dominance/macro_auroc"} <= found.keys()
    known = [row for row in range(80) if truth["cto"][row] is not None]
    aurocs = [
        roc_auc_score(cto[known], each.rows["probe/cto/prediction"][known, 0]) for each in (random, top)
    ]
    gap, low, high = found["probe/cto/auroc"]
    assert gap == pytest.approx(aurocs[0] - aurocs[1]) and 0 < low < gap < high
    errors = [np.abs(each.rows["probe/lvef/prediction"][:, 0] - lvef).mean() for each in (random, top)]
    gap, low, high = found["probe/lvef/mae"]
    assert gap == pytest.approx(errors[1] - errors[0], rel=1e-5) and 0 < low < gap < high
    assert gaps([], random, random)["probe/lvef/mae"] == (0.0, 0.0, 0.0)


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
    told, _ = metadata_baseline(collection, "long", "test", num_samples=50)
    assert told["long/auroc"] == 1.0
    assert told["long/num"] == 60
    luck, _ = metadata_baseline(collection, "luck", "test", num_samples=200)
    assert luck["luck/auroc_ci_low"] < 0.5 < luck["luck/auroc_ci_high"]


def test_an_amount_stands_beside_the_training_median(collection):
    found, _ = metadata_baseline(collection, "amount", "test", num_samples=50)
    assert found["amount/mae"] < 1
    assert found["amount/mae_of_median"] == pytest.approx(20 / 3)


def test_of_three_words_each_is_told_from_the_rest_and_two_named_ones_from_each_other(collection):
    found, _ = metadata_baseline(collection, "size", "test", num_samples=20)
    assert {key for key in found if key.endswith("/auroc")} == {
        f"size={word}/auroc" for word in ("large", "medium", "small")
    }
    assert found["size=large/auroc"] == found["size=small/auroc"] == 1.0
    assert found["size=large/num_positive"] == 20
    named, _ = metadata_baseline(collection, "size", "test", classes=("large", "small"), num_samples=20)
    assert (named["size/auroc"], named["size/num"]) == (1.0, 40)


def test_a_study_is_one_row_with_its_worst_label_or_none_where_films_disagree(collection):
    worst, _ = metadata_baseline(collection, "worse", "test", Judged(True, 2, True), num_samples=20)
    assert (worst["worse/num"], worst["worse/num_positive"], worst["worse/auroc"]) == (30, 10, 1.0)
    dropped, notes = metadata_baseline(collection, "worse", "test", Judged(True, 2), num_samples=20)
    assert dropped == {} and "one class only" in notes[0]


def test_a_label_of_one_word_is_refused(collection):
    with pytest.raises(ConfigError, match="two words"):
        metadata_baseline(collection, "tree", "test")


def test_the_table_holds_headlines_beside_what_is_left_of_them():
    whole = {
        "zero_shot/cto/auroc": 0.9,
        "zero_shot/cto/auroc_ci_low": 0.8,
        "zero_shot/cto/auroc_ci_high": 0.95,
    }
    found = Shortcuts(
        split="test",
        numbers={
            "whole": whole | {"zero_shot/cto/num": 9.0, "by/side=left/zero_shot/cto/auroc": 0.5},
            "first_frame": {"zero_shot/cto/auroc": 0.6},
            "metadata": {"cto/auroc": 0.55},
        },
        metadata_of={"zero_shot/cto/auroc": "cto/auroc"},
        gaps={"zero_shot/cto/auroc": (0.1, 0.02, 0.2), "probe/lvef/mae": (-0.2, -0.4, -0.1)},
    )
    table = shortcut_table(found)
    assert table.columns == ["as it is", "first frame only", "no film: metadata"]
    assert table.rows == [["zero_shot/cto/auroc", "0.900 (0.800 – 0.950)", "0.600", "0.550"]]
    assert "hurts more than" in table.gaps[0] and "hurts less than" in table.gaps[1]
    assert shortcut_table(None) is None
