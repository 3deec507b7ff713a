"""Retrieval metrics against brute force: a search of every query by hand, with the ties taken apart."""

from math import comb

import numpy as np
import pytest

from deepcoro.config import ConfigError, parse
from deepcoro.metrics import retrieval
from tests.metrics.heads import evaluated


def normalised(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def random_set(num_films: int = 60, num_texts: int = 13, dim: int = 5, seed: int = 0):
    """Films (every third one a copy, so that there are ties), distinct texts, who belongs to whom, patients."""
    generator = np.random.default_rng(seed)
    films = normalised(generator.normal(size=(num_films, dim)))
    films[2::3] = films[1::3][: len(films[2::3])]
    texts = normalised(generator.normal(size=(num_texts, dim)))
    text_of_film = generator.integers(-1, num_texts, num_films)
    patients = np.array([f"p{film // 4}" for film in range(num_films)], dtype=object)
    return films, texts, text_of_film, patients


def hit_by_hand(similarity: np.ndarray, positive: np.ndarray, k: int) -> float:
    """Probability that one of the positives is among the first k, filling the places from the best score down."""
    places = k
    for value in sorted(set(similarity.tolist()), reverse=True):
        tied = similarity == value
        num_tied, num_positive = int(tied.sum()), int((tied & positive).sum())
        if num_positive:
            taken = min(places, num_tied)
            return 1 - comb(num_tied - num_positive, taken) / comb(num_tied, taken)
        places -= min(places, num_tied)
    raise AssertionError("a query without a positive")


def recall_by_hand(films, texts, text_of_film, k: int) -> float:
    known = text_of_film >= 0
    hits = [
        hit_by_hand(np.round(films[known] @ text, 6), text_of_film[known] == number, k)
        for number, text in enumerate(texts)
        if (text_of_film == number).any()
    ]
    return float(np.mean(hits))


def metric(**settings) -> retrieval.Retrieval:
    return retrieval.Config(bootstrap_samples=50, **settings).build()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_text_to_video_is_the_search_by_hand_with_ties_and_shared_reports(seed):
    films, texts, text_of_film, patients = random_set(seed=seed)
    found = metric(recall_at=(1, 5, 10, 500)).compute(films, texts, text_of_film, patients)
    for k in (1, 5, 10):
        assert found[f"retrieval/text_to_video/R@{k}"] == pytest.approx(
            recall_by_hand(films, texts, text_of_film, k)
        )
    assert found["retrieval/text_to_video/R@500"] == found["retrieval/text_to_video/R@500_chance"] == 1.0


def test_video_to_text_counts_films_as_queries():
    films, texts, text_of_film, patients = random_set()
    found = metric().compute(films, texts, text_of_film, patients)
    known = text_of_film >= 0
    by_hand = [
        hit_by_hand(np.round(film @ texts.T, 6), np.arange(len(texts)) == number, 5)
        for film, number in zip(films[known], text_of_film[known], strict=True)
    ]
    assert found["retrieval/video_to_text/R@5"] == pytest.approx(np.mean(by_hand))
    assert found["retrieval/video_to_text/R@5_chance"] == pytest.approx(5 / len(texts))
    assert found["retrieval/video_to_text/num_queries"] == known.sum()


def test_mrr_and_median_rank_are_those_of_a_search_without_ties():
    generator = np.random.default_rng(4)
    films, texts = normalised(generator.normal(size=(30, 6))), normalised(generator.normal(size=(10, 6)))
    text_of_film = np.arange(30) % 10
    ranks = []
    for number, text in enumerate(texts):
        order = np.argsort(-(films @ text))
        ranks.append(1 + int(np.flatnonzero(text_of_film[order] == number)[0]))
    found = metric().compute(films, texts, text_of_film)
    assert found["retrieval/text_to_video/MRR"] == pytest.approx(np.mean([1 / rank for rank in ranks]))
    assert found["retrieval/text_to_video/median_rank"] == np.median(ranks)
    assert found["retrieval/text_to_video/median_rank_chance"] == pytest.approx(31 / 4)


def test_a_constant_embedding_scores_exactly_chance():
    _, _, text_of_film, patients = random_set(num_films=211, num_texts=17)
    one = normalised(np.random.default_rng(9).normal(size=(1, 515)))
    films, texts = np.repeat(one, 211, axis=0), np.repeat(one, 17, axis=0)
    strata = np.where(np.arange(211) % 2, "left", "right")
    found = metric().compute(films, texts, text_of_film, patients, strata)
    for direction in ("text_to_video", "video_to_text"):
        for where in (direction, f"{direction}/within_stratum"):
            for name in ("R@1", "R@5", "R@10", "MRR", "median_rank"):
                key = f"retrieval/{where}/{name}"
                assert found[key] == found[f"{key}_chance"], key
    control = found["retrieval/control/text_to_video/R@5_chance"]
    assert found["retrieval/control/text_to_video/R@5_ci_low"] <= control
    assert control <= found["retrieval/control/text_to_video/R@5_ci_high"]


def test_chance_is_the_mean_over_queries_of_the_hypergeometric_formula():
    films, texts, text_of_film, _ = random_set()
    num_films = int((text_of_film >= 0).sum())
    counts = [int((text_of_film == number).sum()) for number in range(len(texts))]
    expected = [1 - comb(num_films - count, 5) / comb(num_films, 5) for count in counts if count]
    found = metric().compute(films, texts, text_of_film)
    assert found["retrieval/text_to_video/R@5_chance"] == pytest.approx(np.mean(expected))


def test_films_without_report_and_texts_without_film_are_left_out_and_counted():
    films, texts, _, _ = random_set(num_films=6, num_texts=4)
    text_of_film = np.array([0, -1, 0, 2, -1, 2])
    found = metric().compute(films, texts, text_of_film)
    assert found["retrieval/num_films"] == 4
    assert found["retrieval/num_films_without_report"] == 2
    assert found["retrieval/num_distinct_reports"] == 4
    assert found["retrieval/text_to_video/num_queries"] == 2
    assert found["retrieval/text_to_video/num_queries_excluded"] == 2
    assert found["retrieval/video_to_text/R@1_chance"] == pytest.approx(
        1 / 4
    )  # idle texts are still candidates


def test_without_any_report_only_the_counts_come_back():
    films, texts, _, _ = random_set(num_films=6, num_texts=4)
    found = metric().compute(films, texts, np.full(6, -1))
    assert found["retrieval/num_films"] == 0
    assert not any("R@" in key for key in found)


def test_within_a_stratum_only_films_that_agree_with_the_query_compete():
    films, texts, text_of_film, patients = random_set(num_films=90)
    strata = np.array(["left", "right", None], dtype=object)[np.arange(90) // 30]
    found = metric(recall_at=(5,)).compute(films, texts, text_of_film, patients, strata)
    hits, chances = [], []
    for stratum in ("left", "right"):
        inside = (strata == stratum) & (text_of_film >= 0)
        for number in np.unique(text_of_film[inside]):
            positive = text_of_film[inside] == number
            hits.append(hit_by_hand(np.round(films[inside] @ texts[number], 6), positive, 5))
            chances.append(1 - comb(int((~positive).sum()), 5) / comb(len(positive), 5))
    key = "retrieval/text_to_video/within_stratum"
    assert found[f"{key}/R@5"] == pytest.approx(np.mean(hits))
    assert found[f"{key}/R@5_chance"] == pytest.approx(np.mean(chances))
    assert found[f"{key}/num_queries"] == len(hits)
    assert found["retrieval/num_strata"] == 2
    assert found["retrieval/num_films_without_stratum"] == (text_of_film[60:] >= 0).sum()


def test_telling_only_the_stratum_gains_over_all_films_and_nothing_within_it():
    generator = np.random.default_rng(0)
    side = np.arange(80) % 2
    text_of_film = np.where(side == 0, generator.integers(0, 10, 80), 10 + generator.integers(0, 10, 80))
    sides = np.eye(2, dtype=np.float32)
    texts = sides[np.arange(20) // 10]
    found = metric().compute(sides[side], texts, text_of_film, None, side.astype(str))
    key = "retrieval/text_to_video"
    assert found[f"{key}/R@5"] > 1.5 * found[f"{key}/R@5_chance"]
    assert found[f"{key}/within_stratum/R@5"] == found[f"{key}/within_stratum/R@5_chance"]


@pytest.mark.parametrize("seed", range(5))
def test_the_shuffled_control_holds_chance_even_for_a_perfect_embedding(seed):
    generator = np.random.default_rng(seed)
    text_of_film = np.concatenate([np.arange(20), generator.integers(0, 20, 60)])
    texts = normalised(generator.normal(size=(20, 16)))
    strata = np.where(text_of_film < 10, "left", "right")
    found = metric(seed=seed).compute(texts[text_of_film], texts, text_of_film, None, strata)
    assert found["retrieval/text_to_video/R@1"] == 1.0
    for where in ("text_to_video", "text_to_video/within_stratum"):
        for k in (1, 5, 10):
            key = f"retrieval/control/{where}/R@{k}"
            assert found[f"{key}_ci_low"] <= found[f"{key}_chance"] <= found[f"{key}_ci_high"]
            assert found[key] == pytest.approx(found[f"{key}_chance"], abs=0.03)
            assert found[f"{key}_chance"] == pytest.approx(found[f"retrieval/{where}/R@{k}_chance"])


def test_a_control_of_few_texts_keeps_the_films_of_the_others_as_candidates(monkeypatch):
    monkeypatch.setattr("deepcoro.metrics.retrieval._CONTROL_QUERIES", 6)
    generator = np.random.default_rng(0)
    text_of_film = np.arange(100) % 25
    texts = normalised(generator.normal(size=(25, 16)))
    found = metric().compute(texts[text_of_film], texts, text_of_film)
    key = "retrieval/control/text_to_video/R@5"
    assert found[f"{key}_chance"] == pytest.approx(1 - comb(96, 5) / comb(100, 5))
    assert found[f"{key}_ci_low"] <= found[f"{key}_chance"] <= found[f"{key}_ci_high"]
    assert found[key] == pytest.approx(found[f"{key}_chance"], abs=0.03)


def test_intervals_hold_the_estimate_and_follow_the_seed():
    films, texts, text_of_film, patients = random_set()
    first = metric().compute(films, texts, text_of_film, patients)
    assert first == metric().compute(films, texts, text_of_film, patients)
    other = metric(seed=1).compute(films, texts, text_of_film, patients)
    assert first["retrieval/text_to_video/R@5"] == other["retrieval/text_to_video/R@5"]
    assert first["retrieval/text_to_video/R@5_ci_low"] != other["retrieval/text_to_video/R@5_ci_low"]
    for direction in ("text_to_video", "video_to_text"):
        for name in ("R@5", "MRR"):
            key = f"retrieval/{direction}/{name}"
            assert first[f"{key}_ci_low"] <= first[key] <= first[f"{key}_ci_high"]


def test_no_bootstrap_gives_no_bounds():
    films, texts, text_of_film, _ = random_set()
    found = retrieval.Config(bootstrap_samples=0).build().compute(films, texts, text_of_film)
    assert not any(key.endswith("ci_low") for key in found if "control" not in key)


def test_strata_join_labels_and_leave_out_what_is_not_assessed():
    labels = {"side": ["left", "right", None], "cto": [0.0, float("nan"), 1.0]}
    assert retrieval.stratum_keys(labels, ["side", "cto"]).tolist() == ["left|0.0", None, None]
    assert retrieval.stratum_keys(labels, []) is None
    with pytest.raises(ValueError, match="dominance"):
        retrieval.stratum_keys(labels, ["dominance"])


def test_a_recall_at_zero_is_refused_by_name():
    with pytest.raises(ConfigError, match="recall_at"):
        parse(retrieval.Config, {"recall_at": [0]}, "test")


def test_searches_told_by_rows_have_the_numbers_as_their_means():
    films, texts, text_of_film, patients = random_set()
    side = ["left" if film % 3 else "right" for film in range(60)]
    data = evaluated(
        {}, {}, {"side": [None, *side[1:]]}, films=films, texts=[str(text) for text in range(13)], text_embeddings=texts,
        text_of_film=text_of_film, patients=patients.tolist(),
    )  # fmt: skip
    measured = metric(strata=["side"])
    numbers, searched = measured.measure(data)[0], measured.searched(data)
    assert {f"retrieval/{way}{where}" for way in ("text_to_video", "video_to_text") for where in ("", "/within_stratum")} == set(searched)  # fmt: skip
    for name, each in searched.items():
        asked = each.query >= 0
        assert set(np.flatnonzero(asked)) == set(np.flatnonzero((text_of_film >= 0) & ((np.arange(60) > 0) | ("stratum" not in name))))  # fmt: skip
        for column, key in enumerate(each.measures):
            got = {query: each.got[row, column] for row, query in enumerate(each.query) if query >= 0}
            assert np.mean(list(got.values())) == pytest.approx(numbers[f"{name}/{key}"])
            assert all(each.got[row, column] == got[each.query[row]] for row in np.flatnonzero(asked))


def test_a_split_that_was_measured_is_not_searched_again_and_another_one_is(monkeypatch):
    films, texts, text_of_film, patients = random_set()
    data = evaluated(
        {}, {}, {"side": ["left"] * 60}, films=films, texts=[str(text) for text in range(13)], text_embeddings=texts,
        text_of_film=text_of_film, patients=patients.tolist(),
    )  # fmt: skip
    half = data.only(np.arange(60) < 30)
    expected = {id(each): metric().searched(each) for each in (data, half)}
    made = []
    search = retrieval._search_all
    monkeypatch.setattr(retrieval, "_search_all", lambda *given: made.append(1) or search(*given))
    measured = metric()
    for each, times in ((data, 1), (half, 2), (data, 2)):
        measured.measure(each)
        assert len(made) == times
    for each in (data, half):
        found = measured.searched(each)
        assert all(np.array_equal(found[name].got, want.got, equal_nan=True) for name, want in expected[id(each)].items())  # fmt: skip
    assert len(made) == 3
