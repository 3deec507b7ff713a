"""What a report lets a decoder be asked."""

import numpy as np
import pytest

from deepcoro.angiography.findings import Lesion, SideFindings
from deepcoro.angiography.grammar import render
from deepcoro.captioning.tasks import CaptionWords, Exchange, exchanges_of, finding_words
from deepcoro.config import ConfigError
from tests.captioning.words import WORDS, make_tokenizer


def test_a_report_is_asked_for_whole_by_segment_and_by_finding():
    text = render(SideFindings("left", "right", (Lesion("prox_lad", 80),)))
    assert exchanges_of(text, {"RAO_CAU"}, None) == [
        Exchange("report", "", text),
        Exchange("finding", "proximal LAD", "severe stenosis (80 %)"),
        Exchange("place", "severe stenosis (80 %)", "proximal LAD, RAO CAU"),
    ]


def test_a_text_beyond_the_grammar_is_only_written_whole():
    assert exchanges_of("LV function is normal.", {"RAO"}, None) == [
        Exchange("report", "", "LV function is normal.")
    ]


def test_a_cleared_tree_says_something_of_each_of_its_segments_and_nothing_has_a_place():
    text = render(SideFindings("right", "left", no_significant_stenosis=True))
    asked = {tuple(exchanges_of(text, set(), np.random.default_rng(seed))[1:]) for seed in range(40)}
    questions = {each[0].question for each in asked}
    assert questions == {"proximal RCA", "mid RCA", "distal RCA"}, "a left-dominant right tree ends there"
    assert {(len(each), each[0].answer) for each in asked} == {(1, "no significant stenosis")}


def test_segments_that_are_not_mentioned_are_not_asked_for():
    text = render(SideFindings("left", "right", (Lesion("mid_lad", 60),), normal=("left_main",)))
    drawn = [exchanges_of(text, set(), np.random.default_rng(seed))[1] for seed in range(40)]
    assert {(each.question, each.answer) for each in drawn} == {
        ("mid LAD", "moderate stenosis (60 %)"),
        ("left main", "no disease"),
    }


def test_a_finding_of_two_segments_has_two_places_and_films_of_several_views_name_none():
    text = render(SideFindings("left", "right", (Lesion("mid_lad", 60), Lesion("om1", 60))))
    place = exchanges_of(text, {"RAO", "LAO"}, None)[2]
    assert place == Exchange("place", "moderate stenosis (60 %)", "mid LAD, first obtuse marginal")


def test_a_report_of_both_trees_is_asked_for_the_segments_of_both():
    left = render(SideFindings("left", "right", (Lesion("om1", 70),)))
    right = render(SideFindings("right", "right", no_significant_stenosis=True))
    draws = [exchanges_of(f"{left}\n{right}", set(), np.random.default_rng(seed))[1:] for seed in range(40)]
    assert {each[0].question for each in draws} >= {"first obtuse marginal", "mid RCA"}
    assert {each[1].answer for each in draws} == {"first obtuse marginal"}


@pytest.mark.parametrize(
    ("lesion", "words"),
    [
        (
            Lesion("mid_rca", 100, cto=True, calcification="severe"),
            "chronic total occlusion, heavy calcification",
        ),
        (Lesion("mid_rca", 70, stent=True), "in-stent restenosis of 70 %"),
        (Lesion("mid_rca", stent=True, thrombus=True), "patent stent, thrombus"),
        (Lesion("mid_rca", 30), "mild stenosis (30 %)"),
    ],
)
def test_a_finding_is_named_without_its_place(lesion, words):
    assert finding_words(lesion) == words


def test_masks_and_tasks_are_ids_beyond_the_words():
    words = CaptionWords(make_tokenizer())
    assert words.prefix("report") == [len(WORDS) + 1]
    assert words.prefix("finding", "the lad") == [len(WORDS) + 2, 9, 10, words.end]
    assert (words.mask, words.num_ids) == (len(WORDS), len(WORDS) + 4)


def test_a_tokenizer_without_an_end_is_refused():
    tokenizer = make_tokenizer()
    tokenizer.sep_token = None
    with pytest.raises(ConfigError, match="neither"):
        CaptionWords(tokenizer)
