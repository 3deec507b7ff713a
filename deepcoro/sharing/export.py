"""From a checkpoint of a run to a folder for others, whole or not at all."""

import inspect
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet
from huggingface_hub import save_torch_state_dict
from torch import Tensor

from deepcoro import __version__
from deepcoro.atomic import whole_folder, write_text
from deepcoro.bank import told_of
from deepcoro.config import ConfigError, dump
from deepcoro.fields import report
from deepcoro.inference.trained import Trained, open_trained
from deepcoro.run_config import RunConfig, run_config_from_dump
from deepcoro.sharing.card import Extras, render_card
from deepcoro.sharing.layout import BANK, CARD, CONFIG, SHARD_BYTES, TOKENIZER, SharedModel, sha256_of

logger = logging.getLogger(__name__)
# Its log goes by its file's name, and tells of the folder where weights lie before all is written.
logging.getLogger(inspect.getfile(save_torch_state_dict)).setLevel(logging.WARNING)

FILMS_PAGE = "report.html"
_RUN_KEYS = ("precision", "clips_per_chunk", "batch_size", "normalisation", "pooler")
_HIDING = "masked_modeling"
"""What guesses hidden parts of films: it answers nothing, and what it draws are films."""


@dataclass(frozen=True)
class Asked:
    """What may go along only because somebody asked for it."""

    reports: bool = False
    """Texts of the train split with their embeddings (embeddings/*_reports.parquet)."""
    bank: bool = False
    """Embeddings of films and studies under keyed ids."""
    films: bool = False
    """report.html, which shows films and reports."""


def export_model(
    run_dir: Path,
    folder: Path,
    load: str = "best",
    asked: Asked = Asked(),
    license_name: str = "unknown",  # noqa: B008 - frozen
) -> SharedModel:
    """Writes `folder`. `load`: best, last or step_N. ConfigError when it exists, or when something asked for is not there."""
    if folder.exists():
        raise ConfigError(f"'{folder}' exists; name a new folder, so that no model is overwritten")
    trained = open_trained(run_dir, load)
    along = _files_along(run_dir, trained.who.digest, asked)
    config = shared_config(trained.config)
    weights = kept_weights(trained.weights(), config)
    with whole_folder(folder) as unfinished:
        about = _write(unfinished, trained, config, weights)
        for source, place in along:
            (unfinished / place).parent.mkdir(exist_ok=True)
            shutil.copyfile(source, unfinished / place)
        extras = Extras(license_name, [place for _, place in along])
        write_text(unfinished / CARD, render_card(run_dir, about, extras))
    return about


def _write(folder: Path, trained: Trained, config: dict[str, Any], weights: dict[str, Tensor]) -> SharedModel:
    save_torch_state_dict(weights, folder, max_shard_size=SHARD_BYTES)
    if trained.config.towers.text is not None:
        tokenizer = trained.config.towers.text.load_tokenizer(trained.tokenizer_folder)
        tokenizer.name_or_path = trained.who.name  # else the folder of this machine
        tokenizer.save_pretrained(folder / TOKENIZER)
    about = SharedModel(
        **trained.who.model_dump(exclude={"deepcoro"}),
        deepcoro=__version__,
        weights={file.name: sha256_of(file) for file in sorted(folder.glob("*.safetensors"))},
        calibration=trained.calibration,
        config=config,
    )
    write_text(folder / CONFIG, about.model_dump_json(indent=1) + "\n")
    return about


def shared_config(config: RunConfig) -> dict[str, Any]:
    """What building the model and showing it films takes. Keys are chosen, not crossed out: what a later version adds stays at home."""
    objectives = {name: each for name, each in config.objectives.items() if each.type != _HIDING}
    text = config.towers.text and config.towers.text.standalone()
    towers = config.towers.model_copy(update={"video": _without_cache(config.towers.video), "text": text})
    fields = {name: _without_tables(field) for name, field in config.data.fields.items()}
    tree = {
        **{key: value for key, value in dump(config).items() if key in _RUN_KEYS},
        "towers": dump(towers),
        "objectives": {name: dump(each) for name, each in (objectives or config.objectives).items()},
        "data": {
            "multi_video": config.data.multi_video,
            "num_videos": config.data.num_videos,
            "fields": {name: dump(field) for name, field in fields.items()},
        },
        "evaluate": {
            "batch_size": config.evaluation_batch_size,
            "metrics": {name: dump(metric) for name, metric in config.evaluate.metrics.items()},
        },
    }
    absent = {name: False for name in ("video", "report") if name not in fields}
    tree["data"]["fields"] |= absent
    run_config_from_dump(tree, "what is to be shared")  # what this version writes it also reads
    return tree


def _without_cache(video: Any) -> Any:
    """Where a training run kept its features is a place of its machine."""
    keys = {"weights": None, "features_folder": None, "cache_features": False}
    return video.model_copy(update={key: value for key, value in keys.items() if hasattr(video, key)})


def _without_tables(field: Any) -> Any:
    """Of texts that lie in a table only their length is known to the model."""
    return report.Config(max_tokens=field.max_tokens) if field.type == "texts" else field


def kept_weights(weights: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """Those of the objectives that are shared, and of all else."""
    objectives = tuple(f"objectives.{name}." for name in config["objectives"])
    return {
        name: value
        for name, value in weights.items()
        if not name.startswith("objectives.") or name.startswith(objectives)
    }


def _files_along(run_dir: Path, digest: str, asked: Asked) -> list[tuple[Path, str]]:
    """Files of the run, and where they go. ConfigError where one that is asked for is not there, or of other weights."""
    bank = run_dir / BANK
    wanted = {
        "with_reports": (asked.reports, sorted(bank.glob("*_reports.parquet"))),
        "with_bank": (asked.bank, sorted([*bank.glob("*_clips.parquet"), *bank.glob("*_studies.parquet")])),
        "with_films": (asked.films, [path for path in [run_dir / FILMS_PAGE] if path.is_file()]),
    }
    found: list[tuple[Path, str]] = []
    for flag, (is_asked, files) in wanted.items():
        if is_asked and not files:
            raise ConfigError(f"--{flag}: '{run_dir}' holds none; {_HOW[flag]}")
        if is_asked:
            _refuse_other_weights(flag, files, digest)
            found += [(file, file.relative_to(run_dir).as_posix()) for file in files]
    return found


_HOW = {
    "with_reports": "run_mode=inference inference.reports=true writes them",
    "with_bank": "run_mode=inference writes one",
    "with_films": "run_mode=test writes report.html",
}


def _refuse_other_weights(flag: str, files: Sequence[Path], digest: str) -> None:
    for file in files:
        if file.suffix != ".parquet":
            continue
        written_by = told_of(pyarrow.parquet.read_schema(file))["checkpoint"]
        if not written_by.endswith(f"({digest})"):
            raise ConfigError(
                f"--{flag}: '{file.name}' was written by {written_by}, and the exported weights are {digest}: {_HOW[flag]} anew"
            )
