"""Reports written from the video: a decoder over the un-pooled tokens of a study's clips, causal and parallel, with task prefixes.

LocCa (Wan et al. 2024, arXiv:2403.19596) with parallel prediction as in CapPa (Tschannen et al. 2023, arXiv:2306.07915); the tasks
and their tokens come from the field `caption`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from deepcoro.captioning.decoder import CaptionDecoder, DecoderShape
from deepcoro.captioning.generation import CachedWriter, Generation, Script, write_captions
from deepcoro.captioning.tasks import CaptionWords
from deepcoro.config import Block, ConfigError
from deepcoro.features import Features, Surroundings
from deepcoro.fields.caption import IGNORED
from deepcoro.kernels.fused_cross_entropy import LinearCrossEntropy


class Captioning(nn.Module):
    """Cross-entropy of every token that is to be predicted; owns the decoder."""

    reads = frozenset({"clips"})

    def __init__(self, config: "Config", beside: Surroundings):
        super().__init__()
        self.config = config
        self.words = CaptionWords(beside.tokenizer)
        self.decoder = CaptionDecoder(
            config.shape(beside, self.words), LinearCrossEntropy(IGNORED, config.label_smoothing)
        )

    def forward(self, features: Features, batch: Mapping[str, Any]) -> dict[str, Float[Tensor, "1"]]:
        """`sum` is this rank's share; `accuracy` that of the next word where all before it are right (in parallel prediction: unseen)."""
        caption, targets = batch["caption"], targets_of(batch)
        is_parallel = caption["chance"] < self.config.parallel_fraction
        ids = caption["input_ids"].masked_fill(is_parallel & _answers(caption), self.words.mask)
        video = (features.clips.tokens, features.clips.clip_mask)
        total, hits = self.decoder(ids, caption["position"], _visible(caption, is_parallel), targets, video)
        count = (targets != IGNORED).sum().clamp(min=1)
        return {"sum": total, "accuracy": hits / count}

    def count(self, batch: Mapping[str, Any]) -> Int[Tensor, "1"]:
        """Tokens to be predicted of this rank's valid rows, from the batch alone."""
        return (targets_of(batch) != IGNORED).sum().reshape(1)

    @torch.no_grad()
    def evaluate(self, features: Features, batch: Mapping[str, Any]) -> dict[str, Int[Tensor, "row word"]]:
        """The report as the decoder would write it: `tokens`, ids of the text tower's tokenizer up to and with its end, then pads."""
        return {"tokens": self.write(features, batch["unit"].tolist(), self.words.prefix("report"))}

    def write(self, features: Features, units: list[int], prefix: list[int]) -> Int[Tensor, "row word"]:
        """What the decoder writes after a prefix (`words.prefix(task, question)`), for every row."""
        settings, clips = self.config.generation, features.clips
        rows, device = len(units), clips.tokens.device
        room = self.decoder.shape.max_tokens - len(prefix)
        length = min(settings.max_new_tokens or room, room)
        lines = rows * settings.num_beams if settings.method == "beam" else rows
        reading = self.decoder.read(clips.tokens, clips.clip_mask)
        writer = CachedWriter(self.decoder, reading, len(prefix) + length)
        script = Script(lines, length, self.words.end, self.words.pad, device)
        start = torch.tensor([prefix] * rows, device=device)
        return write_captions(writer, start, script, settings, units)


def targets_of(batch: Mapping[str, Any]) -> Int[Tensor, "row token"]:
    """What is to be predicted; nothing of a sample that could not be read."""
    return batch["caption"]["targets"].masked_fill(~batch["valid"][:, None], IGNORED)


def _answers(caption: Mapping[str, Tensor]) -> Bool[Tensor, "row token"]:
    """Inputs that are themselves predicted, one place before: not the prefix."""
    predicted = functional.pad(caption["targets"][:, :-1] != IGNORED, (1, 0))
    return predicted & (caption["position"] > 0)


def _visible(
    caption: Mapping[str, Tensor], is_parallel: Bool[Tensor, "row token"]
) -> Bool[Tensor, "row token token"]:
    """Who sees whom: tokens of the same sequence, those before and itself, all of them in parallel prediction. Padding sees padding."""
    sequence = caption["sequence"]
    before = torch.ones(sequence.shape[1], sequence.shape[1], dtype=torch.bool, device=sequence.device).tril()
    return (sequence[:, :, None] == sequence[:, None, :]) & (before | is_parallel[:, :, None])


class Config(Block):
    """Writing the report, the finding of a segment and the place of a finding."""

    type: Literal["captioning"] = "captioning"
    """Which objective this is."""
    reads_text: ClassVar[bool] = True
    reads_tokens: ClassVar[bool] = True
    decoder_layers: int = Field(6, ge=1)
    """Blocks of the decoder; half as many as the text tower has is usual (LocCa)."""
    decoder_heads: int = Field(8, ge=1)
    """Attention heads; a divisor of decoder_dim."""
    decoder_dim: int | None = Field(None, ge=1)
    """Width of the decoder; unset = the text tower's."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout of embeddings and of what each block adds."""
    tie_weights: bool = True
    """Whether the output layer is the table of word embeddings; false learns one of its own."""
    parallel_fraction: float = Field(0.5, ge=0, le=1)
    """Share of sequences that are predicted all words at once from masks, without seeing the words before: the video has to tell
    them. 0 = causal only."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the target that is spread evenly over the vocabulary."""
    generation: Generation = Generation()
    """How captions are written in evaluation."""

    def needed_fields(self) -> dict[str, dict]:
        """What `data.fields` has whether it is named or not."""
        return {"caption": {}}

    def shape(self, beside: Surroundings, words: CaptionWords) -> DecoderShape:
        """Raises ConfigError when the run gives the decoder nothing to write, or heads that do not divide its width."""
        if beside.caption_tokens is None:
            raise ConfigError(
                "the captioning objective needs the field 'caption'; add data.fields.caption: {}"
            )
        dim = self.decoder_dim or beside.text_dim
        if dim % self.decoder_heads:
            raise ConfigError(
                f"objectives.captioning.decoder_heads {self.decoder_heads} does not divide the decoder's width {dim}; "
                "choose another number, or set decoder_dim"
            )
        return DecoderShape(
            layers=self.decoder_layers,
            heads=self.decoder_heads,
            dim=dim,
            video_dim=beside.video_dim,
            num_ids=words.num_ids,
            num_words=words.num_words,
            max_tokens=beside.caption_tokens,
            dropout=self.dropout,
            tie_weights=self.tie_weights,
        )

    def best_metric(self, name: str) -> tuple[str, str]:
        """CIDEr-D of the words, which every report has; findings are read of those in the grammar alone."""
        return "captioning/cider_d", "max"

    def build(self, beside: Surroundings) -> Captioning:
        return Captioning(self, beside)
