"""Makes a data set of generated coronary angiograms: films, reports, labels. No patient was involved."""

import argparse
import logging
import os
import sys
import time
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

from deepcoro.angiography.cohort import vendor_numbers  # noqa: E402
from deepcoro.angiography.contact_sheet import write_sheet  # noqa: E402
from deepcoro.angiography.detector import VENDORS  # noqa: E402
from deepcoro.angiography.folder import Recipe, write_folder  # noqa: E402
from deepcoro.angiography.presets import PRESETS, preset_named  # noqa: E402
from deepcoro.config import ConfigError, DataError  # noqa: E402
from deepcoro.tool import num_cores  # noqa: E402

LOG = logging.getLogger("make_demo_data")

_EPILOG = """\
presets (size, frames, patients; --patients changes the last):
{presets}

what FOLDER holds afterwards:
  films/        Motion-JPEG AVI and DICOM XA (explicit, RLE, JPEG 2000; 8, 10 and 12 bit)
  dataset.csv   one row a film: FileName, PatientID, StudyInstanceUID, Split, Report, labels; written last.
                An empty cell means not assessed. A report speaks of one tree and is the same for all its films.
                Preset content adds what the other films of a catheter laboratory show, with contrast_agent,
                stent_presence and status. Vessels are as wide as they are in full and small_life_size, wider elsewhere.
  patients.csv studies.csv videos.csv labels.csv reports.csv   the truth behind the films
  demo.key      a public key for tools/shard_dataset.py --key_file (these ids hide nobody)
  recipe.json   preset, seed, size and format; the same command again finds its work done

examples:
  python tools/make_demo_data.py data/tiny --preset tiny
  python tools/make_demo_data.py data/demo --preset demo --workers 2 --preview data/demo.png
  python tools/make_demo_data.py data/full --preset full --patients 10 --format dicom
then:
  python tools/shard_dataset.py --csv data/tiny/dataset.csv --output shards/tiny --key_file data/tiny/demo.key
"""


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    lines = [
        f"  {preset.name:15} {preset.size_px:3} px, {'-'.join(map(str, sorted(set(preset.frames)))):5} frames, "
        f"{preset.patients} patients"
        for preset in PRESETS.values()
    ]
    parser = argparse.ArgumentParser(
        prog="make_demo_data.py",
        description=__doc__,
        epilog=_EPILOG.format(presets="\n".join(lines)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folder", type=Path, metavar="FOLDER", help="where the data set goes; made if missing"
    )
    parser.add_argument("--preset", default="tiny", help=f"one of {', '.join(PRESETS)} (default: tiny)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other patients (default: 0)")
    parser.add_argument(
        "--patients", type=int, default=None, help="number of patients (default: the preset's)"
    )
    parser.add_argument("--workers", type=int, default=None, help="processes (default: as many as cores)")
    parser.add_argument(
        "--format", choices=("mixed", "dicom", "avi"), default="mixed", help="kinds of film files"
    )
    vendors = f"makes of machine (default: all of {', '.join(vendor.name for vendor in VENDORS)})"
    parser.add_argument("--vendors", nargs="+", default=[], metavar="NAME", help=vendors)
    parser.add_argument(
        "--preview", type=Path, default=None, metavar="FILE.png", help="also save a contact sheet"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    logging.basicConfig(format="%(message)s")
    LOG.setLevel(logging.INFO)  # not of the libraries: OpenJPEG's encoder tells of each tile
    # the films are small: threads inside numpy would only get in the way of the other processes
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        make(options)
    except (ConfigError, DataError) as error:
        print(f"make_demo_data: {error.told}", file=sys.stderr)
        return 2
    return 0


def make(options: argparse.Namespace) -> None:
    preset = preset_named(options.preset)
    patients = preset.patients if options.patients is None else options.patients
    if patients < 1 or options.seed < 0:
        raise ConfigError(
            f"--patients {patients} --seed {options.seed}: at least one patient, a seed from 0 up"
        )
    vendor_numbers(tuple(options.vendors))  # an unknown one is refused before anything is made
    workers = options.workers or num_cores()
    if options.preview:
        write_sheet(options.preview, preset, options.seed)
    started = time.perf_counter()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("patients filmed", total=patients)
        recipe = Recipe(preset.name, options.seed, patients, options.format, tuple(options.vendors))
        films = write_folder(options.folder, recipe, workers, lambda _: progress.advance(task))
        progress.update(task, completed=patients)
    if films:
        LOG.info("%d films in %s (%.0f s)", films, options.folder, time.perf_counter() - started)
    else:
        LOG.info("%s already holds this data set", options.folder)


if __name__ == "__main__":
    sys.exit(main())
