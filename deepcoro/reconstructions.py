"""Runs a model over a few held-out films and draws what it makes of their hidden parts."""

import numpy as np
import torch
from torch import nn

from deepcoro.build import Parts
from deepcoro.data.plan import Row
from deepcoro.data.stream import Fetch
from deepcoro.evaluated import Evaluated
from deepcoro.model import to_device
from deepcoro.report_reconstructions import Picture, choose_films, draw_picture
from deepcoro.run_config import RunConfig


@torch.no_grad()
def reconstruction_pictures(
    model: nn.Module, config: RunConfig, parts: Parts, evaluated: Evaluated, num_films: int
) -> list[Picture]:
    """Films from the smallest error to the largest, the first clip of each; none without an objective that hides a part of them.
    The films are hidden as they were when they were scored.
    """
    keys = [key for key in evaluated.rows if key.endswith("/error")]
    if not keys:
        return []
    name = keys[0].removesuffix("/error")
    units = parts.shards.units(evaluated.split, config.data.multi_video, config.data.num_videos)
    fields = {name: field for name, field in parts.fields.items() if name != "report"}
    fetch = Fetch(parts.shards, units, fields, None)
    device = next(model.parameters()).device
    pictures = []
    for film in choose_films(evaluated.rows[keys[0]], num_films):
        unit = int(evaluated.units[film])
        batch = to_device(fetch[[Row(unit, 0, unit)]].batch, device)
        drawn = {key: value[0].cpu().numpy() for key, value in model(batch, task="pictures")[name].items()}
        error = float(np.float32(evaluated.rows[keys[0]][film]))
        pictures.append(draw_picture(str(evaluated.clips[film]), error, drawn))
    return pictures
