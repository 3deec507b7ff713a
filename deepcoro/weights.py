"""Weights to start from: a file, an exported folder (also on the hub), a checkpoint folder, or a run folder's best checkpoint."""

from pathlib import Path

import torch
from torch import Tensor

from deepcoro import averages
from deepcoro.config import ConfigError
from deepcoro.exported import WEIGHTS, locate, read_card

FILE = "weights.safetensors"
"""Name of the weights inside a checkpoint folder."""
MOMENTS = "moments.safetensors"
"""Beside them: AdamW's moments, and averages of weights where the run keeps them."""
STATE = "state.json"
"""Beside them: how far the run was, and what it read."""


def read_weights(source: str | Path, prefix: str) -> dict[str, Tensor]:
    """Tensors by name; of a whole model's weights those below `prefix`, without it; averages in the place of weights where a checkpoint
    holds some. ConfigError when there is nothing to read.
    """
    file = weights_file(locate(str(source)))
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(file)
        if file.name == FILE:
            state |= read_averages(file.parent)
    else:
        state = torch.load(file, map_location="cpu", weights_only=True)
    for wrapper in ("state_dict", "model", "model_state"):  # the last is SlowFast's
        state = state[wrapper] if isinstance(state.get(wrapper), dict) else state
    inner = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return inner or state


def read_averages(folder: Path) -> dict[str, Tensor]:
    """Averages that a checkpoint folder holds (`ema.decay`), by name of the parameter."""
    if not (folder / MOMENTS).is_file():
        return {}
    from safetensors import safe_open

    ending = f"/{averages.KEY}"
    with safe_open(folder / MOMENTS, "pt") as file:
        kept = [name for name in file.keys() if name.endswith(ending)]  # noqa: SIM118 - not a dict
        return {name.removesuffix(ending): file.get_tensor(name) for name in kept}


def read_pixel_constants(source: str | Path) -> tuple[float, float] | None:
    """Mean and std of the grey levels that a model's or an exported encoder's weights carry; None for others of one tower alone."""
    card = read_card(locate(str(source)))
    if card is not None:
        return None if card["pixel_mean"] is None else (card["pixel_mean"], card["pixel_std"])
    state = read_weights(source, "normalisation.")
    if set(state) != {"mean", "std"}:
        return None
    return float(state["mean"]), float(state["std"])


def weights_file(path: Path) -> Path:
    """The file that a path means: itself, that of an exported or checkpoint folder, that of a run's best (else newest) checkpoint."""
    if path.is_file():
        return path
    for name in (FILE, WEIGHTS):
        if (path / name).is_file():
            return path / name
    for pointer in ("best", "latest"):
        named = path / "checkpoints" / pointer
        if named.is_file():
            return path / "checkpoints" / named.read_text() / FILE
    raise ConfigError(
        f"weights '{path}' is neither a file (.pt, .pth, .pyth, .safetensors) nor an exported folder, nor a checkpoint folder nor a run folder with a checkpoint",
        topic="weights-that-do-not-fit",
    )
