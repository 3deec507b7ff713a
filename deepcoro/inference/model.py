"""A trained run as something that answers for studies: no shards, no labels, no launcher."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from deepcoro.build import build_fields, build_metrics
from deepcoro.config import ConfigError, DataError
from deepcoro.data.plan import chosen_clips
from deepcoro.data.stream import BuiltField
from deepcoro.embed import captions_of, embed_texts
from deepcoro.features import gather_clips
from deepcoro.fields.labels import LabelsField
from deepcoro.implied import TEXT_FIELDS
from deepcoro.inference.findings import HeadFindings, findings_without_heads
from deepcoro.inference.left_out import LeftOut, cells_without
from deepcoro.inference.neighbours import Neighbours
from deepcoro.inference.opened import OpenedStudy
from deepcoro.inference.prediction import FilmAnswer, NearReport, Seconds, Skipped, StudyAnswer
from deepcoro.inference.questions import Questions
from deepcoro.inference.trained import open_trained
from deepcoro.ingest.film import Rejection
from deepcoro.model import to_device
from deepcoro.run_config import RunConfig
from deepcoro.sample import patient_digest

logger = logging.getLogger(__name__)

Rows = Sequence[tuple[int, ...]]
"""The clips of a study that each row of the model's batch shows."""


@dataclass(frozen=True)
class Said:
    """What a model says of one study, as numbers."""

    study: OpenedStudy
    """As it was shown: without the films that could not be."""
    rows: Rows
    films: Float[np.ndarray, "row dim"]
    """L2-normalised embeddings; [0, 0] without a film."""
    numbers: dict[str, np.ndarray]
    """What objectives say of each row, by `objective/number`: [row, ...]."""
    captions: list[str]
    """Of each row; empty where no objective writes any."""
    left_out: LeftOut | None = None
    """And of the study without each of its films; None where that was not asked, of one film, and where rows are films."""


class Answerer:
    """The model of a checkpoint, in evaluation on one device, with its questions embedded."""

    def __init__(
        self, source: Path, load: str = "best", device: str = "auto", certainty: float | None = None
    ) -> None:
        """`source`: a run folder or a shared one; `load`: as of `open_trained`; `certainty`: as in HeadFindings. ConfigError when there is
        no such checkpoint or the machine has no such device.
        """
        trained = open_trained(source, load)
        self.config, self.trained_on, self.who = trained.config, trained.trained_on, trained.who
        self.calibration = trained.calibration
        self._heads = HeadFindings(self.config, self.calibration, certainty)
        if certainty is None and self.calibration is not None:
            self.calibration.warn_of_not_reached()
        self._device = _device_named(device)
        self._model, self._tokenizer = trained.build()
        self._model.to(self._device).eval()
        self._fields = fields_to_read(self.config, self._tokenizer)
        self.labels: LabelsField | None = self._fields.pop("labels", None)
        """What labels of a row mean to the run; None where it reads none."""
        # an objective that hides parts of films has nothing to say of a study
        objectives = self._model.objectives.items()
        self._asked = [name for name, each in objectives if "visible" not in each.reads]
        self.metrics = build_metrics(self.config)
        self.shares_space = any(hasattr(each, "embed_text") for _, each in objectives)
        self.questions = Questions(self.metrics, self.embed_texts if self.shares_space else None)

    @property
    def answers_for_studies(self) -> bool:
        """Whether the model was trained on whole studies; else each of its rows is one film."""
        return self.config.data.multi_video

    @torch.no_grad()
    def ask(self, study: OpenedStudy, leave_out: bool = False) -> Said:
        """What the model says of a study. A film that decodes and still cannot be shown to it is skipped, with the reason. `leave_out`:
        also what it says without each film, where it answers for whole studies.
        """
        try:
            return self._asked_about(study, leave_out)
        except DataError:
            return self._asked_about(self._without_unusable(study), leave_out)

    def answer(
        self, study: OpenedStudy, key_check: str | None = None, neighbours: Neighbours | None = None
    ) -> StudyAnswer:
        """A study without a usable film has an answer too, with the reasons. `key_check`: of the secret that keyed the study's ids;
        without it nobody can tell whether the model was trained on the patient. `neighbours`: of the same weights.
        """
        began = time.perf_counter()
        said = self.ask(study, leave_out=True)
        study = said.study
        scores = self.questions.scores(said.films) if said.rows else {}
        num_films = sum(map(len, said.rows))
        has_near = neighbours is not None and said.rows
        near, readings = neighbours.of(study.record, said.films) if has_near else ([], [])
        return StudyAnswer(
            study=study.record.study,
            patient=study.record.patient,
            patient_in_training=self._met(study.record.patient, key_check),
            model=self.who,
            films=self._films(said, scores, near),
            skipped=_skipped(study),
            findings=[
                *self._heads.of(said.numbers, num_films, said.left_out),
                *findings_without_heads(scores, self.questions, num_films, said.left_out),
            ],
            caption=said.captions[0] if said.captions and self.answers_for_studies else None,
            nearest_reports=near[0] if near and self.answers_for_studies else [],
            readings=readings,
            seconds=Seconds(decode=study.decode_s, model=time.perf_counter() - began),
        )

    def _asked_about(self, study: OpenedStudy, leave_out: bool) -> Said:
        """Batch by batch. DataError when a film cannot be shown."""
        rows, size = self._rows(len(study.payloads)), self.config.evaluation_batch_size
        leave_out = leave_out and self.answers_for_studies and any(len(row) > 1 for row in rows)
        said, left_out = [], None
        for start in range(0, len(rows), size):
            batch = self._batch(study, rows[start : start + size], start, self._fields)
            if leave_out:  # a study is one row, and so one batch
                batch = self._encoded(batch)
                left_out = self._left_out(study, rows[0], batch)
            asked = {"active": self._asked, "each_clip": self.answers_for_studies}
            said.append(self._model(batch, task="evaluate", **asked))
        numbers = _joined(said)
        captions = captions_of(numbers, self._tokenizer)
        return Said(study, rows, numbers.pop("video", np.zeros((0, 0))), numbers, captions, left_out)

    def _encoded(self, batch: dict[str, Any]) -> dict[str, Any]:
        """With the features of its films in their place, as a batch of a frozen tower has them."""
        features = self._model.clip_features(batch)
        tokens = gather_clips(features.tokens, features.clip_mask, len(batch["video"]))
        return {name: each for name, each in batch.items() if name != "video"} | {"video_features": tokens}

    def _left_out(self, study: OpenedStudy, row: tuple[int, ...], whole: dict[str, Any]) -> LeftOut:
        """As many studies at once as an evaluation has. `whole`: the batch of the whole study, encoded."""
        shown, num_slots = self._fields["video"].slots(study.record, row), whole["clip_mask"].shape[1]
        others = {name: field for name, field in self._fields.items() if name != "video"}
        said, size = [], self.config.evaluation_batch_size
        for start in range(0, len(row), size):
            films = row[start : start + size]
            rows = [tuple(clip for clip in row if clip != film) for film in films]
            batch = self._batch(study, rows, start, others)
            batch |= cells_without(whole["video_features"], shown, films, num_slots)
            said.append(self._model(batch, task="evaluate", active=self._heads.objectives))
        numbers = _joined(said)
        return LeftOut([study.record.clips[film].clip for film in row], numbers.pop("video"), numbers)

    def _rows(self, num_clips: int) -> Rows:
        """By the rule of evaluation: a film each, or up to `num_videos` of the study in one."""
        if not self.answers_for_studies:
            return [(clip,) for clip in range(num_clips)]
        return [chosen_clips(num_clips, self.config.data.num_videos, None)] if num_clips else []

    def _batch(
        self, study: OpenedStudy, rows: Rows, start: int, fields: Mapping[str, BuiltField]
    ) -> dict[str, Any]:
        units = torch.arange(start, start + len(rows))
        batch: dict[str, Any] = {
            "valid": torch.ones(len(rows), dtype=torch.bool),
            "unit": units,
            "position": units,
        }
        slots = self.config.data.num_videos if self.answers_for_studies else 1
        for field in fields.values():
            values = [field.decode(study.record, row, study.payloads.__getitem__, None) for row in rows]
            batch |= field.collate(values, slots)
        return to_device(batch, self._device)

    def _without_unusable(self, study: OpenedStudy) -> OpenedStudy:
        """Films that decode and still cannot be shown, such as one of unknown frame rate to a model of frames so many seconds apart."""
        reasons = [self._reason_against(study, clip) for clip in range(len(study.payloads))]
        kept = [clip for clip, reason in enumerate(reasons) if reason is None]
        clips = study.record.clips
        skipped = [
            Rejection(study.rows[clip], clips[clip].clip, f"unusable: {reason}")
            for clip, reason in enumerate(reasons)
            if reason is not None
        ]
        return replace(
            study,
            record=study.record.model_copy(update={"clips": [clips[clip] for clip in kept]}),
            payloads=[study.payloads[clip] for clip in kept],
            rows=tuple(study.rows[clip] for clip in kept),
            skipped=(*study.skipped, *skipped),
        )

    def _reason_against(self, study: OpenedStudy, clip: int) -> str | None:
        for field in self._fields.values():
            try:
                field.decode(study.record, (clip,), study.payloads.__getitem__, None)
            except DataError as error:
                return str(error).split(": ", 1)[-1]
        return None

    def _films(
        self, said: Said, scores: dict[str, np.ndarray], near: list[list[NearReport]]
    ) -> list[FilmAnswer]:
        shown, alone = {clip for row in said.rows for clip in row}, not self.answers_for_studies
        weights = self._weights(said)
        return [
            FilmAnswer(
                clip=record.clip,
                number=said.study.rows[clip],
                num_frames=record.num_frames,
                frame_rate_fps=record.frame_rate_fps,
                view=record.view,
                side=record.side,
                shown=clip in shown,
                weight=weights.get(clip),
                scores={name: float(values[clip]) for name, values in scores.items() if alone},
                caption=said.captions[clip] if alone and said.captions else None,
                nearest_reports=near[clip] if alone and near else [],
            )
            for clip, record in enumerate(said.study.record.clips)
        ]

    def _weights(self, said: Said) -> dict[int, float]:
        """Of each film that a study's row shows, over its windows; none where the pooler weighs no clips."""
        weights: dict[int, float] = {}
        if "clip_weight" in said.numbers:
            of_slots = said.numbers["clip_weight"].reshape(-1).tolist()
            for clip, weight in zip(self.slots(said), of_slots, strict=False):
                weights[clip] = weights.get(clip, 0.0) + weight
        return weights

    def slots(self, said: Said) -> list[int]:
        """Which film of the study each clip shows that the model was shown, row by row."""
        return [clip for row in said.rows for clip in self._fields["video"].slots(said.study.record, row)]

    def _met(self, patient: str | None, key_check: str | None) -> Literal["yes", "no", "unknown"]:
        """Ids of another secret, or of none, cannot be compared."""
        if patient is None or key_check is None or self.trained_on.keys != {key_check}:
            return "unknown"
        if patient_digest(patient) in self.trained_on.patients:
            return "yes"
        return "no" if self.trained_on.is_whole else "unknown"

    @torch.no_grad()
    def embed_texts(self, sentences: list[str]) -> Float[np.ndarray, "sentence dim"]:
        """L2-normalised, in the space that films and texts share."""
        return embed_texts(self._model, self.config, self._tokenizer, sentences)


def fields_to_read(config: RunConfig, tokenizer: Any) -> dict[str, BuiltField]:
    """Fields of films, and the labels. Texts are not read, nor the tables that training had them from, which are elsewhere."""
    fields = {name: each for name, each in config.data.fields.items() if each.type not in TEXT_FIELDS}
    data = config.data.model_copy(update={"fields": fields})
    return build_fields(config.model_copy(update={"data": data}), tokenizer)


def _device_named(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device '{name}' is not there: torch sees no GPU; use --device cpu")
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    there = ["cpu", "cuda", *gpus] if gpus else ["cpu"]
    if name not in there:
        raise ConfigError(f"device '{name}' is not there; there are: auto, {', '.join(there)}")
    return torch.device(name)


def _joined(batches: Sequence[dict[str, Tensor]]) -> dict[str, np.ndarray]:
    """Rows of all batches, floating ones as float32."""
    said: dict[str, list[Tensor]] = {}
    for batch in batches:
        for name, value in batch.items():
            said.setdefault(name, []).append(value.float() if value.is_floating_point() else value)
    return {name: torch.cat(values).cpu().numpy() for name, values in said.items()}


def _skipped(study: OpenedStudy) -> list[Skipped]:
    return [
        Skipped(number=each.row, clip=each.clip, reason=each.reason)
        for each in sorted(study.skipped, key=lambda each: each.row)
    ]
