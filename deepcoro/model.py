"""VideoTextModel: the one module accelerate wraps. It runs each tower once and hands the features to every objective."""

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor, nn

from deepcoro.features import Features, Surroundings, VideoFeatures, scatter_clips
from deepcoro.fields.report import buckets_of
from deepcoro.gradient_cache import surrogate
from deepcoro.normalisation import PixelNormalisation
from deepcoro.run_config import RunConfig

Batch = dict[str, Any]


class VideoTextModel(nn.Module):
    """Towers, pooler and objectives behind one forward; every objective runs on every rank, masked where it has no target."""

    def __init__(
        self,
        config: RunConfig,
        tokenizer: Any,
        pixel_mean: float,
        pixel_std: float,
        label_counts: Mapping[str, Mapping[float, int]] = MappingProxyType({}),
    ):
        """`label_counts`: as in Surroundings. Without `towers.text` there is no text tower and no tokenizer."""
        super().__init__()
        video = config.data.fields["video"]
        self.precision = config.precision
        self.clips_per_chunk = config.clips_per_chunk
        self.augment = config.augment.build(config.seed)
        self.normalisation = PixelNormalisation(pixel_mean, pixel_std)
        self.towers = nn.ModuleDict({"video": config.towers.video.build(video.frames, video.size_px)})
        if config.towers.text is not None:
            self.towers["text"] = config.towers.text.build(tokenizer)
        self.pooler = config.pooler.build(self.towers["video"].dim)
        beside = Surroundings(
            video_dim=self.towers["video"].dim,
            text_dim=self.towers["text"].dim if "text" in self.towers else None,
            tokenizer=tokenizer,
            frames=video.frames,
            size_px=video.size_px,
            video_tower=self.towers["video"],
            clips_per_chunk=config.clips_per_chunk,
            caption_tokens=getattr(config.data.fields.get("caption"), "max_tokens", None),
            label_counts=label_counts,
            pooled_dim=self.pooler.dim,
        )
        self.objectives = nn.ModuleDict(
            {name: objective.build(beside) for name, objective in config.objectives.items()}
        )

    def forward(
        self,
        batch: Batch,
        task: Literal["losses", "embed", "features", "evaluate", "pictures"] = "losses",
        active: Collection[str] | None = None,
        cached: Mapping[str, dict] = MappingProxyType({}),
        each_clip: bool = False,
    ) -> dict[str, Any]:
        """`losses`: {objective: {"sum": this rank's share, ...metrics}} of the `active` objectives (None = all), where one with `cached`
        gradients of its embeddings gives {"surrogate": <embeddings, gradients>} instead; `embed`: {objective: what its `loss_of`
        takes}; `features`: what embeds `video` rows and `text` rows; `evaluate`: `features` of the films, and what the
        active objectives that have an `evaluate` say of each row, as `objective/number`, with `each_clip` also `clip_embedding`
        [row, clip, embedding], `clip_mask` and, where the pooler weighs clips, `clip_weight`; `pictures`: bytes [clip, frame, height,
        width] of those that draw.

        In training mode films are augmented first. A batch without `video` or without `report` gives the features of the other
        alone (prompts have no film). One decode, one dense pass and one sparse pass serve all objectives.
        """
        if self.training and "video" in batch:
            batch = batch | {"video": self.augment(batch["video"], batch["clip_mask"], batch["position"])}
        if task == "features":
            return self._joint_embeddings(self._features(batch, {"study", "text"}))
        if task == "evaluate":
            return self._evaluate(batch, active, each_clip)
        if task == "pictures":
            return self._pictures(batch)
        chosen = {name: each for name, each in self.objectives.items() if active is None or name in active}
        features = self._features(batch, set().union(*(each.reads for each in chosen.values())), chosen)
        with self._autocast():
            if task == "embed":
                return {name: each(features, batch, embed_only=True) for name, each in chosen.items()}
            return {
                name: (
                    {"surrogate": surrogate(objective(features, batch, embed_only=True), cached[name])}
                    if name in cached
                    else objective(features, batch)
                )
                for name, objective in chosen.items()
            }

    def _evaluate(
        self, batch: Batch, active: Collection[str] | None, each_clip: bool
    ) -> dict[str, Float[Tensor, "row ..."]]:
        chosen = {
            name: each
            for name, each in self.objectives.items()
            if hasattr(each, "evaluate") and (active is None or name in active)
        }
        reads = set().union({"study"}, *(each.reads for each in chosen.values())) - {"text"}
        features = self._features(batch, reads, chosen)
        with self._autocast():
            rows = {
                f"{name}/{key}": value
                for name, objective in chosen.items()
                for key, value in objective.evaluate(features, batch).items()
            }
        rows |= self._each_clip(features.clips, batch.get("views")) if each_clip else {}
        return self._joint_embeddings(features) | rows

    def _each_clip(
        self, clips: VideoFeatures, views: Float[Tensor, "row clip 2"] | None
    ) -> dict[str, Shaped[Tensor, "row clip ..."]]:
        """The embedding of every clip as if it were its study's only one, and what the pooler weighs it with among the others."""
        alone = replace(
            clips,
            tokens=rearrange(clips.tokens, "study clip token dim -> (study clip) 1 token dim"),
            clip_mask=rearrange(clips.clip_mask, "study clip -> (study clip) 1"),
        )
        own_views = None if views is None else rearrange(views, "study clip angle -> (study clip) 1 angle")
        with self._autocast():
            embedded = self._joint_embeddings(Features(study=self.pooler(alone, own_views)))["video"]
            found = {
                "clip_embedding": rearrange(
                    embedded, "(row clip) dim -> row clip dim", row=len(clips.clip_mask)
                )
            }
            if self.pooler.weighs_clips:
                found["clip_weight"] = self.pooler.clip_weights(clips, views)
        return found | {"clip_mask": clips.clip_mask}

    def _pictures(self, batch: Batch) -> dict[str, dict[str, UInt8[Tensor, "clip frame height width"]]]:
        chosen = {name: each for name, each in self.objectives.items() if hasattr(each, "pictures")}
        features = self._features(batch, set().union(*(each.reads for each in chosen.values())), chosen)
        with self._autocast():
            return {
                name: {
                    key: self.normalisation.to_bytes(film)
                    for key, film in objective.pictures(features, batch).items()
                }
                for name, objective in chosen.items()
            }

    def _features(
        self, batch: Batch, reads: Collection[str], objectives: Mapping[str, nn.Module] | None = None
    ) -> Features:
        """Runs each pass that is read, once. The sparse one last: what it draws then leaves dropout in the others as it is without."""
        found: dict[str, Any] = {}
        with self._autocast():
            if "video" in batch:
                found["video"] = self.normalisation(batch["video"])
            if {"study", "clips"} & set(reads) and ("video" in batch or "video_features" in batch):
                found["clips"] = self._clips(batch, found.get("video"))
                found["study"] = self.pooler(found["clips"], batch.get("views"))
            if "report" in batch and "text" in reads:
                found["text"] = self._embed_texts(batch["report"])
            if "visible" in reads and "video" in found:
                # several would each draw their own mask; the config allows one
                (masking,) = (each for each in objectives.values() if "visible" in each.reads)
                found["shown"] = masking.shown_units(batch, len(found["video"]))
                found["visible"] = self._encode(batch, found["video"], found["shown"])
        return Features(**found)

    def clip_features(self, batch: Batch) -> VideoFeatures:
        """What the tower makes of the films of a batch, nothing else."""
        with self._autocast():
            return self._encode(batch, self.normalisation(batch["video"]))

    def _clips(self, batch: Batch, video: Tensor | None) -> VideoFeatures:
        """Of a frozen tower whose features are stored, without running it on any rank."""
        if video is not None:
            return self._encode(batch, video)
        mask = batch["clip_mask"]
        tokens = scatter_clips(batch["video_features"], mask)
        return VideoFeatures(tokens, mask, self.towers["video"].has_class_token)

    def _encode(self, batch: Batch, video: Tensor, shown: Tensor | None = None) -> VideoFeatures:
        part = () if shown is None else (shown,)  # a tower without a sparse path is never asked for one
        return self.towers["video"].features(video, batch["clip_mask"], self.clips_per_chunk, *part)

    def _embed_texts(self, report: dict[str, Any]) -> Float[Tensor, "text dim"]:
        """One call of the tower a bucket of lengths; as many on every rank."""
        if "features" in report:  # of a frozen tower, which then runs on no rank
            return report["features"]
        ids, mask, start, features = report["input_ids"], report["attention_mask"], 0, []
        for end, longest in buckets_of(report):
            features.append(self.towers["text"](ids[start:end, :longest], mask[start:end, :longest]))
            start = end
        return torch.cat(features)

    def _joint_embeddings(self, features: Features) -> dict[str, Float[Tensor, "row embedding"]]:
        """Unit vectors of the contrastive space; without a contrastive objective the pooled features themselves."""
        space = next((each for each in self.objectives.values() if hasattr(each, "embed_video")), None)
        found = {"video": features.study, "text": features.text}
        embed = {"video": getattr(space, "embed_video", None), "text": getattr(space, "embed_text", None)}
        return {
            name: feature if space is None else embed[name](feature)
            for name, feature in found.items()
            if feature is not None
        }

    def _autocast(self) -> contextlib.AbstractContextManager:
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.normalisation.mean.device.type, dtype=torch.bfloat16)


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch's tensors on the device. On a GPU a stream of its own copies them, beside the compute that is still under way, and from pinned
    memory without the host's waiting.
    """
    if isinstance(batch, Tensor):
        return _copied(batch, device)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    return batch


def _copied(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type != "cuda":
        return tensor.to(device)
    copying, computing = _copy_stream(device), torch.cuda.current_stream(device)
    with torch.cuda.stream(copying):
        copy = tensor.to(device, non_blocking=True)
    computing.wait_stream(copying)
    copy.record_stream(computing)  # its memory is the other stream's, which must not give it away before
    return copy


@lru_cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def soon_on(small: Tensor, device: torch.device) -> Tensor:
    """A tensor made on the host, on the device; the host does not wait for the copy, which pageable memory would make it do."""
    return small.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else small.to(device)


def num_parameters(model: nn.Module) -> dict[str, int]:
    """Parameters by tower and head, and how many of all train."""
    counts = {
        name: sum(parameter.numel() for parameter in module.parameters())
        for name, module in [*model.towers.items(), *model.objectives.items()]
    }
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return counts | {"trainable": trainable}
