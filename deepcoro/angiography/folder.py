"""A generated data set on disk: films made by several processes, tables, key; `dataset.csv` last."""

import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from deepcoro.angiography import tables
from deepcoro.angiography.cohort import FilmPlan, films_of, patient_of, studies_of
from deepcoro.angiography.demo_key import demo_key
from deepcoro.angiography.film import Film, render_film
from deepcoro.angiography.presets import Preset, preset_named
from deepcoro.angiography.write_avi import write_avi
from deepcoro.angiography.write_dicom import Header, write_dicom
from deepcoro.config import ConfigError

FolderFormat = Literal["mixed", "dicom", "avi"]
_GENERATION = 6
"""Raise it when the same recipe gives other pixels or texts."""


@dataclass(frozen=True)
class Recipe:
    """All that decides what a folder holds."""

    preset: str
    seed: int
    patients: int
    format: FolderFormat
    vendors: tuple[str, ...] = ()
    """Makes of machine that are used; () = all."""

    def text(self) -> str:
        chosen = {name: value for name, value in self.__dict__.items() if name != "vendors" or value}
        return json.dumps({**chosen, "generation": _GENERATION}, indent=2) + "\n"


def read_recipe(folder: Path) -> Recipe:
    """That of a generated folder. ConfigError when it is none."""
    path = folder / "recipe.json"
    if not path.is_file():
        raise ConfigError(f"{path} is not there; name a folder that tools/make_demo_data.py made")
    fields = json.loads(path.read_text())
    fields.pop("generation", None)
    return Recipe(**fields | {"vendors": tuple(fields.get("vendors", ()))})


def write_folder(
    folder: Path, recipe: Recipe, workers: int, on_patient: Callable[[int], None] = lambda films: None
) -> int:
    """Writes films and tables, returns the number of films; `on_patient` hears how many films each patient added.

    A folder that already holds this very data set is left as it is (0 films written); one that holds another is refused.
    """
    if is_complete(folder, recipe):
        return 0
    preset = preset_named(recipe.preset)
    (folder / "films").mkdir(parents=True, exist_ok=True)
    tables.write_text(folder / "recipe.json", recipe.text())
    collected: dict[str, list[tables.Row]] = {}
    for rows in _make_patients(folder, preset, recipe, workers):
        for name, found in rows.items():
            collected.setdefault(name, []).extend(found)
        on_patient(len(rows["dataset"]))
    tables.write_text(folder / "demo.key", demo_key() + "\n")
    dataset = collected.pop("dataset")
    for name, found in collected.items():
        tables.write_table(folder / f"{name}.csv", found)
    tables.write_table(folder / "dataset.csv", dataset)
    return len(dataset)


def is_complete(folder: Path, recipe: Recipe) -> bool:
    """Whether the folder already holds this data set; ConfigError when it holds a different one."""
    written = folder / "recipe.json"
    if not written.is_file():
        if (folder / "dataset.csv").exists():
            raise ConfigError("FOLDER holds a dataset.csv that was not generated here; choose another folder")
        return False
    if written.read_text() != recipe.text():
        raise ConfigError(
            "FOLDER holds a data set of another preset, seed, size or format (see its recipe.json); "
            "remove it or choose another folder"
        )
    return (folder / "dataset.csv").is_file()


def _make_patients(
    folder: Path, preset: Preset, recipe: Recipe, workers: int
) -> Iterator[dict[str, list[tables.Row]]]:
    make = partial(make_patient, folder, preset, recipe)
    numbers = range(recipe.patients)
    if workers <= 1:
        yield from map(make, numbers)
        return
    # spawn: a forked child may inherit a lock that some library's thread held
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(make, numbers, chunksize=max(1, min(8, recipe.patients // (4 * workers))))


def make_patient(folder: Path, preset: Preset, recipe: Recipe, number: int) -> dict[str, list[tables.Row]]:
    """Makes all films of one patient; returns the rows of every table."""
    patient = patient_of(preset, recipe.seed, number)
    rows: dict[str, list[tables.Row]] = {"patients": [tables.patient_row(patient)]}
    for name in ("studies", "labels", "reports", "videos", "dataset"):
        rows[name] = []
    for study in studies_of(preset, recipe.seed, patient):
        rows["studies"].append(tables.study_row(study))
        rows["labels"].append(tables.label_row(study))
        rows["reports"] += tables.report_rows(study)
        for plan in films_of(preset, recipe.seed, study, recipe.format, recipe.vendors):
            film = make_film(folder, plan)
            rows["videos"].append(tables.video_row(plan, film))
            rows["dataset"].append(tables.dataset_row(plan) | _undrawn(preset))
    return rows


def plans_of(recipe: Recipe, split: str) -> Iterator[FilmPlan]:
    """The films of a data set's split, described and not made."""
    preset = preset_named(recipe.preset)
    patients = (patient_of(preset, recipe.seed, number) for number in range(recipe.patients))
    for patient in (each for each in patients if each.split == split):
        for study in studies_of(preset, recipe.seed, patient):
            yield from films_of(preset, recipe.seed, study, recipe.format, recipe.vendors)


def _undrawn(preset: Preset) -> tables.Row:
    """A finding that the preset never draws is not assessed: as a label it would have one class."""
    return {} if preset.calcification else {"calcification": ""}


def make_film(folder: Path, plan: FilmPlan) -> Film:
    """Renders and stores one film."""
    injection = plan.injection
    path = folder / plan.file_name
    if plan.format == "avi":
        film = render_film(replace(injection, bits=8))
        write_avi(path, film.pixels, injection.frame_rate_fps)
        return film
    film = render_film(injection)
    patient = plan.study.patient
    header = Header(
        patient_id=patient.patient_id,
        patient_sex=patient.sex,
        patient_age_years=patient.age_years,
        study_uid=plan.study.study_uid,
        instance_uid=plan.uid,
        instance_number=plan.number + 1,
        manufacturer=injection.vendor.name,
        intensity=injection.vendor.intensity,
        frame_rate_fps=injection.frame_rate_fps,
        carm=film.carm,
    )
    write_dicom(path, film.pixels, injection.bits, header, plan.format.removeprefix("dicom_"))
    return film
