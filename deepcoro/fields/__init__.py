"""What a row of a batch is made of: each field reads a shard's sample and says how its values become tensors."""

from deepcoro.config import choice
from deepcoro.fields import caption, labels, report, texts, video, view

Field = choice(video.Config, report.Config, texts.Config, caption.Config, labels.Config, view.Config)
