"""Nearness in words against formulas written out and nltk's own corpus BLEU."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from nltk.translate.bleu_score import corpus_bleu

from deepcoro.metrics import captioning
from deepcoro.metrics.captioning import words
from tests.metrics.captions import captioned, trained_on

VOCABULARY = [
    "left",
    "right",
    "coronary",
    "artery",
    "severe",
    "mild",
    "stenosis",
    "of",
    "the",
    "mid",
    "proximal",
    "lad",
    "rca",
    "80",
    "90",
    "%",
    "no",
    "disease",
]
METRIC = captioning.Config(bootstrap_samples=50).build()


def found(*arguments, **more) -> dict[str, float]:
    numbers, _ = METRIC.measure(captioned(*arguments, **more))
    return {key.removeprefix("captioning/"): value for key, value in numbers.items()}


def random_texts(count: int, seed: int, shortest: int = 5) -> list[str]:
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(VOCABULARY, generator.integers(shortest, 16))) for _ in range(count)]


def paired(count: int = 30) -> tuple[list[str], list[str]]:
    """Reports, and captions that share a part of their words in order."""
    references, other = random_texts(count, 0), random_texts(count, 1)
    captions = [f"{first} {second}"[:-9] for first, second in zip(references, other, strict=True)]
    return references, captions


def test_words_do_not_depend_on_signs_case_and_spaces():
    assert (
        words("Mid-LAD: 80.0 % (D1).")
        == words("mid - lad : 80 . 0% ( d 1 )")
        == ["mid", "lad", "80", "0", "%", "d", "1"]
    )
    assert words("Sténose") == ["sténose"]


def test_bleu_is_that_of_nltk():
    references, captions = paired()
    numbers = found(references, captions)
    pairs = [[words(text)] for text in references], [words(text) for text in captions]
    for order in (1, 2, 3, 4):
        expected = corpus_bleu(*pairs, weights=(1 / order,) * order)
        assert numbers[f"bleu_{order}"] == pytest.approx(expected, rel=1e-12)
    assert 0 < numbers["bleu_4"] < numbers["bleu_1"] < 1


def test_short_captions_pay_for_brevity_and_lose_the_long_ngrams():
    """By hand: 2 of 3 words and 1 of 2 pairs, no longer ones; the report has 6 words."""
    numbers = found(["a b c d e f"], ["a b x"])
    assert numbers["bleu_1"] == pytest.approx(2 / 3 * math.exp(1 - 6 / 3))
    assert numbers["bleu_2"] == pytest.approx(math.sqrt(2 / 3 * 1 / 2) * math.exp(-1))
    assert numbers["bleu_3"] == numbers["bleu_4"] == 0


def longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    if not first or not second:
        return 0
    if first[-1] == second[-1]:
        return 1 + longest_common(first[:-1], second[:-1])
    return max(longest_common(first[:-1], second), longest_common(first, second[:-1]))


def test_rouge_l_is_the_f1_of_the_longest_common_subsequence():
    references, captions = random_texts(6, 2), random_texts(6, 3)
    expected = []
    for reference, caption in zip(references, captions, strict=True):
        there, said = words(reference)[:7], words(caption)[:7]
        expected.append(2 * longest_common(there, said) / (len(there) + len(said)))
    shortened = [[" ".join(words(text)[:7]) for text in texts] for texts in (references, captions)]
    assert found(*shortened)["rouge_l"] == pytest.approx(np.mean(expected))


def test_meteor_matches_words_and_stems_and_fines_fragments():
    """Three matches (narrowed and narrowing share a stem) in one chunk, of 3 and 4 words: Lavie and Agarwal's formula."""
    recall, precision = 3 / 4, 1.0
    mean = precision * recall / (0.9 * precision + 0.1 * recall)
    numbers = found(["mid lad narrowed badly"], ["mid lad narrowing"])
    assert numbers["meteor_exact_stem"] == pytest.approx(mean * (1 - 0.5 * (1 / 3) ** 3))


def cider_d_by_formula(references: list[str], captions: list[str]) -> float:
    """Equations of Vedantam et al. 2015, section 4 and 5 (CIDEr-D), over whole vectors of all n-grams of one order."""
    scores = []
    for order in (1, 2, 3, 4):
        cut = [[tuple(text.split()[i : i + order]) for i in range(len(text.split()) - order + 1)] for text in references + captions]  # fmt: skip
        axes = {ngram: place for place, ngram in enumerate(sorted({ngram for text in cut for ngram in text}))}
        times = np.zeros((len(cut), len(axes)))
        for row, text in enumerate(cut):
            for ngram, count in Counter(text).items():
                times[row, axes[ngram]] = count
        count = len(references)
        frequency = (times[:count] > 0).sum(axis=0).clip(min=1)
        weighed = times * np.log(count / frequency)
        there, said = weighed[:count], weighed[count:]
        lengths = np.linalg.norm(there, axis=1) * np.linalg.norm(said, axis=1)
        cosine = (np.minimum(said, there) * there).sum(axis=1) / np.where(lengths > 0, lengths, 1)
        gaps = np.array([len(b.split()) - len(a.split()) for a, b in zip(references, captions, strict=True)])
        scores.append(10 * np.exp(-(gaps**2) / (2 * 6.0**2)) * cosine)
    return float(np.mean(scores))


def test_cider_d_is_that_of_the_paper_written_with_vectors():
    references, captions = paired(12)
    references[3] = references[4]
    assert found(references, captions)["cider_d"] == pytest.approx(
        cider_d_by_formula(references, captions), rel=1e-9
    )
    perfect = found(references, references)["cider_d"]
    assert perfect == pytest.approx(cider_d_by_formula(references, references)) and perfect > 9.9


def test_the_report_itself_is_the_best_caption_and_an_empty_one_the_worst():
    references = random_texts(12, 5)
    best, worst = found(references, references), found(references, [""] * 12)
    for key in ("bleu_1", "bleu_4", "rouge_l"):
        assert best[key] == pytest.approx(1) and worst[key] == 0
    assert best["meteor_exact_stem"] > 0.98 and worst["meteor_exact_stem"] == worst["cider_d"] == 0
    assert worst["num_empty_captions"] == 12 and best["num_distinct_captions"] == 12


def test_controls_stand_beside_and_films_without_report_are_left_out():
    references = [*random_texts(5, 6), None]
    bank = trained_on(references[:2], np.eye(5, dtype=np.float32)[:2])
    numbers = found(references, [*references[:5], "x"], training=bank)
    assert numbers["num_films"] == 5
    assert numbers["rouge_l"] == pytest.approx(1) and numbers["rouge_l_nearest"] < 1
    assert numbers["rouge_l_modal"] < numbers["rouge_l_nearest"], "one of them hits one film, the other two"
    assert numbers["rouge_l_shuffled"] < 1
    assert "rouge_l_modal" not in found(references, references[:5] + ["x"])
    assert METRIC.measure(captioned([None], ["x"]))[1] == ["captioning: no film has a report"]
    assert METRIC.measure(captioned(["x"], [])) == ({}, [])


def test_of_many_films_a_part_is_drawn_by_seed():
    references, captions = paired()
    few = captioning.Config(max_films=7, bootstrap_samples=0).build()
    first, again = (few.measure(captioned(references, captions))[0] for _ in range(2))
    assert first == again and first["captioning/num_films"] == 7
    assert not any(key.endswith("_ci_low") for key in first)
