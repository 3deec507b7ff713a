"""The video encoder of a DeepCORO_CLIP checkpoint as a folder that `towers.video.weights` reads, with an answer for every tensor.

What is taken is MViTv2-S itself, to train on with poolers and heads of here. What the predecessor put on top is named and left out;
`old_model` takes all of it.
"""

import logging
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepcoro.config import ConfigError
from deepcoro.exported import export_encoder
from deepcoro.migration.names import UNKNOWN, by_part
from deepcoro.towers import video_mvit

logger = logging.getLogger(__name__)

BACKBONE = "video_encoder.model."
"""The encoder's tensors, once `module` (which data-parallel training puts into names) is taken out of all names."""

LEFT_OUT = {
    "video_encoder.proj.": "projection of every token with a GELU; never trained by contrastive and multitask runs (W12)",
    "video_encoder.attention_pool.": "pooling of a clip's tokens",
    "video_encoder.aggregator.": "aggregator over clips, which depends on their order",
    "video_encoder.cls_token": "a parameter that nothing reads",
    "text_encoder.": "text encoder and its projection with a GELU; it fits that of the video alone",
    "mil_model.heads.": "heads, which read the projected tokens",
    "mil_model.view_embedding.": "an embedding of view classes; views are angles here",
    "mil_model.": "multi-instance pooling of the projected tokens",
    "captioning_decoder.": "caption decoder over the projected tokens",
    "masked_video_modeling.": "decoder of tokens that were masked after the encoder (W21)",
    "": UNKNOWN,
}
"""Beginning of a name -> what it was, the first that fits."""
STATES = ("video_encoder", "text_encoder", "captioning_decoder", "masked_video_modeling")
PROBE, PROBE_LAYOUT = "linear_probing", "linear probing"


@dataclass(frozen=True)
class OldCheckpoint:
    """The tensors of a checkpoint by name, without `module`, and the numbers beside them."""

    layout: str
    tensors: dict[str, Tensor]
    numbers: dict[str, float]

    @property
    def kind(self) -> str:
        """clip (also of multitask) or linear_probing."""
        return "linear_probing" if self.layout == PROBE_LAYOUT else "clip"

    @property
    def encoder(self) -> dict[str, Tensor]:
        """Names as torchvision has them."""
        return {
            name.removeprefix(BACKBONE): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(BACKBONE)
        }

    def left_out(self) -> dict[str, list[str]]:
        """What they were -> names of tensors that are not taken."""
        found: dict[str, list[str]] = {}
        for name in sorted(self.tensors):
            if not name.startswith(BACKBONE):
                was = next(was for beginning, was in LEFT_OUT.items() if name.startswith(beginning))
                found.setdefault(was, []).append(name)
        return found


def read_old_checkpoint(path: Path) -> OldCheckpoint:
    """Nothing in the file is run. ConfigError for a file of another layout, or one that holds more than plain values."""
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"{path} holds objects besides tensors and plain values, which are not loaded; where it was made, write its tensors alone: "
            "torch.save({key: checkpoint[key] for key in checkpoint if key in ('video_encoder', 'text_encoder', 'linear_probing')}, FILE)"
        ) from error
    states = _states(held) if isinstance(held, Mapping) else {}
    if not states:
        keys = sorted(map(str, held))[:8] if isinstance(held, Mapping) else type(held).__name__
        raise ConfigError(
            f"{path} is no checkpoint of DeepCORO_CLIP: it has neither 'video_encoder' nor 'linear_probing' but {keys}"
        )
    tensors: dict[str, Tensor] = {}
    for state, values in states.items():
        for name, value in values.items():
            whole = name if state == PROBE else f"{state}.{name}"
            tensors[".".join(part for part in whole.split(".") if part != "module")] = value
    numbers = {name: float(value) for name, value in held.items() if isinstance(value, int | float)}
    layout = PROBE_LAYOUT if PROBE in states else "contrastive or multitask"
    return OldCheckpoint(layout, tensors, numbers)


def require_mvit(old: OldCheckpoint, path: Path) -> None:
    """ConfigError for the checkpoint of another encoder."""
    if "conv_proj.weight" not in old.encoder:
        raise ConfigError(
            f"{path} holds no MViT ('{BACKBONE}conv_proj.weight'): r3d and x3d encoders have no counterpart here"
        )


def _states(held: Mapping[str, Any]) -> dict[str, Mapping[str, Tensor]]:
    return {name: held[name] for name in (PROBE, *STATES) if isinstance(held.get(name), Mapping)}


def import_encoder(
    path: Path,
    folder: Path,
    pixel_constants: tuple[float, float] | None,
    encoder: video_mvit.Config = video_mvit.Config(),  # noqa: B008 - frozen
    shape: tuple[int, int] = (16, 224),
) -> str:
    """Writes `folder` and says what became of every tensor. `shape`: frames and size in pixels.

    ConfigError when the checkpoint's encoder is not of this kind, lacks a tensor, or the folder exists.
    """
    old = read_old_checkpoint(path)
    require_mvit(old, path)
    tower = encoder.build(*shape)
    own = tower.state_dict()
    taken = {name: tensor for name, tensor in old.encoder.items() if name in own}
    missing = sorted(own.keys() - taken.keys())
    if missing:
        raise ConfigError(
            f"{path} lacks {len(missing)} of the encoder's {len(own)} tensors, the first '{missing[0]}'"
        )
    tower.load_weights(taken, source=path.name)
    provenance = {"imported_from": "DeepCORO_CLIP", "file": path.name, "layout": old.layout}
    export_encoder(tower, folder, pixel_constants, provenance)
    unused = sorted(old.encoder.keys() - own.keys())
    return _report(old, len(taken), unused, pixel_constants)


def _report(
    old: OldCheckpoint, num_taken: int, unused: list[str], pixel_constants: tuple[float, float] | None
) -> str:
    lines = [
        f"layout: {old.layout}; {len(old.tensors)} tensors",
        f"used: {num_taken}, all of {BACKBONE}* that this encoder has; missing: 0",
        f"of the encoder and unused: {len(unused)}{': ' if unused else ''}{', '.join(unused)}",
        "left out of an encoder:",
    ]
    for was, names in old.left_out().items():
        lines.append(f"  {len(names)} tensors, {was}: {by_part(names)}")
    if pixel_constants is None:
        lines.append(
            "grey levels: unknown; give --config OLD.yaml or --pixel_mean and --pixel_std, which the encoder was trained with"
        )
    else:
        lines.append("grey levels: mean {:.4f}, std {:.4f}".format(*pixel_constants))
    lines.append(
        "tokens of the encoder are the original's; for its scores take the whole model (--run_dir), else heads, pooling and projections have "
        "to be trained here"
    )
    return "\n".join(lines)
