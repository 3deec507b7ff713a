"""The batched pass against one clip at a time in numpy and scipy; what a clip gets depends on its place in the run alone."""

import numpy as np
import pydantic
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from deepcoro import distributed
from deepcoro.augment import DRAWS, Augment, Config
from deepcoro.draws import clip_keys
from tests.ranks import Ranks

EVERYTHING = Config(
    crop_min_scale=0.5,
    rotation_deg=20,
    flip_probability=0.5,
    brightness=0.2,
    contrast=0.3,
    gamma=0.4,
    noise_std=6,
    blur_sigma_px=1.2,
    cutout_max_area=0.1,
)
SEED = 7
SLOTS = [2, 1, 0, 3]
"""Clips of each row of `batch`."""


def batch(channels: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Six clips in four rows, with bars: video, clip_mask, position (far into a long run)."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, (sum(SLOTS), channels, 3, 6, 8))
    video = np.zeros((sum(SLOTS), channels, 3, 32, 32))
    video[:, :, :, 4:28] = ndimage.zoom(coarse, (1, 1, 1, 4, 4), order=1).clip(1, 255)
    mask = torch.arange(3) < torch.tensor(SLOTS)[:, None]
    return torch.from_numpy(video).to(torch.uint8), mask, 5_000_000_000 + torch.arange(4)


def mix(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.uint32)
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
        x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def one_clip(clip: np.ndarray, seed: int, position: int, slot: int, config: Config) -> np.ndarray:
    """[channel frame height width] -> the same, in double precision, step by step as the configuration describes it."""
    key = mix((position & 0xFFFFFFFF) ^ int(mix(seed & 0xFFFFFFFF)))
    key = mix(int(key) ^ (position >> 32) ^ int(mix(seed >> 32)))
    key = mix(int(key) ^ slot)
    u = {name: (int(mix(int(key) ^ int(mix(1 + n)))) >> 8) / 2**24 for n, name in enumerate(DRAWS)}
    height, width = clip.shape[2:]
    side = np.sqrt(1 - u["crop_scale"] * (1 - config.crop_min_scale))
    angle = np.radians(config.rotation_deg) * (2 * u["rotation"] - 1)
    down, across = np.meshgrid(
        *((2 * np.arange(size) + 1) / size - 1 for size in (height, width)), indexing="ij"
    )
    across = -across if u["flip"] < config.flip_probability else across
    column = side * (across * np.cos(angle) - down * np.sin(angle)) + (2 * u["crop_x"] - 1) * (1 - side)
    row = side * (across * np.sin(angle) + down * np.cos(angle)) + (2 * u["crop_y"] - 1) * (1 - side)
    place = [((row + 1) * height - 1) / 2, ((column + 1) * width - 1) / 2]
    pixels = np.stack(
        [
            [
                ndimage.map_coordinates(frame.astype(float), place, order=1, mode="grid-constant")
                for frame in frames
            ]
            for frames in clip
        ]
    )
    shown = pixels.max((0, 1)) > 0
    sigma = max(u["blur"] * config.blur_sigma_px, 1e-3)
    reach = np.arange(-int(np.ceil(3 * config.blur_sigma_px)), int(np.ceil(3 * config.blur_sigma_px)) + 1)
    weights = np.exp(-0.5 * (reach / sigma) ** 2)
    for axis in (2, 3):
        pixels = ndimage.correlate1d(pixels, weights / weights.sum(), axis=axis, mode="nearest")
    gain, stretch = (1 + getattr(config, name) * (2 * u[name] - 1) for name in ("brightness", "contrast"))
    pixels = gain * (clip.mean() + stretch * (pixels - clip.mean()))
    pixels = 255 * (pixels.clip(0, 255) / 255) ** ((1 + config.gamma) ** (2 * u["gamma"] - 1))
    index = np.arange(clip[0].size, dtype=np.uint32).reshape(clip.shape[1:])
    bits = mix(int(mix(~np.uint32(key))) ^ mix(index))
    total = sum((bits >> np.uint32(shift)) & np.uint32(0xFF) for shift in (0, 8, 16, 24)).astype(float)
    pixels = pixels + u["noise"] * config.noise_std * (total - 510) / np.sqrt((256**2 - 1) / 3)
    box = np.sqrt(u["cutout_area"] * config.cutout_max_area)
    y, x = ((np.arange(size) + 0.5) / size for size in (height, width))
    in_y, in_x = (
        (p >= u[n] * (1 - box)) & (p < u[n] * (1 - box) + box) for n, p in (("cutout_y", y), ("cutout_x", x))
    )
    shown &= ~(in_y[:, None] & in_x)
    return pixels.round().clip(0, 255) * shown


@pytest.mark.parametrize("channels", [1, 3])
def test_the_batched_pass_is_one_clip_at_a_time(channels: int) -> None:
    video, mask, position = batch(channels)
    got = Augment(EVERYTHING, SEED)(video, mask, position)
    assert got.dtype == torch.uint8 and got.shape == video.shape
    places = [(row, slot) for row, count in enumerate(SLOTS) for slot in range(count)]
    slow = np.stack(
        [
            one_clip(video[n].numpy(), SEED, int(position[row]), slot, EVERYTHING)
            for n, (row, slot) in enumerate(places)
        ]
    )
    difference = np.abs(got.numpy() - slow)
    assert (difference > 1).mean() < 1e-3, "a pixel on the rim of the black may fall to either side"
    assert (difference > 0).mean() < 0.01, "float32 may round half a level the other way"
    assert np.abs(slow - video.numpy()).mean() > 10


SINGLE = {
    "crop_min_scale": 0.3,
    "rotation_deg": 30,
    "flip_probability": 1.0,
    "brightness": 0.3,
    "contrast": 0.4,
    "gamma": 0.8,
    "noise_std": 10,
    "blur_sigma_px": 2.0,
    "cutout_max_area": 0.3,
}


@pytest.mark.parametrize("name", SINGLE)
def test_every_key_does_its_own_work(name: str) -> None:
    video, mask, position = batch()
    config = Config(**{name: SINGLE[name]})
    got = Augment(config, SEED)(video, mask, position)
    slow = one_clip(video[0].numpy(), SEED, int(position[0]), 0, config)
    assert (np.abs(got[0].numpy() - slow) > 1).mean() < 1e-3
    assert (got != video).any(dim=(1, 2, 3, 4)).sum() >= 5, "a draw may fall next to nothing"
    if name == "flip_probability":
        assert torch.equal(got, video.flip(-1))


def test_all_off_by_default_and_then_the_bytes_are_the_same_object() -> None:
    video, mask, position = batch()
    assert Augment(Config(), SEED)(video, mask, position) is video
    assert Config().flip_probability == 0


def test_frames_of_a_clip_change_alike_and_clips_apart() -> None:
    video, mask, position = batch()
    still = video[:, :, :1].expand(-1, -1, 3, -1, -1).contiguous()
    config = EVERYTHING.model_copy(update={"noise_std": 0.0})
    got = Augment(config, SEED)(still, mask, position)
    assert (got == got[:, :, :1]).all()
    same = Augment(config, SEED)(video[:1].expand(6, -1, -1, -1, -1).contiguous(), mask, position)
    assert len({clip.numpy().tobytes() for clip in same}) == 6
    noisy = Augment(Config(noise_std=20), SEED)(still, mask, position)
    assert not (noisy == noisy[:, :, :1]).all(), "noise differs from frame to frame"


def test_noise_has_the_deviation_it_was_drawn() -> None:
    video = torch.full((1, 1, 16, 64, 64), 128, dtype=torch.uint8)
    mask, position = torch.ones(1, 1, dtype=torch.bool), torch.tensor([3])
    key = int(clip_keys(SEED, 1, mask, position))
    drawn = (int(mix((key & 0xFFFFFFFF) ^ int(mix(1 + DRAWS.index("noise"))))) >> 8) / 2**24
    difference = Augment(Config(noise_std=20), SEED)(video, mask, position).double() - 128
    assert abs(difference.mean()) < 0.2
    assert difference.std() == pytest.approx(20 * drawn, rel=0.02)
    assert abs(np.corrcoef(difference[0, 0, 0].ravel(), difference[0, 0, 1].ravel())[0, 1]) < 0.05


def test_black_that_stays_black_stays_black() -> None:
    """Bars are no data: brightening and noise must not make them grey."""
    video, mask, position = batch()
    config = Config(brightness=0.3, contrast=0.5, gamma=0.5, noise_std=20)
    got = Augment(config, SEED)(video, mask, position)
    assert not got[:, :, :, :4].any() and not got[:, :, :, 28:].any()
    assert (got[:, :, :, 5:27] > 0).float().mean() > 0.9


def test_a_grey_film_is_the_same_beside_a_colour_film() -> None:
    """Collation shows it as three equal channels then."""
    video, mask, position = batch()
    grey = Augment(EVERYTHING, SEED)(video, mask, position)
    shown = Augment(EVERYTHING, SEED)(video.expand(-1, 3, -1, -1, -1).contiguous(), mask, position)
    assert torch.equal(shown, grey.expand(-1, 3, -1, -1, -1))


def test_a_batch_without_clips_keeps_its_black_film() -> None:
    black = torch.zeros(1, 1, 2, 16, 16, dtype=torch.uint8)
    got = Augment(EVERYTHING, SEED)(black, torch.zeros(3, 1, dtype=torch.bool), torch.tensor([4, 5, -1]))
    assert torch.equal(got, black)


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=6),
    st.integers(0, 2**40),
    st.integers(0, 2**33),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_the_keys_of_clips_depend_on_seed_position_and_slot_alone(
    counts: list[int], first: int, seed: int, data: st.DataObject
) -> None:
    position = first + torch.arange(len(counts))
    mask = torch.arange(3) < torch.tensor(counts)[:, None]
    together = clip_keys(seed, sum(counts), mask, position).tolist()
    cut = data.draw(st.integers(0, len(counts)))
    apart = [
        key
        for part in (slice(0, cut), slice(cut, None))
        if sum(counts[part])
        for key in clip_keys(seed, sum(counts[part]), mask[part], position[part]).tolist()
    ]
    assert together == apart and len(set(together)) == len(together)


def share_of_rank(rank: int) -> torch.Tensor:
    video, mask, position = batch()
    rows = 4 // distributed.world_size()
    mine = slice(rank * rows, (rank + 1) * rows)
    start, count = int(mask[: rank * rows].sum()), int(mask[mine].sum())
    return Augment(EVERYTHING, SEED)(video[start : start + count], mask[mine], position[mine])


def test_two_ranks_show_the_pixels_of_one(two_ranks: Ranks) -> None:
    assert torch.equal(torch.cat(two_ranks.run(share_of_rank)), share_of_rank(0))


def test_a_magnitude_out_of_range_names_its_key() -> None:
    with pytest.raises(pydantic.ValidationError, match="flip_probability"):
        Config(flip_probability=2)
