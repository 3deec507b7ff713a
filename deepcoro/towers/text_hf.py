"""Reports -> one feature a text: any Hugging Face encoder, or a small one with a vocabulary of its own, made offline."""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from einops import repeat
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from deepcoro.atomic import whole_folder
from deepcoro.config import Block, ConfigError

log = logging.getLogger(__name__)

PAD, UNKNOWN, CLASS, SEPARATOR, MASK = SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTINUING = "##"
PRINTABLE = [chr(code) for code in range(ord("!"), ord("~") + 1)]

_OF_A_FILE = {"_name_or_path", "architectures", "transformers_version", "auto_map", "dtype", "torch_dtype"}
"""What a configuration says of the file it was read from."""
_WITH_MASK_OF_PAIRS = {("bert", "sdpa"), ("roberta", "sdpa")}
"""Encoders and kernels that transformers hides the same pairs of tokens from in every layer, and whose mask it takes made."""


class TextTower(nn.Module):
    """A text encoder whose lowest parts may be frozen; `tokenizer` is the one its words belong to."""

    def __init__(
        self, encoder: nn.Module, tokenizer: Any, pooling: Literal["cls", "mean"], freeze_ratio: float
    ):
        super().__init__()
        # no loss reaches BERT's pooler, and a parameter without gradient stops data-parallel training
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.pooling = pooling
        kind = (encoder.config.model_type, encoder.config._attn_implementation)
        self._takes_mask_of_pairs = kind in _WITH_MASK_OF_PAIRS
        self.dim: int = encoder.config.hidden_size
        self.max_tokens: int = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
        self.freeze(freeze_ratio)
        self.train()

    def forward(
        self, input_ids: Int[Tensor, "text token"], attention_mask: Int[Tensor, "text token"]
    ) -> Float[Tensor, "text {self.dim}"]:
        """The class token, or the mean of the attended tokens. ConfigError for a text longer than the encoder's positions."""
        if input_ids.shape[1] > self.max_tokens:
            raise ConfigError(
                f"a text has {input_ids.shape[1]} tokens, the text tower takes {self.max_tokens}; "
                f"set data.fields.report.max_tokens to {self.max_tokens} or less"
            )
        mask = self._mask_of_pairs(attention_mask) if self._takes_mask_of_pairs else attention_mask
        tokens = self.encoder(input_ids=input_ids, attention_mask=mask).last_hidden_state
        if self.pooling == "cls":
            return tokens[:, 0]
        attended = attention_mask[..., None].to(tokens.dtype)
        return (tokens * attended).sum(dim=1) / attended.sum(dim=1).clamp(min=1)

    def _mask_of_pairs(self, attention_mask: Int[Tensor, "text token"]) -> Bool[Tensor, "text 1 query token"]:
        """What transformers makes of the mask, which asks the device on the way whether any token is hidden, and waits for it."""
        shown = attention_mask.bool()
        return repeat(shown, "text token -> text 1 query token", query=shown.shape[1])

    def freeze(self, ratio: float) -> None:
        """From now on the lowest parts, and only these, have no gradient and stay in evaluation; `ratio` as text_freeze_ratio."""
        self.frozen = _lowest_parts(self.encoder, ratio)
        self.requires_grad_(True)
        for part in self.frozen:
            part.requires_grad_(False)
        self.train(self.training)

    def parameter_layers(self) -> dict[str, int]:
        """Layer of each parameter from the bottom: 0 the embeddings, then the blocks; the last holds whatever lies above them."""
        parts = _parts(self.encoder)
        layer_of = {id(each): number for number, part in enumerate(parts) for each in part.parameters()}
        return {name: layer_of.get(id(each), len(parts)) for name, each in self.named_parameters()}

    def train(self, mode: bool = True) -> "TextTower":
        """Frozen parts stay in evaluation: dropout in them would be noise that nothing learns to bear."""
        super().train(mode)
        for part in self.frozen:
            part.eval()
        return self


def _lowest_parts(encoder: nn.Module, ratio: float) -> list[nn.Module]:
    """floor(ratio * (embeddings + blocks)) parts from the bottom; with all of them, the whole encoder."""
    parts = _parts(encoder)
    # 0.29 * 100 is 28.999...: rounded first, a ratio means what it says
    num_frozen = math.floor(round(ratio * len(parts), 6))
    return [encoder] if num_frozen == len(parts) else parts[:num_frozen]


def _parts(encoder: nn.Module) -> list[nn.Module]:
    """Embeddings and blocks, from the bottom."""
    num_blocks = encoder.config.num_hidden_layers
    stacks = (
        each for each in encoder.modules() if isinstance(each, nn.ModuleList) and len(each) == num_blocks
    )
    embeddings = getattr(encoder, "embeddings", None) or encoder.get_input_embeddings()
    return [embeddings, *next(stacks)]


def train_tokenizer(texts: Iterable[str], vocabulary_size: int, max_tokens: int) -> Any:
    """A lower-case WordPiece tokenizer of the texts' most frequent words; the same texts in any order give the same ids.

    Digits part from letters and signs (`70%` -> `70`, `%`), so a number is one word with its unit beside it. Every printable
    ASCII character is in the vocabulary, alone and inside a word: a word or number never seen is spelled, not lost.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Digits(individual_digits=False)]
    )
    words = Counter(
        word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))
    )
    if not words:
        raise ConfigError(
            "towers.text.from_scratch has no training report to take words from; give a data set with reports"
        )
    # the library's own trainer breaks ties by hash order, so two runs would not share ids
    frequent = sorted(words, key=lambda word: (-words[word], word))
    spelling = [*PRINTABLE, *(CONTINUING + character for character in PRINTABLE)]
    vocabulary = list(dict.fromkeys([*SPECIAL_TOKENS, *spelling, *frequent]))[:vocabulary_size]
    ids = {token: number for number, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token=UNKNOWN, continuing_subword_prefix=CONTINUING))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLASS} $A {SEPARATOR}", special_tokens=[(token, ids[token]) for token in (CLASS, SEPARATOR)]
    )
    log.info("text tower from scratch: %d words in the texts, %d tokens kept", len(words), len(ids))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        cls_token=CLASS,
        sep_token=SEPARATOR,
        mask_token=MASK,
        model_max_length=max_tokens,
    )


class FromScratch(Block):
    """A small BERT with random weights and a vocabulary of the training reports: needs no download."""

    hidden_size: int = Field(128, gt=0)
    """Width of the tokens."""
    layers: int = Field(2, gt=0)
    """Transformer blocks."""
    heads: int = Field(4, gt=0)
    """Attention heads; a divisor of hidden_size."""
    max_tokens: int = Field(256, gt=2)
    """Positions: the longest text in tokens."""
    vocabulary_size: int = Field(4096, ge=len(SPECIAL_TOKENS) + 2 * len(PRINTABLE))
    """Most tokens kept: special ones, characters, then words by frequency."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout of tokens and of attention."""

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> "FromScratch":
        if self.hidden_size % self.heads:
            raise ValueError(f"heads {self.heads} does not divide hidden_size {self.hidden_size}")
        return self

    def build(self, num_tokens: int, attention: str) -> nn.Module:
        from transformers import BertConfig, BertModel

        config = BertConfig(
            vocab_size=num_tokens,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            intermediate_size=4 * self.hidden_size,
            max_position_embeddings=self.max_tokens,
            hidden_dropout_prob=self.dropout,
            attention_probs_dropout_prob=self.dropout,
            pad_token_id=0,
            attn_implementation=attention,
        )
        return BertModel(config, add_pooling_layer=False)


class Config(Block):
    """A Hugging Face text encoder (BERT, RoBERTa, DistilBERT, ModernBERT, ...)."""

    type: Literal["text_hf"] = "text_hf"
    """Which text tower this is."""
    model: str = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract-fulltext"
    """Name on the Hugging Face hub, or a local folder with config.json, tokenizer and weights."""
    from_scratch: FromScratch | None = None
    """A small encoder with random weights in place of `model`; its tokenizer is trained on the training reports."""
    architecture: dict[str, Any] | None = None
    """Hugging Face configuration of the encoder (`model_type` and what differs from its defaults), for weights that come from elsewhere:
    `model` is then not fetched. tools/export_model.py writes it; a training run leaves it unset."""
    text_freeze_ratio: float = Field(0.0, ge=0, le=1)
    """Fraction FROZEN: floor(ratio * (embeddings + blocks)) parts from the bottom; 0.8 freezes 80 %, 1 everything."""
    cache_features: bool = False
    """With everything frozen: embed each distinct training text once, keep the features in run_dir/text_features, and train without
    running the tower."""
    pooling: Literal["cls", "mean"] = "cls"
    """What stands for the text: its class token, or the mean of its tokens."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """Attention kernel, by its name in transformers."""

    @model_validator(mode="after")
    def _random_weights_are_not_frozen(self) -> "Config":
        if self.from_scratch and self.text_freeze_ratio:
            raise ValueError(
                f"text_freeze_ratio {self.text_freeze_ratio} would freeze random weights; with from_scratch it has to be 0"
            )
        return self

    @model_validator(mode="after")
    def _only_frozen_features_are_kept(self) -> "Config":
        if self.cache_features and self.text_freeze_ratio < 1:
            raise ValueError(
                f"cache_features needs text_freeze_ratio 1, it is {self.text_freeze_ratio}: what trains changes its features"
            )
        return self

    def make_tokenizer(self, texts: Iterable[str], folder: Path) -> None:
        """Writes the tokenizer to `folder`, whole or not at all: trained on `texts` when from_scratch, else the model's own.

        For one rank, once a run; ConfigError when the model cannot be had.
        """
        if self.from_scratch:
            tokenizer = train_tokenizer(
                texts, self.from_scratch.vocabulary_size, self.from_scratch.max_tokens
            )
        else:
            tokenizer = self.load_tokenizer(None)
        with whole_folder(folder) as unfinished:
            tokenizer.save_pretrained(unfinished)

    def load_tokenizer(self, folder: Path | None) -> Any:
        """The tokenizer that `make_tokenizer` wrote to `folder`; where there is none, the model's own."""
        from transformers import AutoTokenizer, PreTrainedTokenizerFast

        if folder is not None and folder.is_dir():
            loader = PreTrainedTokenizerFast if self.from_scratch else AutoTokenizer
            return loader.from_pretrained(folder, local_files_only=True)
        if self.from_scratch:
            raise ConfigError(
                "towers.text.from_scratch has no tokenizer in run_dir/tokenizer; train first, or give the run_dir that did",
                topic="text-tower-offline",
            )
        return self._from_hub(AutoTokenizer.from_pretrained)

    def build(self, tokenizer: Any) -> TextTower:
        """The tower with the model's weights (random ones when from_scratch), fp32. ConfigError when they cannot be had."""
        if self.from_scratch:
            encoder = self.from_scratch.build(len(tokenizer), self.attention)
        elif self.architecture:
            encoder = self._of_architecture()
        else:
            from transformers import AutoModel
            from transformers.integrations import unset_hf_deepspeed_config

            # accelerate tells transformers of ZeRO-3, and weights would come divided before there is an engine to gather them
            unset_hf_deepspeed_config()
            encoder = self._from_hub(
                AutoModel.from_pretrained, dtype=torch.float32, attn_implementation=self.attention
            )
        return TextTower(encoder, tokenizer, self.pooling, self.text_freeze_ratio)

    def _of_architecture(self) -> nn.Module:
        from transformers import AutoConfig, AutoModel

        config = AutoConfig.for_model(**self.architecture)
        return AutoModel.from_config(config, dtype=torch.float32, attn_implementation=self.attention)

    def standalone(self) -> "Config":
        """The same tower for weights that are at hand: it builds without `model`, which may be a folder of this machine or out of reach.

        ConfigError when the model's configuration cannot be had.
        """
        if self.from_scratch or self.architecture:
            return self.model_copy(update={"model": Path(self.model).name})
        from transformers import AutoConfig

        found = self._from_hub(AutoConfig.from_pretrained).to_diff_dict()
        architecture = {key: value for key, value in found.items() if key not in _OF_A_FILE}
        return self.model_copy(update={"model": Path(self.model).name, "architecture": architecture})

    def _from_hub(self, load: Callable[..., Any], **settings: Any) -> Any:
        # this machine's files first: an unreachable hub costs half a minute of retries, and a cached model need not ask it
        for local_only in (True, False):
            try:
                return load(self.model, local_files_only=local_only, **settings)
            except (OSError, ValueError) as error:
                failure = error
        raise ConfigError(
            f"towers.text.model = '{self.model}' cannot be loaded ({_first_sentence(failure)}); point towers.text.model to a "
            "local folder that holds config.json, tokenizer and weights (`hf download MODEL --local-dir FOLDER` on a "
            "machine with network makes one), or set towers.text.from_scratch",
            topic="text-tower-offline",
        ) from failure


def _first_sentence(error: Exception) -> str:
    return str(error).strip().split("\n")[0].split(". ")[0]
