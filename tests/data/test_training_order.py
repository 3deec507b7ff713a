"""What the keys of the config make of the order, over real folders."""

from collections import Counter

import numpy as np
import pytest

from deepcoro.config import ConfigError
from deepcoro.data.collection import Collection
from deepcoro.data.config import Data
from deepcoro.data.order import Mixture, Shuffled
from deepcoro.data.training_order import classes_of_units, training_order
from tests.data.test_collection import make_site

ROWS_PER_STEP = 2


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("orders")
    # Film n of a study has cto = n; its first film is not assessed. Studies have 1 to 7, and 1 to 3 films.
    return (
        make_site(root / "north", "n", [f"a{number}" for number in range(7)], ["train"] * 7),
        make_site(root / "south", "s", [f"b{number}" for number in range(3)], ["train"] * 3),
    )


def build(keys):
    data = Data(**keys)
    shards = Collection.open(data)
    units = shards.units("train", data.multi_video, data.num_videos)
    return training_order(shards, units, data, 0, ROWS_PER_STEP), units, shards


def drawn(order, count):
    return [order.at(position)[1] for position in range(count)]


def test_one_folder_is_shuffled_within_windows_of_the_size_asked_for(folders):
    for shards_per_window in (1, 4):
        order, units, _ = build({"shards": folders[0], "shards_per_window": shards_per_window})
        assert isinstance(order, Shuffled) and sorted(drawn(order, 28)) == list(range(28))
        changes = np.count_nonzero(np.diff(units.shard[drawn(order, 28)]))
        assert (changes == 3) == (
            shards_per_window == 1
        ), "a window of one shard reads one shard after another"


def test_sources_without_weights_are_one_pool_and_with_weights_each_has_its_share(folders):
    sources = {"north": {"shards": folders[0]}, "south": {"shards": folders[1]}}
    order, units, _ = build({"sources": sources})
    assert isinstance(order, Shuffled) and sorted(drawn(order, 34)) == list(range(34))
    weighted = {
        name: {**source, "weight": weight}
        for (name, source), weight in zip(sources.items(), (3, 1), strict=True)
    }
    order, units, shards = build({"sources": weighted})
    assert isinstance(order, Mixture) and order.num_units == 34
    source = shards.source_of_study(units.study_row[drawn(order, 400)])
    assert np.bincount(source).tolist() == [300, 100]
    assert order.counters(400) == {
        "north/drawn": 300.0,
        "north/epoch": pytest.approx(300 / 28),
        "south/drawn": 100.0,
        "south/epoch": pytest.approx(100 / 6),
    }


def test_balanced_studies_are_those_of_the_films_and_an_epoch_is_one_of_each(folders):
    order, units, _ = build({"shards": folders[0], "balance": "study"})
    assert order.num_units == 7
    for epoch in range(7):
        shown = [order.at(position)[1] for position in range(7 * epoch, 7 * epoch + 7)]
        assert sorted(units.study_row[shown]) == list(range(7))
    assert set(drawn(order, 49)) == set(
        range(28)
    ), "every film is reached within as many epochs as a study has films"


def test_classes_of_films_are_drawn_alike_and_the_not_assessed_are_one_unless_excluded(folders):
    keys = {"shards": folders[0], "balance": "label", "balance_by": "cto"}
    order, units, shards = build(keys)
    names, label = classes_of_units(shards, units, Data(**keys))
    assert names == ["1", "2", "3", "4", "5", "6", "not_assessed"]
    assert np.bincount(label).tolist() == [6, 5, 4, 3, 2, 1, 7]
    assert units.clip[label == 6].tolist() == [0] * 7
    assert set(Counter(label[drawn(order, 700)]).values()) <= {99, 100, 101}
    assert order.counters(70)["cto/not_assessed/drawn"] == pytest.approx(10, abs=1)
    order, units, _ = build({**keys, "balance_not_assessed": "exclude"})
    assert (units.clip[drawn(order, 300)] > 0).all()


def test_a_study_has_the_class_that_its_films_agree_on(folders, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("study,stent\nn0,yes\nn1,yes\nn2,no\nn3,no\n")
    keys = {
        "shards": folders[0],
        "balance": "label",
        "balance_by": "stent",
        "multi_video": True,
        "tables": [table],
    }
    order, units, shards = build(keys)
    names, label = classes_of_units(shards, units, Data(**keys))
    assert [names[code] for code in label] == ["1", "1", "0", "0"] + ["not_assessed"] * 3
    assert Counter(label[drawn(order, 300)]) == {0: 100, 1: 100, 2: 100}
    disagree = {"shards": folders[0], "balance_by": "cto", "balance": "label", "multi_video": True}
    _, units, shards = build({**disagree, "where": "cto <= 2 or cto is null"})
    names, label = classes_of_units(shards, units, Data(**disagree))
    # One film without a value; then one of value 1; then 1 and 2, which disagree.
    assert [names[code] for code in label] == ["not_assessed", "1"] + ["not_assessed"] * 5


def test_a_column_that_is_not_there_or_has_one_class_is_an_error(folders):
    with pytest.raises(ConfigError, match="no column 'ct'; did you mean 'cto'"):
        build({"shards": folders[0], "balance": "label", "balance_by": "ct"})
    with pytest.raises(ConfigError, match="balance_by names a column with 1 classes"):
        build({"shards": folders[0], "balance": "label", "balance_by": "side"})


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"shards": "a", "sources": {"b": {"shards": "b"}}}, "both set"),
        (
            {"sources": {"a": {"shards": "a", "weight": 1}, "b": {"shards": "b"}}},
            "all of them a weight, or none",
        ),
        ({"balance": "label"}, "needs balance_by"),
        ({"balance_by": "cto"}, "is for balance=label"),
        ({"balance": "study", "multi_video": True}, "a sample is a study already"),
        ({"where": "cto ="}, "cannot be read"),
        ({"sources": {"a/b": {"shards": "a"}}}, "letters, digits"),
        ({"balance_power": 2}, "less than or equal to 1"),
        ({"shards_per_window": 0}, "greater than or equal to 1"),
    ],
)
def test_keys_that_contradict_each_other_are_refused_before_anything_is_read(keys, words):
    with pytest.raises(ValueError, match=words):
        Data(**keys)
