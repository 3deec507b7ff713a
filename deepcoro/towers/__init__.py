"""Fields -> features. One file an encoder, named as its `type` in YAML."""

from deepcoro.config import choice
from deepcoro.towers import text_hf, video_mvit, video_timm

VideoTower = choice(video_mvit.Config, video_timm.Config)
TextTower = choice(text_hf.Config)
