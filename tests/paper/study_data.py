"""Shards of a small study with labels, refused rows and a run on them: what a paper is to be written about."""

import json
from pathlib import Path

from deepcoro.config import show
from deepcoro.data import manifest as schema
from deepcoro.data.collection import Collection
from deepcoro.run_config import RunConfig, load_run_config
from tests.data.folder import moving_film, study_with, write_folder

NUM_STUDIES, NUM_TEST = 36, 12
REFUSED = ["secondary_capture"] * 12 + ["unreadable: cut short"] * 3


def labels_of(number: int) -> dict[str, float | str | None]:
    """Ages 40 to 75 by study; every third has a cto, every sixth is not assessed."""
    return {
        "age": 40.0 + number,
        "sex": ("F", "M")[number % 2],
        "cto": None if number % 6 == 5 else float(number % 3 == 0),
        "dominance": "right" if number % 4 else None,
    }


def write_shards(folder: Path) -> Path:
    """36 studies of two films, of 36 patients; the last twelve are the test split."""
    studies = []
    for number in range(NUM_STUDIES):
        record, payloads = study_with(
            f"s{number:02d}",
            [moving_film(number + film, 4) for film in (0, 1)],
            schema.Encoding(),
            f"p{number:02d}",
        )
        clips = [clip.model_copy(update={"labels": labels_of(number)}) for clip in record.clips]
        studies.append((record.model_copy(update={"clips": clips}), payloads))
    splits = {f"s{number:02d}": "test" for number in range(NUM_STUDIES - NUM_TEST, NUM_STUDIES)}
    write_folder(folder, studies, studies_per_shard=12, splits=splits)
    schema.write_rejected(
        folder, [schema.RefusedRow(1, row, None, reason) for row, reason in enumerate(REFUSED, start=1)]
    )
    manifest = schema.read_manifest(folder)
    counts = manifest.counts.model_copy(update={"rejected_clips": len(REFUSED)})
    schema.write_block(
        folder / schema.MANIFEST, manifest.model_copy(update={"counts": counts, "patient_split": "verified"})
    )
    return folder


def write_run(run_dir: Path, shards: Path, *overrides: str) -> RunConfig:
    """A run folder with configuration, data record and one evaluation."""
    words = [f"data.shards={shards}", f"run_dir={run_dir}", *overrides]
    config = load_run_config(Path("deepcoro/configs/demo/tiny.yaml").resolve(), words)
    (run_dir / "results").mkdir(parents=True)
    (run_dir / "config.yaml").write_text(show(config))
    collection = Collection.open(config.data)
    (run_dir / "data.json").write_text(json.dumps(collection.record()))
    document = {
        "data": collection.name,
        "split": "test",
        "metrics": {
            "zero_shot/cto/num": 30.0,
            "zero_shot/cto/num_positive": 12.0,
            "zero_shot/cto/auroc": 0.8,
            "zero_shot/cto/auroc_ci_low": 0.7,
            "zero_shot/dominance/num": 12.0,
            "zero_shot/dominance/num_positive": 3.0,
        },
        "data_summary": {"patients": 12, "studies": 12, "films": 24},
    }
    (run_dir / "results" / "x_test.json").write_text(json.dumps(document))
    return config
