"""Echo-like films of different hearts in one and the same sector: four chambers, walls, valves and speckle."""

import numpy as np
from scipy import ndimage

SIZE_PX = 128


def sector(size_px: int = SIZE_PX) -> np.ndarray:
    """The fan of the probe, the same on every film."""
    down, across = np.mgrid[:size_px, :size_px] / size_px
    depth, side = down - 0.04, across - 0.5
    return (np.hypot(depth, side) < 0.9) & (np.abs(side) < 0.75 * depth) & (depth > 0.02)


def echo_film(
    patient: int, num_frames: int = 12, size_px: int = SIZE_PX, likeness: float = 0.0
) -> list[np.ndarray]:
    """An apical four-chamber view, uint8 [height width] a frame: chambers vary by patient as hearts do, the sector does not.

    `likeness` 0..1: at 1 the hearts of all patients are the same but for their speckle.
    """
    vary = 1 - likeness
    random = np.random.default_rng(patient)
    down, across = np.mgrid[:size_px, :size_px] / size_px
    tilt, gain, depth_loss = (
        vary * random.normal(0, 0.15),
        1 + vary * random.uniform(-0.3, 0.3),
        0.4 + vary * random.uniform(-0.2, 0.2),
    )
    centres = np.array([[0.38, 0.58], [0.38, 0.40], [0.68, 0.57], [0.68, 0.40]]) + vary * random.normal(
        0, 0.025, (4, 2)
    )
    radii = np.array([[0.22, 0.09], [0.17, 0.07], [0.10, 0.09], [0.10, 0.08]]) * (
        1 + vary * random.uniform(-0.25, 0.25, (4, 1))
    )
    texture = ndimage.gaussian_filter(random.normal(0, 1, (size_px, size_px)), 0.03 * size_px)
    tissue = 90 * gain * (1 + 0.5 * vary * texture / texture.std()) * (1 - depth_loss * down)
    rate, inside = 1.2 + vary * random.uniform(-0.4, 0.4), sector(size_px)
    film = []
    for number in range(num_frames):
        beat = 1 - 0.15 * np.sin(2 * np.pi * rate * number / num_frames)
        image = tissue.copy()
        for (row, column), (tall, wide) in zip(centres, radii * beat, strict=True):
            y, x = down - row, across - column - tilt * (down - 0.5)
            ring = np.hypot(y / tall, x / wide)
            image = np.where(ring < 1, 8 * gain, image) + 80 * gain * np.exp(-(((ring - 1.1) / 0.12) ** 2))
        speckle = random.gamma(3.0, 1 / 3, image.shape)
        film.append(np.where(inside, np.clip(image * speckle, 0, 255), 0).astype(np.uint8))
    return film


def poor_window(patient: int, contrast: float = 0.1) -> list[np.ndarray]:
    """Haze in the sector and hardly anything of the heart: 12 frames, uint8 [height width]."""
    random = np.random.default_rng(patient)
    still, moving = (ndimage.gaussian_filter(random.normal(0, 1, (SIZE_PX, SIZE_PX)), 5) for _ in range(2))
    still, moving, inside = contrast * still / still.std(), contrast * moving / moving.std(), sector()
    film = []
    for number in range(12):
        image = 80 * (1 + still + moving * np.sin(number / 2)) * random.gamma(3.0, 1 / 3, still.shape)
        film.append(np.where(inside, np.clip(image, 0, 255), 0).astype(np.uint8))
    return film
