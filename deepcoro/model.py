"""VideoTextModel: the one module accelerate wraps. It runs each tower once and hands the features to every objective."""

import contextlib
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from deepcoro.fields.report import buckets_of
from deepcoro.normalisation import PixelNormalisation
from deepcoro.run_config import RunConfig

Batch = dict[str, Any]


class VideoTextModel(nn.Module):
    """Towers, pooler and objectives behind one forward; every objective runs on every rank, masked where it has no target."""

    def __init__(self, config: RunConfig, tokenizer: Any, pixel_mean: float, pixel_std: float):
        super().__init__()
        video = config.data.fields["video"]
        self.precision = config.precision
        self.clips_per_chunk = config.clips_per_chunk
        self.augment = config.augment.build(config.seed)
        self.normalisation = PixelNormalisation(pixel_mean, pixel_std)
        self.towers = nn.ModuleDict(
            {
                "video": config.towers.video.build(video.frames, video.size_px),
                "text": config.towers.text.build(tokenizer),
            }
        )
        self.pooler = config.pooler.build(self.towers["video"].dim)
        self.objectives = nn.ModuleDict(
            {
                name: objective.build(self.towers["video"].dim, self.towers["text"].dim)
                for name, objective in config.objectives.items()
            }
        )

    def forward(self, batch: Batch, task: Literal["losses", "features"] = "losses") -> dict[str, Any]:
        """`losses`: {objective: {"sum": this rank's share, ...metrics}}; `features`: what embeds `video` rows and `text` rows.

        In training mode films are augmented first. A batch without `video` or without `report` gives the features of the other
        alone (prompts have no film).
        """
        if self.training and "video" in batch:
            batch = batch | {"video": self.augment(batch["video"], batch["clip_mask"], batch["position"])}
        features = {}
        with self._autocast():
            if "video" in batch:
                features["video"] = self._embed_studies(batch)
            if "report" in batch:
                features["text"] = self._embed_texts(batch["report"])
        if task == "features":
            return self._joint_embeddings(features)
        return {name: objective(features, batch) for name, objective in self.objectives.items()}

    def _embed_texts(self, report: dict[str, Any]) -> Float[Tensor, "text dim"]:
        """One call of the tower a bucket of lengths; as many on every rank."""
        ids, mask, start, features = report["input_ids"], report["attention_mask"], 0, []
        for end, longest in buckets_of(report):
            features.append(self.towers["text"](ids[start:end, :longest], mask[start:end, :longest]))
            start = end
        return torch.cat(features)

    def _embed_studies(self, batch: Batch) -> Float[Tensor, "study dim"]:
        video = self.normalisation(batch["video"])
        clips = self.towers["video"].features(video, batch["clip_mask"], self.clips_per_chunk)
        return self.pooler(clips.per_video(), clips.clip_mask)

    def _joint_embeddings(self, features: dict[str, Tensor]) -> dict[str, Float[Tensor, "row embedding"]]:
        """Unit vectors of the contrastive space; without a contrastive objective the pooled features themselves."""
        space = next((each for each in self.objectives.values() if hasattr(each, "embed_video")), None)
        if space is None:
            return features
        embed = {"video": space.embed_video, "text": space.embed_text}
        return {name: embed[name](feature) for name, feature in features.items()}

    def _autocast(self) -> contextlib.AbstractContextManager:
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.normalisation.mean.device.type, dtype=torch.bfloat16)


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch's tensors on the device; pinned memory makes the copy run beside the compute."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    return batch


def num_parameters(model: nn.Module) -> dict[str, int]:
    """Parameters by tower and head, and how many of all train."""
    counts = {
        name: sum(parameter.numel() for parameter in module.parameters())
        for name, module in [*model.towers.items(), *model.objectives.items()]
    }
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return counts | {"trainable": trainable}
