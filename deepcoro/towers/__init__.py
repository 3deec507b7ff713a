"""Fields -> features. One file an encoder, named as its `type` in YAML."""

from deepcoro.config import choice
from deepcoro.towers import video_mvit, video_timm

VideoTower = choice(video_mvit.Config, video_timm.Config)
