"""The text encoder of a DeepCORO_CLIP checkpoint as a folder that `towers.text.model` reads."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from deepcoro.config import ConfigError
from deepcoro.towers import text_hf

PREFIX = "text_encoder.bert."
HEAD_DIM = 64
"""Of every BERT base and large; a checkpoint does not say it."""


def write_text_model(tensors: Mapping[str, Tensor], folder: Path, tokenizer: str) -> None:
    """config.json, weights and tokenizer. `tokenizer`: name on the hub or a local folder, since a checkpoint holds none.

    ConfigError where there is no BERT in the checkpoint, where the tokenizer cannot be had or has more tokens than the encoder.
    """
    from transformers import BertConfig, BertModel

    state = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
    words = state.get("embeddings.word_embeddings.weight")
    if words is None:
        raise ConfigError(f"the checkpoint holds no BERT ('{PREFIX}embeddings.word_embeddings.weight')")
    config = BertConfig(
        vocab_size=words.shape[0],
        hidden_size=words.shape[1],
        num_hidden_layers=len({name.split(".")[2] for name in state if name.startswith("encoder.layer.")}),
        num_attention_heads=max(words.shape[1] // HEAD_DIM, 1),
        intermediate_size=state["encoder.layer.0.intermediate.dense.weight"].shape[0],
        max_position_embeddings=state["embeddings.position_embeddings.weight"].shape[0],
        type_vocab_size=state["embeddings.token_type_embeddings.weight"].shape[0],
    )
    # with a pooler, which nothing reads: transformers complains of a folder without one
    model = BertModel(config)
    own = {name: each for name, each in model.state_dict().items() if not name.startswith("pooler.")}
    missing = sorted(own.keys() - state.keys())
    if missing:
        raise ConfigError(f"the checkpoint's BERT lacks {len(missing)} tensors, the first '{missing[0]}'")
    model.load_state_dict({name: state[name] for name in own}, strict=False)
    found = _tokenizer(tokenizer)
    if len(found) > config.vocab_size:
        raise ConfigError(
            f"the tokenizer '{tokenizer}' has {len(found)} tokens, the checkpoint's BERT {config.vocab_size}: it is another one's"
        )
    model.save_pretrained(folder)
    found.save_pretrained(folder)


def _tokenizer(source: str):  # noqa: ANN202 - transformers has no common type of them
    try:
        return text_hf.Config(model=source).load_tokenizer(None)
    except ConfigError as error:
        raise ConfigError(
            f"a checkpoint holds no tokenizer, and '{source}' cannot be loaded: give --tokenizer a local folder that holds the one of "
            "BiomedBERT (PubMedBERT)"
        ) from error
