"""A split through the model, on all ranks, each sample exactly once: embeddings of films and of distinct texts."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from rich.progress import track
from torch import Tensor, nn

from deepcoro import distributed
from deepcoro.build import Parts
from deepcoro.captions import decode_captions
from deepcoro.data.damage import unreadable_of_split
from deepcoro.data.stream import EvaluationStream
from deepcoro.data.units import Units
from deepcoro.evaluated import Evaluated, Head, TrainingReports
from deepcoro.facts import Agreed, Facts, facts_of, label_columns, labels_of_row
from deepcoro.label_means import means_of_groups, numeric_labels
from deepcoro.model import to_device
from deepcoro.run_config import RunConfig
from deepcoro.sample import StudyRecord, text_id

TEXTS_PER_BATCH = 64


@dataclass(frozen=True)
class Wanted:
    """What is asked of a split besides its films and texts."""

    prompts: Sequence[str] = ()
    """Sentences to embed."""
    training_reports: Literal["none", "beside_captions", "always"] = "none"
    """When reports of the train split come with it."""
    active: Sequence[str] | None = None
    """Objectives that say something of each row; None = all that can."""
    each_clip: bool = False
    """`rows` have the `clip_embedding`, `clip_mask` and `clip_weight` of the model's forward."""


@torch.no_grad()
def embed_split(
    model: nn.Module,
    config: RunConfig,
    parts: Parts,
    split: str,
    wanted: Wanted = Wanted(),  # noqa: B008 - frozen
) -> Evaluated:
    """The whole split; the same on every rank. Collective. Leaves the model in evaluation mode."""
    model.eval()
    units = parts.shards.units(split, config.data.multi_video, config.data.num_videos)
    seen, rows, unreadable = _embed_films(model, config, parts, units, wanted)
    captions = captions_of(rows, parts.tokenizer)
    facts, drawn = None, None
    if distributed.rank() == 0:
        facts = facts_of_units(parts, units, seen)
        draws = wanted.training_reports == "always" or (captions and wanted.training_reports != "none")
        drawn = _training_reports(config, parts) if draws else None
    facts, drawn = distributed.broadcast_object((facts, drawn))
    prompts = list(wanted.prompts)
    training_texts = list(drawn.texts) if drawn else []
    embedded = embed_texts(model, config, parts.tokenizer, [*facts.texts, *prompts, *training_texts])
    num_texts, num_prompts, numbers = len(facts.texts), len(prompts), seen.tolist()
    return Evaluated(
        split=split,
        units=seen,
        clips=[units.name(unit) for unit in numbers],
        studies=[units.study_id(unit) for unit in numbers],
        patients=[units.patient(unit) for unit in numbers],
        films=rows.pop("video"),
        rows=rows,
        heads=told_heads(config),
        texts=facts.texts,
        text_embeddings=embedded[:num_texts],
        text_of_film=facts.text_of_row,
        labels=facts.labels,
        prompts=dict(zip(prompts, embedded[num_texts : num_texts + num_prompts], strict=True)),
        captions=captions,
        training=drawn and replace(drawn, embeddings=embedded[num_texts + num_prompts :]),
        unreadable=unreadable,
    )


@torch.no_grad()
def embed_reports(model: nn.Module, config: RunConfig, parts: Parts, split: str) -> Evaluated:
    """The distinct reports of a split and whose they are; no film is read (`films` has width 0). The same on every rank. Collective."""
    model.eval()
    units = parts.shards.units(split, config.data.multi_video, config.data.num_videos)
    numbers = range(len(units))
    facts = facts_of_units(parts, units, np.arange(len(units))) if distributed.rank() == 0 else None
    facts = distributed.broadcast_object(facts)
    return Evaluated(
        split=split,
        units=np.arange(len(units)),
        clips=[units.name(unit) for unit in numbers],
        studies=[units.study_id(unit) for unit in numbers],
        patients=[units.patient(unit) for unit in numbers],
        films=np.zeros((len(units), 0), np.float32),
        texts=facts.texts,
        text_embeddings=embed_texts(model, config, parts.tokenizer, facts.texts),
        text_of_film=facts.text_of_row,
        labels=facts.labels,
        prompts={},
    )


def _embed_films(
    model: nn.Module,
    config: RunConfig,
    parts: Parts,
    units: Units,
    wanted: Wanted,
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, str]]:
    """Units in ascending order and what the model says of each, without padding; those that could not be read apart, and why."""
    device = next(model.parameters()).device
    fields = {name: field for name, field in parts.fields.items() if name != "report"}
    rank, world_size = distributed.rank(), distributed.world_size()
    batches = EvaluationStream(
        parts.shards, units, fields, config.evaluation_batch_size, rank, world_size, config.data.workers
    )
    seen: list[Tensor] = []
    said: dict[str, list[Tensor]] = {}
    for batch in _progress(batches, f"embed {units.split}", len(batches)):
        seen.append(torch.where(batch["valid"], batch["unit"], -1))
        said_of_batch = model(
            to_device(batch, device), task="evaluate", active=wanted.active, each_clip=wanted.each_clip
        )
        for name, rows in said_of_batch.items():
            said.setdefault(name, []).append(rows.float() if rows.is_floating_point() else rows)
    unreadable = unreadable_of_split(batches.bad, len(units), config.data.max_bad_fraction)
    unit_of_row = distributed.gather_rows(torch.cat(seen).to(device)).cpu().numpy()
    gathered = {name: distributed.gather_rows(torch.cat(each)).cpu().numpy() for name, each in said.items()}
    order = np.argsort(unit_of_row, kind="stable")
    order = order[unit_of_row[order] >= 0]
    return unit_of_row[order], {name: rows[order] for name, rows in gathered.items()}, unreadable


def told_heads(config: RunConfig) -> dict[str, Head]:
    """What heads of the run's objectives say, by `objective/head`."""
    labels = config.data.fields.get("labels")
    return {
        f"{name}/{head}": Head(
            task=objective.task_of(head),
            column=objective.column_of(head),
            num_classes=objective.num_classes(head),
            words=labels.values.get(objective.column_of(head), {}) if labels else {},
        )
        for name, objective in config.objectives.items()
        if objective.type == "linear_probing"
        for head in objective.head_structure
    }


def captions_of(rows: Mapping[str, np.ndarray], tokenizer: Any) -> list[str]:
    """What an objective that writes texts says of each row; [] where none does."""
    name = next((name for name in rows if name.endswith("/tokens")), None)
    return [] if name is None else decode_captions(rows[name], tokenizer)


def embed_texts(model: nn.Module, config: RunConfig, tokenizer: Any, texts: list[str]) -> np.ndarray:
    """Unit vectors [text, dim] in the order of `texts`, the same on every rank. Collective. Width 0 where the model has no space for them."""
    if not any(hasattr(objective, "embed_text") for objective in model.objectives.values()):
        return np.zeros((len(texts), 0), np.float32)
    embedded = encoded_in_shares(
        texts,
        tokenizer,
        config.data.fields["report"].max_tokens,
        next(model.parameters()).device,
        lambda report: model({"report": report}, task="features")["text"],
    )
    return embedded.cpu().numpy()


def encoded_in_shares(
    texts: Sequence[str],
    tokenizer: Any,
    max_tokens: int,
    device: torch.device,
    encode: Callable[[dict[str, Tensor]], Float[Tensor, "text dim"]],
) -> Float[Tensor, "text dim"]:
    """Each rank encodes a contiguous share, in batches that are padded behind the texts as in training; all of them in fp32 on every
    rank, in the order of `texts`. `encode` is given `input_ids` and `attention_mask` [text token]. Collective.
    """
    share = np.array_split(np.arange(len(texts)), distributed.world_size())[distributed.rank()]
    encoded: list[Tensor] = []
    # one batch at least, so that every rank knows the width (and ZeRO's ranks call the tower alike)
    for start in range(0, max(len(share), 1), TEXTS_PER_BATCH):
        chosen = [texts[index] for index in share[start : start + TEXTS_PER_BATCH]]
        tokens = tokenizer(
            chosen or [""],
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=max_tokens,
            return_tensors="pt",
        )
        report = {name: tokens[name].to(device) for name in ("input_ids", "attention_mask")}
        encoded.append(encode(report).float()[: len(chosen)])
    return distributed.gather_rows(torch.cat(encoded))


def facts_of_units(parts: Parts, units: Units, seen: np.ndarray) -> Facts:
    """Texts and labels of the units, out of their JSON members; a field with texts of its own says which is whose."""
    shards = parts.shards
    text_of = getattr(parts.fields.get("report"), "text_of", StudyRecord.report_of)
    agreed = _agreed(parts)
    texts, labels = [], []
    for unit in seen.tolist():
        study, clips = shards.study(int(units.study_row[unit])), units.shown_clips(unit, None)
        texts.append(text_of(study, clips))
        known = labels_of_row(study, clips, bool(units.clip[unit] < 0), agreed)
        source = list(shards.sources)[int(shards.source_of_study(units.study_row[[unit]])[0])]
        labels.append(known | ({"source": source} if len(shards.sources) > 1 else {}))
    return facts_of(texts, labels)


def _agreed(parts: Parts) -> Agreed | None:
    """The rule of the field `labels`; None in a run without it."""
    return getattr(parts.fields.get("labels"), "agreed", None)


def _training_reports(config: RunConfig, parts: Parts) -> TrainingReports | None:
    """Read once a run: they are the same in every evaluation, and records may lie far away."""
    if parts.training_reports is None:
        parts.training_reports = _drawn_training_reports(config, parts)
    return parts.training_reports


def _drawn_training_reports(config: RunConfig, parts: Parts) -> TrainingReports | None:
    """Texts of up to `evaluate.training_reports` training samples drawn by seed, not embedded yet; None without a train split."""
    shards, agreed = parts.shards, _agreed(parts)
    if "train" not in shards.splits or not config.evaluate.training_reports:
        return None
    units = shards.units("train", config.data.multi_video, config.data.num_videos)
    order = np.random.default_rng(config.seed).permutation(len(units))
    texts: dict[int, str] = {}
    rows: dict[int, int] = {}
    counts: dict[str | None, Counter[int]] = {None: Counter()}
    labels: list[dict[str, float | str | None]] = []
    text_of_film: list[int] = []
    for unit in np.sort(order[: config.evaluate.training_reports]).tolist():
        study, clips = shards.study(int(units.study_row[unit])), units.shown_clips(unit, None)
        text = study.report_of(clips)
        if text is None:
            continue
        name = text_id(text)
        texts.setdefault(name, text)
        labels.append(labels_of_row(study, clips, config.data.multi_video, agreed))
        text_of_film.append(rows.setdefault(name, len(rows)))
        for side in {None, labels[-1]["side"]}:
            counts.setdefault(side, Counter())[name] += 1
    if not texts:
        return None
    modal = {side: texts[count.most_common(1)[0][0]] for side, count in counts.items()}
    means = {
        name: means_of_groups(values, np.array(text_of_film), len(texts))
        for name, values in numeric_labels(label_columns(labels)).items()
    }
    return TrainingReports(list(texts.values()), np.zeros((len(texts), 0), np.float32), modal, means)


def _progress(batches: Iterable, description: str, total: int) -> Iterable:
    if distributed.rank() != 0:
        return batches
    return track(batches, description=description, total=total, transient=True)
