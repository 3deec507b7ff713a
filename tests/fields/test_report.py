import itertools

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from deepcoro import tokens
from deepcoro.config import ConfigError
from deepcoro.fields import report
from deepcoro.sample import ClipRecord, Report, StudyRecord, text_id

WORDS = ["[PAD]", "[UNK]", "severe", "stenosis", "of", "the", "rca", "no", "lesion"]


@pytest.fixture
def tokenizer():
    model = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=model, pad_token="[PAD]", unk_token="[UNK]")


@pytest.fixture
def field(tokenizer):
    return report.Config(max_tokens=4).build(tokenizer)


def test_distinct_texts_are_encoded_once_and_rows_point_at_them(field):
    texts = ["no lesion", "severe stenosis of", "No  Lesion", None, "severe stenosis of"]
    batch = field.collate(texts, num_videos=1)
    assert batch["report"]["input_ids"].tolist() == [[7, 8, 0], [2, 3, 4]]
    assert batch["report"]["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["report"]["index"].tolist() == [0, 1, 0, 0, 1]
    assert batch["report_id"].tolist() == [text_id(text) for text in texts]
    assert batch["report_id"][3] == -1 and batch["report_id"][0] == batch["report_id"][2]
    for tensor in (*batch["report"].values(), batch["report_id"]):
        assert tensor.dtype == torch.int64


def test_a_batch_without_any_text_holds_one_empty_text(field):
    batch = field.collate([None, None], num_videos=1)
    assert len(batch["report"]["input_ids"]) == 1
    assert batch["report"]["input_ids"].dtype == torch.int64
    assert batch["report"]["index"].tolist() == [0, 0]
    assert batch["report_id"].tolist() == [-1, -1]


def test_a_long_report_is_cut_at_max_tokens_and_padding_goes_to_the_longest_of_the_batch(field):
    batch = field.collate(["severe stenosis of the rca", "no"], num_videos=1)
    assert batch["report"]["input_ids"].tolist() == [[2, 3, 4, 5], [7, 0, 0, 0]]


def test_the_text_of_a_row_is_the_one_whose_scope_holds_its_clips(field):
    clips = [
        ClipRecord(clip=f"c{number}", member="000.mjpg", frame_offsets=[0, 1], height=8, width=8, side=side)
        for number, side in enumerate(["left", "right"])
    ]
    reports = [
        Report(scope="side", side="left", text="no lesion"),
        Report(scope="side", side="right", text="severe"),
    ]
    study = StudyRecord(study="s", clips=clips, reports=reports)
    read = [field.decode(study, indices, lambda clip: b"", None) for indices in [(0,), (1,), (0, 1)]]
    assert read == ["no lesion", "severe", "no lesion\nsevere"]
    assert field.decode(StudyRecord(study="s", clips=clips), (0,), lambda clip: b"", None) is None


def test_without_a_tokenizer_the_error_names_the_remedy():
    with pytest.raises(ConfigError, match="towers.text"):
        report.Config().build()


class Counting:
    """Passes on to a tokenizer and keeps the texts it was asked for."""

    def __init__(self, tokenizer):
        self.tokenizer, self.asked = tokenizer, []

    def __call__(self, texts, **keys):
        self.asked += texts
        return self.tokenizer(texts, **keys)

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)


def test_a_text_is_tokenised_once_in_a_process_and_by_its_very_letters(tokenizer):
    counting = Counting(tokenizer)
    field = report.Config(max_tokens=4).build(counting)
    fresh = report.Config(max_tokens=4).build(tokenizer)
    for texts in (
        ["no lesion", "severe"],
        ["severe", "stenosis", "no lesion"],
        ["No lesion", None],
        ["severe"],
    ):
        got, expected = field.collate(texts, 1), fresh.collate(texts, 1)
        assert torch.equal(got["report"]["input_ids"], expected["report"]["input_ids"])
    assert sorted(counting.asked) == ["No lesion", "no lesion", "severe", "stenosis"]
    assert field.collate(["No lesion"], 1)["report"]["input_ids"].tolist() == [
        [1, 8]
    ], "not the tokens of 'no lesion'"


def test_what_is_remembered_is_bounded_and_changes_no_batch(tokenizer, monkeypatch):
    monkeypatch.setattr(tokens, "REMEMBERED", 3)
    field, texts = report.Config().build(tokenizer), ["no", "lesion", "severe", "of", "the", "rca"]
    for start in range(5):
        batch = field.collate(texts[start : start + 2], 1)
        assert batch["report"]["input_ids"].tolist() == [
            [WORDS.index(text)] for text in texts[start : start + 2]
        ]
        assert len(field._tokens._known) <= 3


def test_the_tokens_are_those_of_the_tokenizers_own_padding(tokenizer):
    texts = ["severe stenosis of the rca", "no", "lesion of rca"]
    own = tokenizer(texts, padding=True, truncation=True, max_length=4, return_tensors="pt")
    batch = report.Config(max_tokens=4).build(tokenizer).collate(texts, 1)["report"]
    for name in ("input_ids", "attention_mask"):
        assert torch.equal(batch[name], own[name])


TEXTS = st.lists(
    st.one_of(st.none(), st.lists(st.sampled_from(WORDS[2:]), min_size=1, max_size=9).map(" ".join)),
    min_size=1,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(TEXTS, st.integers(2, 5))
def test_buckets_hold_every_text_once_in_as_many_groups_as_asked(tokenizer, texts, num_buckets):
    one = report.Config().build(tokenizer).collate(texts, 1)["report"]
    several = report.Config(length_buckets=num_buckets).build(tokenizer).collate(texts, 1)["report"]
    assert len(several["buckets"]) == num_buckets
    ends = [0] + [end for end, _ in several["buckets"]]
    assert all(before < after for before, after in itertools.pairwise(ends)) and ends[-1] == len(
        several["input_ids"]
    )
    for (start, end), (_, longest) in zip(itertools.pairwise(ends), several["buckets"], strict=True):
        assert several["attention_mask"][start:end].sum(1).max() == longest
    width = one["input_ids"].shape[1]
    for name in ("input_ids", "attention_mask"):
        rows = [each[name][each["index"]][:, :width] for each in (one, several)]
        real = [text is not None for text in texts]
        assert torch.equal(rows[0][real], rows[1][real])
    distinct = {text for text in texts if text is not None}
    assert len(several["input_ids"]) == max(len(distinct), num_buckets, 1)


@given(st.lists(st.integers(1, 40), min_size=4, max_size=8).map(sorted), st.integers(2, 4))
def test_the_cuts_are_the_cheapest_of_all(ascending, num_buckets):
    def cost(ends):
        return sum((end - start) * ascending[end - 1] for start, end in itertools.pairwise([0, *ends]))

    inner = itertools.combinations(range(1, len(ascending)), num_buckets - 1)
    best = min(cost([*cuts, len(ascending)]) for cuts in inner)
    assert cost(tokens._cheapest_cuts(np.array(ascending), num_buckets)) == best


def test_the_padded_fraction_counts_what_the_tower_reads_in_vain(tokenizer):
    texts = ["no", "severe stenosis of the rca", "no lesion", "no", None]
    one = report.Config().build(tokenizer).collate(texts, 1)["report"]
    two = report.Config(length_buckets=2).build(tokenizer).collate(texts, 1)["report"]
    assert report.padded_token_fraction([one]) == pytest.approx(1 - 8 / 15)
    assert report.padded_token_fraction([two]) == pytest.approx(1 - 8 / 9)
    assert report.padded_token_fraction([one, two]) == pytest.approx(1 - 16 / 24)
    alone = report.Config(length_buckets=3).build(tokenizer).collate(["no lesion"], 1)["report"]
    assert report.padded_token_fraction([alone]) == pytest.approx(2 / 3), "repeats are read in vain"
