import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

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
