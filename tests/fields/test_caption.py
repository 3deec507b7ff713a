import numpy as np
import pytest
import torch

from deepcoro.config import ConfigError
from deepcoro.fields import caption
from deepcoro.sample import ClipRecord, Report, StudyRecord
from tests.captioning.words import WORDS, asked, make_field

REPORT, FINDING, END = len(WORDS) + 1, len(WORDS) + 2, 1


def study_with(text: str | None) -> StudyRecord:
    clip = ClipRecord(clip="c", member="000.mjpg", frame_offsets=[0, 1], height=8, width=8, view="RAO_CAU")
    reports = [] if text is None else [Report(scope="study", text=text)]
    return StudyRecord(study="s", clips=[clip], reports=reports)


def decoded(text: str | None, draw=None, **settings):
    return make_field(**settings).decode(study_with(text), (0,), lambda index: b"", draw)


LESION = "Left coronary artery. Severe stenosis (80 %) of the proximal LAD."


def test_tasks_lie_behind_each_other_and_only_what_follows_the_prefix_is_a_target():
    batch = make_field().collate([asked("severe stenosis", "the lad: mild"), asked("left")], 1)["caption"]
    assert batch["input_ids"].tolist() == [
        [REPORT, 5, 7, FINDING, 9, 10, END, 6],
        [REPORT, 3, 0, 0, 0, 0, 0, 0],
    ]
    assert batch["targets"].tolist() == [
        [5, 7, END, -100, -100, -100, 6, END],
        [3, END, -100, -100, -100, -100, -100, -100],
    ]
    assert batch["sequence"].tolist() == [[1, 1, 1, 2, 2, 2, 2, 2], [1, 1, 0, 0, 0, 0, 0, 0]]
    assert batch["position"].tolist() == [[0, 1, 2, 0, 1, 2, 3, 4], [0, 1, 0, 0, 0, 0, 0, 0]]


def test_rows_without_a_report_predict_nothing():
    batch = make_field().collate([None, decoded(None)], 1)["caption"]
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[0], [0]],
        "targets": [[-100], [-100]],
        "sequence": [[0], [0]],
        "position": [[0], [0]],
        "chance": [[1.0], [1.0]],
    }
    empty = make_field().collate([asked("")], 1)["caption"]
    assert empty["targets"].tolist() == [[-100]], "a report without a word has no end to predict either"


def test_a_long_report_is_cut_at_the_window_and_then_has_no_end():
    words = "severe mild severe mild severe mild"
    whole = make_field(max_tokens=8).collate([asked(words)], 1)["caption"]
    cut = make_field(max_tokens=7).collate([asked(words)], 1)["caption"]
    assert whole["targets"][0].tolist() == [5, 6, 5, 6, 5, 6, END]
    assert cut["targets"][0].tolist() == [5, 6, 5, 6, 5, 6]
    question_alone = make_field(max_tokens=4).collate([asked("the left lad: mild")], 1)["caption"]
    assert question_alone["sequence"].tolist() == [[0]], "nothing of the answer is left"


def test_the_report_grammar_gives_the_tasks_and_the_key_says_which_are_used():
    assert [each.task for each in decoded(LESION).exchanges] == ["report", "finding", "place"]
    assert [each.task for each in decoded(LESION, tasks="report").exchanges] == ["report"]
    drawn = [decoded(LESION, np.random.default_rng(seed), tasks="one").exchanges for seed in range(40)]
    assert {len(each) for each in drawn} == {1}
    assert {each[0].task for each in drawn} == {"report", "finding", "place"}
    assert decoded(LESION, tasks="one").exchanges[0].task == "report", "evaluation draws nothing"


def test_a_row_is_drawn_by_its_own_generator_and_evaluation_never_predicts_in_parallel():
    first, again, other = (decoded(LESION, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again and first.chances != other.chances
    assert decoded(LESION).chances == [1.0] * 3
    chance = make_field().collate([decoded("severe", np.random.default_rng(1))], 1)["caption"]["chance"]
    torch.testing.assert_close(chance, torch.full_like(chance, first.chances[0]))


def test_the_field_needs_a_tokenizer():
    with pytest.raises(ConfigError, match="tokenizer"):
        caption.Config().build(None)
