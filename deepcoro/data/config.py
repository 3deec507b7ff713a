"""The block `data` of a run's configuration."""

import re
from pathlib import Path
from typing import Any, ClassVar, Literal

import pydantic

from deepcoro.config import Block, ConfigError, typed_by_key
from deepcoro.data.balance import Balance
from deepcoro.data.cache import Cache
from deepcoro.data.folds import Fold
from deepcoro.data.order import SHARDS_PER_WINDOW
from deepcoro.data.storage import Location, Storage
from deepcoro.data.watch import Workers
from deepcoro.data.where import parse_where
from deepcoro.fields import Field, report, video


class Source(Block):
    """One of several shard folders."""

    shards: Location
    """Folder or URL, as `data.shards`."""
    weight: float | None = pydantic.Field(default=None, gt=0)
    """Share of the samples drawn from here, relative to the other weights; unset in all sources = they are one pool."""


class Data(Block):
    """Where the samples come from and how they are drawn."""

    defaults_stay: ClassVar[tuple[str, ...]] = ("fields",)

    shards: Location | None = None
    """Folder written by tools/shard_dataset.py: a path, or its URL (http://, https://, s3://, gs://)."""
    storage: Storage = Storage()
    """How a folder that lies elsewhere is asked."""
    cache: Cache = Cache()
    """What of it is kept on this node."""
    sources: dict[str, Source] = {}
    """Several folders in the place of `shards`; the key names the source in logs and predictions."""
    tables: list[Path] = []
    """Newer labels, splits (`Split`) and texts (`Report`) by keyed `clip`, `study` or `patient`; CSV, later ones win."""
    label_rules: Path | None = None
    """How the cells of `tables` are read where the built-in rules do not fit: the file of tools/shard_dataset.py --label_rules."""
    where: str | None = None
    """Films to use, in every run mode: a condition on the columns of films.parquet, such as "num_frames >= 10"."""
    fold: Fold | None = None
    """Cross-validation: which of the folds of a column is val, in the place of the val split that the films have."""
    balance: Balance = "none"
    """none: each sample once an epoch; study: each study once, with one clip in turn; label: classes of balance_by by shares."""
    balance_by: str | None = None
    """Column of films.parquet or of a table whose classes balance=label draws."""
    balance_power: float = pydantic.Field(default=1.0, ge=0, le=1)
    """A class of n samples has the share n^(1 - power): 0 as it is, 1 every class alike."""
    balance_not_assessed: Literal["own_class", "exclude"] = "own_class"
    """Samples without a value of balance_by: a class of their own, or not drawn in training."""
    shards_per_window: int = pydantic.Field(default=SHARDS_PER_WINDOW, ge=1)
    """Shards whose samples are shuffled together: more mix better, fewer keep the reads closer together."""
    multi_video: bool = False
    """True: a sample is a study with up to num_videos clips; false: a sample is one clip."""
    num_videos: int = pydantic.Field(default=4, ge=1)
    """Clips taken of a study when multi_video is true; studies with more are sampled, with fewer are masked."""
    num_workers: int = pydantic.Field(default=2, ge=0)
    """Loader processes per rank; they only read and decode, so their number never changes the order."""
    worker_timeout_s: float = pydantic.Field(default=600.0, gt=0)
    """Longest wait for a batch of the loader processes; then the run stops and names what they were reading."""
    max_bad_fraction: float = pydantic.Field(default=0.01, ge=0, le=1)
    """Largest share of unreadable samples, over all ranks, before the run or the evaluation stops; fewer are masked, counted and named."""
    fields: dict[str, Field] = {"video": video.Config(), "report": report.Config()}
    """What a batch holds; the key is the batch key and the default `type`. `false` takes a default field out."""

    @pydantic.field_validator("fields", mode="before")
    @classmethod
    def _with_defaults(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return typed_by_key({"video": {}, "report": {}} | value)

    @pydantic.field_validator("where")
    @classmethod
    def _where_is_a_condition(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            return parse_where(value).text
        except ConfigError as error:
            raise ValueError(str(error)) from error

    @pydantic.field_validator("sources")
    @classmethod
    def _sources_have_plain_names(cls, value: dict[str, Source]) -> dict[str, Source]:
        if not all(re.fullmatch(r"[\w-]+", name) for name in value):
            raise ValueError(
                "names of sources hold letters, digits, '_' and '-': files and metrics are named by them"
            )
        weighted = [source.weight is not None for source in value.values()]
        if any(weighted) and not all(weighted):
            raise ValueError("give all of them a weight, or none")
        return value

    @pydantic.model_validator(mode="after")
    def _keys_agree(self) -> "Data":
        if self.shards is not None and self.sources:
            raise ValueError("shards and sources are both set; name the folder among the sources")
        if self.balance == "label" and not self.balance_by:
            raise ValueError("balance=label needs balance_by, the column")
        if self.balance_by and self.balance != "label":
            raise ValueError("balance_by is for balance=label")
        if self.balance == "study" and self.multi_video:
            raise ValueError("balance=study is for multi_video=false; with true a sample is a study already")
        return self

    @property
    def workers(self) -> Workers:
        return Workers(self.num_workers, self.worker_timeout_s)

    @property
    def clips_per_sample(self) -> int:
        """The most clips that the tower encodes for one sample."""
        return (self.num_videos if self.multi_video else 1) * self.fields["video"].clips_per_film
