"""Report grammar: rendering and reading are inverse, in every style; what is not said is not known."""

import re
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcoro.angiography.findings import Lesion, SideFindings
from deepcoro.angiography.grammar import parse, parse_trees, render, sentences
from deepcoro.angiography.prompts import ZERO_SHOT
from deepcoro.angiography.vocabulary import CALCIFICATIONS, DOMINANCES, SEGMENTS, SIDES, segments_of


@st.composite
def lesions(draw, segment: str) -> Lesion:
    cto = draw(st.booleans())
    percent = 100 if cto else draw(st.integers(0, 100))
    grade = draw(st.sampled_from(CALCIFICATIONS))
    thrombus, stent = draw(st.booleans()), draw(st.booleans())
    says_something = percent or thrombus or stent or grade != "none"
    return Lesion(segment, percent if says_something else 1, cto, grade, thrombus, stent)


@st.composite
def side_findings(draw) -> SideFindings:
    side, dominance = draw(st.sampled_from(SIDES)), draw(st.sampled_from(DOMINANCES))
    segments = segments_of(side, dominance)
    diseased = draw(st.lists(st.sampled_from(segments), unique=True, max_size=5))
    healthy = draw(
        st.lists(st.sampled_from([s for s in segments if s not in diseased] or ["lvp"]), unique=True)
    )
    found = tuple(draw(lesions(segment)) for segment in diseased)
    insignificant = all(lesion.stenosis_percent < 50 for lesion in found)
    return SideFindings(
        side=draw(st.sampled_from([side, None])),
        dominance=draw(st.sampled_from([dominance, None])),
        lesions=found,
        normal=tuple(segment for segment in healthy if segment not in diseased),
        no_significant_stenosis=insignificant and draw(st.booleans()),
    )


@given(findings=side_findings(), seed=st.integers(0, 2**16))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("style", ["canonical", "paraphrased", "abbreviated", "french"])
def test_a_rendered_report_reads_back_as_the_same_findings(findings, seed, style):
    assert parse(render(findings, style, np.random.default_rng(seed)), strict=True) == findings


@given(findings=side_findings())
@settings(max_examples=25, deadline=None)
def test_case_and_line_breaks_of_a_report_do_not_matter(findings):
    text = render(findings).replace(". ", ".\n").upper()
    assert parse(text, strict=True) == findings


def test_paraphrases_vary_and_the_canonical_text_does_not():
    findings = SideFindings("left", "right", (Lesion("prox_lad", 80),))
    texts = {render(findings, "paraphrased", np.random.default_rng(seed)) for seed in range(40)}
    assert len(texts) > 10
    expected = "Left coronary artery. Right-dominant circulation. Severe stenosis (80 %) of the proximal LAD."
    assert render(findings) == expected


def test_a_segment_not_mentioned_is_not_normal():
    findings = parse("Left coronary artery. No disease of the mid LAD.")
    assert findings.normal == ("mid_lad",)
    assert findings.lesion_of("prox_lad") is None and "prox_lad" not in findings.normal


def test_ranges_decimals_and_spacing_of_percentages_are_read():
    for written, percent in [
        ("70-80 %", 75),
        ("70\u201380%", 75),
        ("70.0 %", 70),
        ("99%", 99),
        ("70,0 %", 70),
    ]:
        assert parse(f"Severe stenosis ({written}) of the mid RCA.").lesions[0].stenosis_percent == percent


def test_a_foreign_sentence_is_passed_over_or_refused_when_strict():
    text = "Right coronary artery. The patient liked the music. CTO of the mid RCA."
    assert parse(text).cto
    with pytest.raises(ValueError, match="sentence 2"):
        parse(text, strict=True)


def test_a_self_contradicting_text_counts_as_its_worse_statement():
    findings = parse("No disease of the mid RCA. CTO of the mid RCA. No significant stenosis.")
    assert findings.cto and findings.normal == () and not findings.no_significant_stenosis


def test_every_segment_has_a_name_of_its_own_in_every_style():
    for style in ("canonical", "abbreviated", "french"):
        rng = np.random.default_rng(0)
        texts = {render(SideFindings(normal=(segment,)), style, rng) for segment in SEGMENTS}
        assert len(texts) == len(SEGMENTS)


def test_zero_shot_prompts_are_reports_of_their_class():
    for side, prompts in ZERO_SHOT["side"].items():
        assert all(parse(prompt, strict=True).side == side for prompt in prompts)
    for value, prompts in ZERO_SHOT["cto"].items():
        assert prompts and all(parse(prompt, strict=True).cto == bool(value) for prompt in prompts)
    assert set(ZERO_SHOT["dominance"]) == set(DOMINANCES)


def test_findings_that_contradict_themselves_are_refused():
    with pytest.raises(ValueError, match="100 %"):
        Lesion("mid_rca", 80, cto=True)
    with pytest.raises(ValueError, match="described twice"):
        SideFindings("right", "right", (Lesion("mid_rca", 80),), normal=("mid_rca",))
    with pytest.raises(ValueError, match="says nothing"):
        Lesion("mid_rca")


@given(findings=side_findings(), seed=st.integers(0, 2**16))
@settings(max_examples=60)
@pytest.mark.parametrize("style", ["canonical", "paraphrased", "abbreviated", "french"])
def test_a_report_that_went_through_a_word_piece_tokenizer_reads_the_same(findings, seed, style):
    """Which lower-cases, takes accents off and sets each sign and number apart."""
    text = render(findings, style, np.random.default_rng(seed))
    bare = "".join(each for each in unicodedata.normalize("NFD", text) if not unicodedata.combining(each))
    assert parse(" ".join(re.findall(r"[a-z]+|\d+|[^\w\s]", bare.lower()))) == findings


def test_a_text_about_both_trees_is_read_as_two():
    left = SideFindings("left", "left", (Lesion("prox_lad", 80), Lesion("pda", 60)))
    right = SideFindings("right", "left", normal=("mid_rca",))
    assert parse_trees(render(left) + "\n" + render(right)) == (left, right)
    assert parse_trees(render(right) + " " + render(right)) == (right,)
    assert parse_trees("Patient came by bicycle.") == ()
    unnamed = SideFindings(None, None, (Lesion("mid_rca", 80),))
    assert parse_trees("Severe stenosis (80 %) of the mid RCA. Left-dominant circulation.") == (
        replace(unnamed, dominance="left"),
    )


def test_sentences_say_what_they_are_about():
    assert sentences("LCA angiogram. pLAD: 60.0 %. Came by bicycle.") == [
        ("LCA angiogram.", "side_left", None),
        ("pLAD: 60.0 %.", "stenosis", "prox_lad"),
        ("Came by bicycle.", None, None),
    ]
