"""A video encoder as a folder that others can load: model.safetensors, and config.json that says what it is and where it comes from.

`towers.video.weights` reads one from a path or, as `hf://ORGANISATION/NAME[@REVISION]`, from the Hugging Face hub.
"""

import datetime
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from deepcoro import __version__
from deepcoro.atomic import whole_folder, write_bytes
from deepcoro.config import ConfigError

logger = logging.getLogger(__name__)

WEIGHTS, CARD, README = "model.safetensors", "config.json", "README.md"
FORMAT = "deepcoro-video-encoder/1"
MODEL_FORMAT = "deepcoro-model/1"
"""Of a whole model's folder (deepcoro.sharing), whose encoder a run can start from too."""
HUB = "hf://"


def export_encoder(
    tower: nn.Module,
    folder: Path,
    pixel_constants: tuple[float, float] | None = None,
    provenance: dict[str, Any] | None = None,
    write_graphs: Callable[[Path], dict[str, Any]] | None = None,
) -> None:
    """Writes `folder`, whole or not at all; fp32 weights, without a classifier.

    `pixel_constants`: mean and std of the grey levels (0-255) that the encoder was trained with. `provenance`: whatever tells
    where the weights come from, plain values. `write_graphs` writes more into the folder and gives what the card says of it
    (`deepcoro.sharing.portable`). ConfigError when the folder exists.
    """
    from safetensors.torch import save

    if folder.exists():
        raise ConfigError(f"'{folder}' exists; name a new folder, so that no encoder is overwritten")
    weights = {
        name: value.detach().cpu().float().contiguous()
        for name, value in tower.state_dict().items()
        if not name.startswith("head.")
    }
    mean, std = pixel_constants or (None, None)
    card = {
        "format": FORMAT,
        "encoder": tower.built_as,
        "pixel_mean": mean,
        "pixel_std": std,
        "provenance": {
            "deepcoro": __version__,
            "exported": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        | (provenance or {}),
    }
    with whole_folder(folder) as unfinished:
        write_bytes(unfinished / WEIGHTS, save(weights, metadata={"format": "pt"}))
        if write_graphs is not None:
            card["graphs"] = write_graphs(unfinished)
        write_bytes(unfinished / CARD, (json.dumps(card, indent=2) + "\n").encode())


def read_card(folder: Path) -> dict[str, Any] | None:
    """What an exported folder says of itself; None for anything else. ConfigError for a format that this version does not know."""
    file = folder / CARD
    if not (file.is_file() and (folder / WEIGHTS).is_file()):
        return None
    card = json.loads(file.read_text())
    if card.get("format") == MODEL_FORMAT:
        return None  # its tensors name the tower they belong to
    if card.get("format") != FORMAT:
        raise ConfigError(
            f"'{file}' has format {card.get('format')!r}; this version of deepcoro reads {FORMAT!r}: "
            "point towers.video.weights to the .safetensors file itself if it holds an MViTv2"
        )
    return card


def check_card(source: str, built_as: dict[str, Any]) -> None:
    """Logs in what the run's encoder differs from the exported one, if `source` is one. ConfigError where it is another kind or variant."""
    card = read_card(locate(source))
    if card is None:
        return
    theirs = card["encoder"]
    for key in ("type", "variant", "model"):
        if theirs.get(key) != built_as.get(key):
            raise ConfigError(
                f"weights {source} are a {theirs.get('type')} encoder with {key} {theirs.get(key)!r}; this run has "
                f"{built_as.get('type')} with {key} {built_as.get(key)!r}: set towers.video.{key}={theirs.get(key)}",
                topic="weights-that-do-not-fit",
            )
    differ = [
        f"{key} was {theirs.get(key)!r} and is {value!r}"
        for key, value in built_as.items()
        if theirs.get(key) != value
    ]
    if differ:
        logger.warning("weights %s: this run's encoder is another function: %s", source, "; ".join(differ))


def locate(source: str, whole: bool = False) -> Path:
    """The path that `towers.video.weights` names; `hf://ORGANISATION/NAME[@REVISION]` is fetched, or found in the hub's cache: what an
    encoder takes, or the `whole` folder.

    ConfigError in one line when the hub cannot be had.
    """
    if not source.startswith(HUB):
        return Path(source)
    name, _, revision = source.removeprefix(HUB).partition("@")
    if name.count("/") != 1:
        raise ConfigError(
            f"weights '{source}': write {HUB}ORGANISATION/NAME or {HUB}ORGANISATION/NAME@REVISION"
        )
    return Path(_from_hub(name, revision or None, source, whole))


def _from_hub(name: str, revision: str | None, source: str, whole: bool) -> str:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns, proof = (None, README) if whole else ([WEIGHTS, CARD], WEIGHTS)
    wanted = {"repo_id": name, "revision": revision, "allow_patterns": patterns}
    # this machine's files first: an unreachable hub costs half a minute of retries
    for local_only in (True, False):
        try:
            folder = snapshot_download(**wanted, local_files_only=local_only)
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
            failure = error
        else:
            if (Path(folder) / proof).is_file():  # the cache may hold what another call asked for alone
                return folder
            failure = FileNotFoundError(f"it holds no {proof}")
    reason = str(failure).strip().split("\n")[0].split(". ")[0]
    raise ConfigError(
        f"weights '{source}' cannot be had ({reason}); fetch them on a machine with network "
        f"(`hf download {name} --local-dir FOLDER`) and set towers.video.weights=FOLDER",
        topic="text-tower-offline",
    ) from failure
