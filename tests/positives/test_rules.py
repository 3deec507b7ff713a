"""What each rule sees of a text."""

import pickle

import numpy as np
import pytest

from deepcoro.angiography.findings import Lesion, SideFindings
from deepcoro.angiography.grammar import render
from deepcoro.config import ConfigError
from deepcoro.positives import findings, report_id, similarity
from deepcoro.positives.findings import findings_of
from deepcoro.sample import text_id

LESIONS = (Lesion("mid_lad", 75, stent=True), Lesion("D1", 40, calcification="severe"))
LEFT = SideFindings("left", "right", LESIONS, normal=("left_main", "prox_lcx"))
RIGHT = SideFindings("right", "right", normal=("prox_rca",), no_significant_stenosis=True)


@pytest.mark.parametrize("style", ["canonical", "paraphrased", "abbreviated", "french"])
def test_a_text_is_its_narrowings_however_it_is_worded(style):
    text = render(LEFT, style, np.random.default_rng(3))
    assert findings_of(text) == {"left/mid_lad/severe", "left/D1/mild"}


def test_details_are_findings_of_their_own():
    told = findings_of(render(LEFT), details=True) - findings_of(render(LEFT))
    assert told == {"left/mid_lad/stent", "left/D1/calcification severe"}
    occluded = SideFindings("right", lesions=(Lesion("mid_rca", 100, cto=True, thrombus=True),))
    told = findings_of(render(occluded), details=True)
    assert told == {
        "right/mid_rca/critical",
        "right/mid_rca/occluded for long",
        "right/mid_rca/thrombus",
    }


def test_a_tree_without_narrowing_says_so_and_a_study_speaks_of_both_trees():
    assert findings_of(render(RIGHT)) == {"right/no narrowing"}
    patent = SideFindings("right", lesions=(Lesion("mid_rca", stent=True),))
    assert findings_of(render(patent)) == {"right/no narrowing"}
    both = "\n".join([render(LEFT), render(RIGHT)])
    assert findings_of(both) == findings_of(render(LEFT)) | findings_of(render(RIGHT))


def test_lines_after_the_one_that_names_the_tree_are_of_this_tree():
    text = render(LEFT).replace(". ", ".\n")
    assert text.count("\n") > 3
    assert findings_of(text) == findings_of(render(LEFT))


def test_texts_with_the_same_findings_share_a_meaning_and_others_do_not():
    describe = findings.Config().describer(())
    plain, worded = (render(LEFT, style, np.random.default_rng(0)) for style in ("canonical", "french"))
    assert describe(plain) == describe(worded)
    assert describe(render(RIGHT)).meaning != describe(plain).meaning
    assert sorted(describe(plain).keys) == sorted(map(text_id, findings_of(plain)))


@pytest.mark.parametrize("text", ["", "Nothing that the grammar knows.", "70 %"])
def test_a_text_without_findings_is_like_itself_alone(text):
    described = findings.Config().describer(())(text)
    assert described == (text_id(text), [text_id(text)], [1.0])


def test_tf_idf_vectors_are_unit_vectors_by_the_formula():
    texts = ["Severe stenosis 70 %", "severe stenosis 30 %", "mild lesion", "Mild   LESION"]
    describe = similarity.Config(min_texts=1).describer(texts)
    described = describe("severe stenosis 70 % never-seen")
    distinct = [
        {"severe", "stenosis", "70", "%", "severe stenosis", "stenosis 70", "70 %"},
        {"severe", "stenosis", "30", "%", "severe stenosis", "stenosis 30", "30 %"},
        {"mild", "lesion", "mild lesion"},
    ]
    rarity = {
        term: np.log(4 / (1 + sum(term in each for each in distinct))) + 1
        for each in distinct
        for term in each
    }
    vector = np.array(sorted(rarity[term] for term in distinct[0]))
    np.testing.assert_allclose(np.sort(described.values), vector / np.linalg.norm(vector))


def test_similarity_takes_the_texts_in_any_order_and_travels_to_workers():
    texts = ["severe stenosis of the lad", "no stenosis of the lad", "severe disease"]
    one, other = (similarity.Config().describer(order) for order in (texts, texts[::-1]))
    for text in [*texts, "disease of the lad"]:
        assert one(text) == other(text) == pickle.loads(pickle.dumps(one))(text)


def test_words_that_no_training_text_has_make_a_text_like_itself_alone():
    describe = similarity.Config(min_texts=1).describer(["severe stenosis"])
    assert describe("quite normal") == (text_id("quite normal"), [text_id("quite normal")], [1.0])


@pytest.mark.parametrize("texts", [[], ["one", "two"]])
def test_training_texts_without_a_common_word_are_refused(texts):
    with pytest.raises(ConfigError, match="lower min_texts"):
        similarity.Config().describer(texts)


def test_equal_reports_need_no_description():
    assert report_id.Config().describer(["text"]) is None
    assert report_id.Config().likeness is None
