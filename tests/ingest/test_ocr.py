"""Names are looked for, by a reader of text that knows nothing of this program, in the frames that shards hold."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.ingest import films
from tests.ingest.films import write_dicom
from tests.ingest.test_regression_traps import films_in, shard
from tests.ingest.test_sector import echo
from tests.ingest.writing import burn, clean_films, letters

pytestmark = pytest.mark.slow  # reading a picture takes a second
NAME = "TREMBLAY GENEVIEVE"


@pytest.fixture(scope="module", autouse=True)
def tesseract() -> str:
    found = shutil.which("tesseract")
    if found is None and os.environ.get("CI") == "true":
        pytest.fail(
            "tesseract is missing, so no name can be looked for; .ci/run installs Debian's tesseract-ocr"
        )
    if found is None:
        pytest.skip("tesseract is not installed (Debian: apt-get install tesseract-ocr)")
    return found


def read_text(frame: np.ndarray, folder: Path) -> str:
    """All letters that OCR finds in a picture, dark on light and light on dark, upper case without spaces."""
    words = ""
    for name, shown in (("light", frame), ("dark", 255 - frame)):
        picture = Image.fromarray(shown).convert("L")
        picture.resize((picture.width * 3, picture.height * 3), Image.Resampling.BICUBIC).save(
            folder / f"{name}.png"
        )
        command = ["tesseract", str(folder / f"{name}.png"), "-", "--psm", "11"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
        words += done.stdout
    return re.sub("[^A-Z0-9]", "", words.upper())


def names_in(text: str) -> bool:
    """A piece of four letters is enough to be found again."""
    pieces = {word[start : start + 4] for word in NAME.split() for start in range(len(word) - 3)}
    return any(piece in text for piece in pieces)


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> tuple[Path, dict[str, np.ndarray]]:
    """Films with names in them, as files, and what they show; a clean one and an echo are among them."""
    folder = tmp_path_factory.mktemp("planted")
    clean = [film for film, _ in clean_films("full", 7, seed=8, frames=(12, 12))]
    big, small = letters(NAME, 28), letters(NAME, 18)
    shown = {
        "white": burn(clean[0], big, "tl"),
        "faint": burn(clean[1], big, "cc", ink=min(float(clean[1][0].mean()) + 25, 255)),
        "moving": burn(clean[2], big, "tl", step=(3, 5)),
        "deep": burn(clean[3], small, "br"),
        "inverse": burn(clean[4], small, "cc", ink=10),
        "clean": clean[5],
    }
    for name, film in shown.items():
        how: dict = {"PhotometricInterpretation": "MONOCHROME1"} if name == "inverse" else {}
        stored = 255 - film if name == "inverse" else film
        if name == "deep":
            stored, how = film.astype(np.uint16) << 4, {"bits": 12, "WindowCenter": 2048, "WindowWidth": 4096}
        write_dicom(folder / name, stored, InstanceNumber=len(name), **how)
    overlay = np.zeros(clean[6].shape[1:], bool)
    overlay[4 : 4 + big.shape[0], 4 : 4 + big.shape[1]] = big > 0.5
    window = {"WindowCenter": 512, "WindowWidth": 1024}
    high = (clean[6].astype(np.uint16) << 2) | (overlay.astype(np.uint16) << 12)
    write_dicom(folder / "overlay", high, bits=10, **window)
    shown["overlay"] = np.where(overlay, 255, clean[6])
    shown["echo"] = burn(echo(size=(480, 640))[0], big, "tl")
    write_dicom(folder / "echo", shown["echo"], SOPClassUID=films.US)
    return folder, shown


def test_the_reader_finds_the_names_where_they_are(planted, tmp_path):
    """Otherwise that it finds none in the shards would say nothing."""
    _, shown = planted
    assert not names_in(read_text(shown["clean"][6], tmp_path))
    for name in ("white", "moving", "deep", "overlay", "echo"):
        assert names_in(read_text(shown[name][6], tmp_path)), name


def test_no_name_is_in_the_frames_of_the_shards(planted, tmp_path):
    folder, shown = planted
    output = shard(folder, {name: folder / name for name in shown})
    found = films_in(output)
    assert len(found) == 3  # the clean film, the one with the overlay, the echo
    for _, frames in found:
        for frame in (
            frames[0],
            frames[len(frames) // 2],
            frames.max(axis=0),
            frames.mean(axis=0).astype(np.uint8),
        ):
            assert not names_in(read_text(frame, tmp_path))
