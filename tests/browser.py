"""Pages as a browser draws them."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

NEEDS_BROWSER = pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
_OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


def drawn(page: Path, folder: Path, height_px: int = 2600) -> np.ndarray:
    """Grey levels [height, 1100] of the page's top; `folder` takes the browser's files."""
    picture = folder / f"{page.stem}.png"
    places = [f"--user-data-dir={folder / 'profile'}", f"--screenshot={picture}"]
    size = f"--window-size=1100,{height_px}"
    command = ["chromium", *_OPTIONS.split(), *places, size, page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    from PIL import Image

    grey = np.asarray(Image.open(picture).convert("L"))
    assert grey.shape == (height_px, 1100)
    return grey
