"""From a run config to its parts: open shards, tokenizer, fields, model. The same for every verb."""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepcoro import distributed
from deepcoro.config import ConfigError
from deepcoro.data.collection import Collection
from deepcoro.data.known_views import check_views
from deepcoro.data.label_values import check_labels
from deepcoro.data.number_columns import check_numbers
from deepcoro.data.stream import BuiltField
from deepcoro.data.units import Units
from deepcoro.evaluated import Measurement, TrainingReports
from deepcoro.fields.labels import LabelsField
from deepcoro.fields.texts import Config as TextsConfig
from deepcoro.fields.texts import TextsField
from deepcoro.fields.view import ViewField
from deepcoro.model import VideoTextModel
from deepcoro.normalisation import constants
from deepcoro.objectives.linear_probing import Config as LinearProbing
from deepcoro.run_config import RunConfig
from deepcoro.sample import patient_digest
from deepcoro.seen import Seen, overlap, seen_through
from deepcoro.text_bank import TextBank
from deepcoro.weights import read_pixel_constants


@dataclass
class Parts:
    """What a run reads with."""

    shards: Collection
    """The films, read as one folder."""
    tokenizer: Any
    """The text tower's; None in a run without one."""
    fields: dict[str, BuiltField]
    started_from: Seen
    """Whom the weights were trained on that the video tower starts from."""
    training_reports: TrainingReports | None = None
    """Drawn by the first evaluation that compares generated reports with them; not embedded."""

    def provenance(self) -> dict[str, Any]:
        """What a checkpoint remembers of its data: enough to notice other data, or a patient met before."""
        return {
            "folder": self.shards.name,
            "patient_split": self.shards.patient_split,
            **self.shards.record(),
            **self.trained_on.to_state(),
        }

    @functools.cached_property
    def trained_on(self) -> Seen:
        """Whom a model of this run has seen; every checkpoint says so."""
        return self.seen_in("train").joined(self.started_from)

    def seen_in(self, split: str) -> Seen:
        """The patients of a split; none when there is no such split or the source names none."""
        shards = self.shards
        patients = shards.units(split, True, 1).patients if split in shards.splits else ()
        digests = frozenset(map(patient_digest, patients))
        return Seen(digests, frozenset(shards.keys), shards.patient_split == "verified")

    @property
    def conflicting_labels(self) -> dict[str, dict[str, int]]:
        """Split -> label column -> studies whose films disagree on it, of the splits that this run compares with."""
        labels = self.fields.get("labels")
        if not isinstance(labels, LabelsField):
            return {}
        return {split: dict(columns) for split, columns in labels.conflicts.items()}

    def refuse_met_in_validation(self) -> None:
        """DataError when the weights that the run starts from were trained on a patient by whom it would choose its best step."""
        if "val" in self.shards.splits:
            overlap(self.started_from, self.seen_in("val"), "val")


def build_parts(config: RunConfig, make_tokenizer: bool = False) -> Parts:
    """Opens what the config names. `make_tokenizer`: what is learned from the texts of the train split is learned now, the words of a
    text tower from scratch, and those of a rule of positives."""
    shards = Collection.open(config.data)
    tokenizer = _tokenizer(config, shards, make_tokenizer)
    fields = build_fields(config, tokenizer)
    report = fields.get("report")
    if isinstance(report, TextsField):
        report.join(shards.films.batches(["clip", "study"]))
        shards.reads_beside(report.bank.sha256)
    read = functools.cache(functools.partial(_splits_read, config, shards))
    if isinstance(fields.get("labels"), LabelsField):
        _look_through_labels(config, shards, fields["labels"], read())
    if config.pooler.view_embedding:
        check_views(shards, read())
    _look_through_metrics(config, shards, read)
    if make_tokenizer:
        _describe_texts(config, shards, fields)
    return Parts(shards, tokenizer, fields, seen_through(config.towers.video.weights))


def build_fields(config: RunConfig, tokenizer: Any) -> dict[str, BuiltField]:
    """The fields of a batch; those that read the same slots know of each other, and labels what a row is."""
    fields = {name: field.build(tokenizer) for name, field in config.data.fields.items()}
    if isinstance(fields.get("labels"), LabelsField):
        fields["labels"].rows_are_studies = config.data.multi_video
    if isinstance(fields.get("view"), ViewField):
        fields["view"].slots = fields["video"].slots
        fields["view"].slots_per_film = config.data.fields["video"].clips_per_film
    return fields


def build_metrics(config: RunConfig) -> list[Measurement]:
    """Those of `evaluate.metrics`; what one finds of a split it may keep, so one evaluation uses one list."""
    return [metric.build() for metric in config.evaluate.metrics.values()]


def build_model(
    config: RunConfig, parts: Parts, of_films: tuple[float, float] | None = None
) -> VideoTextModel:
    """The model with fresh weights (or those that `towers.*.weights` name), the same on every rank.

    `of_films`: mean and std of the training films' grey levels, where they are not those of the manifest.
    """
    import torch

    torch.manual_seed(config.seed)
    source = config.towers.video.weights
    of_weights = read_pixel_constants(source) if source else None
    mean, std = constants(config.normalisation, of_weights, of_films or parts.shards.pixel_statistics())
    labels = parts.fields.get("labels")
    counts = {} if labels is None else {column: labels.counts(column) for column in labels.config.columns}
    return VideoTextModel(config, parts.tokenizer, mean, std, counts)


def _tokenizer(config: RunConfig, shards: Collection, make: bool) -> Any:
    """The text tower's own tokenizer, or one learned from the training reports and kept in run_dir/tokenizer; None without a tower."""
    folder: Path = config.run_dir / "tokenizer"
    text = config.towers.text
    if text is None:
        return None
    if make and distributed.rank() == 0 and not folder.exists():
        text.make_tokenizer(_words_of(config, shards), folder)
    distributed.barrier()
    return text.load_tokenizer(folder)


def _words_of(config: RunConfig, shards: Collection) -> Iterator[str]:
    """What a tokenizer learns from."""
    yield from _training_texts(shards)
    report = config.data.fields.get("report")
    if isinstance(report, TextsConfig):
        yield from TextBank(report.texts, report.edges).texts


def _splits_read(config: RunConfig, shards: Collection) -> dict[str, Units]:
    """Those that this run learns from or compares with; an inference compares with none."""
    of_mode = {"train": ("train", "val"), "val": ("val",), "test": ("test",), "inference": ()}
    return {
        split: shards.units(split, config.data.multi_video, config.data.num_videos)
        for split in of_mode[config.run_mode]
        if split in shards.splits
    }


def _look_through_labels(
    config: RunConfig, shards: Collection, labels: LabelsField, splits: Mapping[str, Units]
) -> None:
    """DataError also where a split has a label that is no class of a head that reads it."""
    found = check_labels(labels.config, shards, splits, config.run_mode == "train")
    for split, values in found.values.items():
        for objective in config.objectives.values():
            if isinstance(objective, LinearProbing):
                objective.refuse_labels(split, values)
    labels.set_found(found.counts, found.conflicts)


def _look_through_metrics(
    config: RunConfig, shards: Collection, read: Callable[[], Mapping[str, Units]]
) -> None:
    """Columns that metrics read as numbers are checked in the split that this run evaluates; training evaluates val."""
    least: dict[str, float] = {}
    for metric in build_metrics(config):
        for column, number in metric.least_numbers().items():
            least[column] = max(number, least.get(column, number))
    if least:  # counting units takes a moment in a large folder
        check_numbers(least, shards, {split: units for split, units in read().items() if split != "train"})


def _describe_texts(config: RunConfig, shards: Collection, fields: dict[str, BuiltField]) -> None:
    """Has the reports say in each batch what a rule of positives must know of them. The same on every rank."""
    rules = {each.positives for each in config.objectives.values() if getattr(each, "positives", None)}
    rules = [rule for rule in rules if rule.likeness]
    if rules and isinstance(fields.get("report"), TextsField):
        raise ConfigError(
            f"objectives.contrastive.positives.type is '{rules[0].type}', but the edges of field 'texts' say who is a positive of whom;"
            " take report_id"
        )
    if len(rules) > 1:
        raise ConfigError(f"objectives liken texts by {len(rules)} rules of positives; give all of them one")
    for rule in rules:
        texts = _training_texts(shards) if rule.learns and distributed.rank() == 0 else ()
        describer = rule.describer(texts) if distributed.rank() == 0 else None
        fields["report"].describe = distributed.broadcast_object(describer)


def _training_texts(shards: Collection) -> Iterator[str]:
    units = shards.units("train", True, 1)
    for row in units.study_row:
        for report in shards.study(int(row)).reports:
            yield report.text
