"""The block `data` of a run's configuration."""

from typing import Any

import pydantic

from deepcoro.config import Block, typed_by_key
from deepcoro.data.storage import Location, Storage
from deepcoro.fields import Field, report, video


class Data(Block):
    """Where the samples come from and how they are drawn."""

    shards: Location | None = None
    """Folder written by tools/shard_dataset.py: a path, or its URL (http://, https://, s3://, gs://)."""
    storage: Storage = Storage()
    """How a folder that lies elsewhere is asked."""
    multi_video: bool = False
    """True: a sample is a study with up to num_videos clips; false: a sample is one clip."""
    num_videos: int = pydantic.Field(default=4, ge=1)
    """Clips taken of a study when multi_video is true; studies with more are sampled, with fewer are masked."""
    num_workers: int = pydantic.Field(default=2, ge=0)
    """Loader processes per rank; they only read and decode, so their number never changes the order."""
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

    @property
    def clips_per_sample(self) -> int:
        """The most clips that the tower encodes for one sample."""
        return (self.num_videos if self.multi_video else 1) * self.fields["video"].clips_per_film
