import io
from dataclasses import replace

import numpy as np
import pydantic
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional

from deepcoro.angiography.cohort import films_of, patient_of, studies_of
from deepcoro.angiography.film import render_film
from deepcoro.angiography.presets import preset_named
from deepcoro.config import DataError
from deepcoro.data.manifest import Encoding
from deepcoro.data.member import encode
from deepcoro.fields.video import Box, Config, decode_frames, fitted, frame_indices, scale_factor, shown_box
from deepcoro.sample import ClipRecord
from tests.data.folder import study_with

JPEG, LOSSLESS = Encoding(), Encoding(type="lossless")


def film(num_frames=12, height=48, width=64, channels=1, seed=0):
    """Smooth noise, so that JPEG and resizing are near to exact."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (num_frames, 6, 6, channels), dtype=np.uint8)
    frames = [
        np.asarray(
            Image.fromarray(frame.squeeze(2) if channels == 1 else frame).resize(
                (width, height), Image.BICUBIC
            )
        )
        for frame in coarse
    ]
    return np.stack(frames).reshape(num_frames, height, width, channels)


def decode(shot, draw=None, encoding=JPEG, **config):
    record, payloads = study_with("s", [shot], encoding)
    [result] = Config(**config).build().decode(record, (0,), lambda clip: payloads[clip], draw)
    return result


def record_of(num_frames, frame_rate_fps=15.0, height=32, width=32):
    return ClipRecord(
        clip="c",
        member="000.mjpg",
        frame_offsets=list(range(num_frames + 1)),
        height=height,
        width=width,
        frame_rate_fps=frame_rate_fps,
    )


@given(st.integers(1, 200), st.integers(1, 40), st.integers(0, 10**6))
def test_uniform_sampling_takes_one_frame_from_every_equal_part_of_the_film(num_frames, frames, seed):
    config, clip = Config(frames=frames), record_of(num_frames)
    for draw in (None, np.random.default_rng(seed)):
        [indices] = frame_indices(config, clip, draw)
        first = np.floor(np.arange(frames) * num_frames / frames)
        last = np.ceil((np.arange(frames) + 1) * num_frames / frames) - 1
        assert (indices >= first).all() and (indices <= last).all()


def test_evaluation_shows_the_centres_and_training_every_frame_in_time():
    config, clip = Config(frames=4), record_of(20)
    assert frame_indices(config, clip, None).tolist() == [[2, 7, 12, 17]]
    seen = {
        frame for seed in range(200) for frame in frame_indices(config, clip, np.random.default_rng(seed))[0]
    }
    assert seen == set(range(20))


def test_a_film_shorter_than_the_frames_asked_for_shows_frames_again_in_order():
    assert frame_indices(Config(frames=6), record_of(3), None).tolist() == [[0, 0, 1, 1, 2, 2]]
    window = Config(frames=4, sampling="window", stride_s=0.2)
    assert frame_indices(window, record_of(3), None).tolist() == [[0, 0, 2, 2]]
    video = decode(film(num_frames=1), frames=5, size_px=16)
    assert video.shape == (1, 5, 16, 16)
    assert (video == video[:, :1]).all()


def test_a_window_lies_around_the_centre_with_the_stride_in_seconds():
    config = Config(frames=4, sampling="window", stride_s=0.2)
    assert frame_indices(config, record_of(61, frame_rate_fps=15), None).tolist() == [[26, 29, 32, 35]]
    assert np.diff(frame_indices(config, record_of(60, frame_rate_fps=30), None)).tolist() == [[6, 6, 6]]
    starts = {frame_indices(config, record_of(40), np.random.default_rng(seed))[0, 0] for seed in range(300)}
    assert starts == set(range(31))


def windows_of(windows, **more):
    return Config(frames=4, sampling="multi_window", stride_s=0.2, windows=windows, **more)


def test_windows_cover_the_film_from_beginning_to_end_and_training_moves_each_in_its_share():
    config, clip = windows_of(3), record_of(50)
    assert frame_indices(config, clip, None)[:, 0].tolist() == [0, 20, 40]
    assert frame_indices(config, clip, None)[-1].tolist() == [40, 43, 46, 49]
    draws = [frame_indices(config, clip, np.random.default_rng(seed))[:, 0] for seed in range(300)]
    shares = [{int(starts[window]) for starts in draws} for window in range(3)]
    assert shares == [set(range(0, 14)), set(range(13, 28)), set(range(27, 41))]


@given(st.integers(1, 300), st.integers(2, 6), st.sampled_from([7.5, 12.5, 15.0, 30.0]), st.integers(0, 999))
def test_every_window_has_its_stride_and_lies_within_the_film(num_frames, windows, rate_fps, seed):
    config, clip = windows_of(windows), record_of(num_frames, rate_fps)
    for draw in (None, np.random.default_rng(seed)):
        shown = frame_indices(config, clip, draw)
        assert shown.min() >= 0 and shown.max() < num_frames
        assert len(shown) == (windows if num_frames - 0.6 * rate_fps > 1 else 1)
        if len(shown) > 1:
            assert (np.abs(np.diff(shown, axis=1) - 0.2 * rate_fps) < 1).all()
            assert (np.diff(shown[:, 0]) >= 0).all()


def test_the_windows_of_a_film_are_clips_of_its_row_and_a_short_film_fills_one_slot():
    long, short = film(num_frames=50), film(num_frames=3)
    record, payloads = study_with("s", [long, short], LOSSLESS)
    field = windows_of(3, size_px=32).build()
    clips = field.decode(record, (0, 1), lambda clip: payloads[clip], None)
    batch = field.collate([clips, None], num_videos=2)
    assert batch["clip_mask"].tolist() == [[True] * 4 + [False] * 2, [False] * 6]
    assert batch["video"].shape == (4, 1, 4, 32, 32)
    for number, frames in enumerate(frame_indices(windows_of(3), record.clips[0], None)):
        alone = Config(frames=1, size_px=32).build()
        for place, frame in enumerate(frames):
            one, [payload] = study_with("s", [long[frame : frame + 1]], LOSSLESS)
            [expected] = alone.decode(one, (0,), lambda clip, payload=payload: payload, None)
            assert (batch["video"][number, :, place].int() - expected[:, 0].int()).abs().max() <= 1


def test_a_window_of_a_film_without_a_frame_rate_is_a_bad_sample_with_its_reason():
    record, payloads = study_with("s", [film()], JPEG)
    record = record.model_copy(
        update={"clips": [record.clips[0].model_copy(update={"frame_rate_fps": None})]}
    )
    field = Config(sampling="window", stride_s=0.1).build()
    with pytest.raises(
        DataError, match="film s-film0 of study s: frame rate unknown.*default_frame_rate_fps"
    ):
        field.decode(record, (0,), lambda clip: payloads[clip], None)
    given = Config(sampling="window", stride_s=0.2, frames=3, default_frame_rate_fps=10)
    assert np.diff(frame_indices(given, record.clips[0], None)).tolist() == [[2, 2]]
    assert np.diff(frame_indices(given, record_of(30), None)).tolist() == [[3, 3]], "a film's own rate wins"


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"sampling": "window"}, "stride_s"),
        ({"stride_s": 0.1}, "stride_s"),
        ({"stride_s": -1, "sampling": "window"}, "stride_s"),
        ({"sampling": "multi_window", "stride_s": 0.1}, "windows"),
        ({"sampling": "window", "stride_s": 0.1, "windows": 2}, "windows"),
        ({"sampling": "multi_window", "stride_s": 0.1, "windows": 1}, "windows"),
    ],
)
def test_strides_and_windows_belong_to_their_sampling_and_only_there(keys, named):
    with pytest.raises(pydantic.ValidationError, match=named):
        Config(**keys)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("encoding", [JPEG, LOSSLESS])
def test_the_frames_shown_are_those_of_the_film_at_the_size_asked_for(channels, encoding):
    frames = film(channels=channels)
    video = decode(frames, encoding=encoding, frames=4, size_px=32)
    assert video.dtype == torch.uint8 and video.shape == (channels, 4, 32, 32)
    for place, number in enumerate([1, 4, 7, 10]):
        image = Image.fromarray(frames[number].squeeze(2) if channels == 1 else frames[number])
        expected = np.zeros((32, 32, channels))
        expected[4:28] = np.asarray(image.resize((32, 24), Image.BILINEAR)).reshape(24, 32, channels)
        got = video[:, place].permute(1, 2, 0).numpy()
        assert np.abs(got - expected).mean() < (2.0 if encoding is LOSSLESS else 4.0)
        assert (got[:4] == 0).all() and (got[28:] == 0).all()


def test_lossless_frames_at_their_stored_size_come_back_bit_by_bit():
    frames = film(height=32, width=32)
    video = decode(frames, encoding=LOSSLESS, frames=12, size_px=32)
    assert torch.equal(video[0], torch.from_numpy(frames[..., 0]))


def test_crop_shows_the_central_square_and_letterbox_the_whole_frame():
    frames = np.zeros((2, 40, 80, 1), np.uint8)
    frames[:, :, 20:60] = 200
    cropped = decode(frames, encoding=LOSSLESS, frames=2, size_px=20, fit="crop")
    assert (cropped == 200).all()
    boxed = decode(frames, encoding=LOSSLESS, frames=2, size_px=20)
    assert (boxed[:, :, :5] == 0).all() and (boxed[:, :, 15:] == 0).all()
    assert (boxed[:, :, 5:15, 6:14] == 200).all() and (boxed[:, :, 5:15, :4] == 0).all()


def test_a_portrait_film_has_bars_left_and_right():
    boxed = decode(np.full((2, 80, 40, 1), 200, np.uint8), encoding=LOSSLESS, frames=2, size_px=20)
    assert (
        (boxed[:, :, :, 5:15] == 200).all()
        and (boxed[:, :, :, :5] == 0).all()
        and (boxed[:, :, :, 15:] == 0).all()
    )


@given(st.integers(16, 900), st.integers(16, 900), st.sampled_from(["letterbox", "crop"]))
def test_any_film_is_decoded_at_the_coarsest_scale_that_still_has_the_size(height, width, fit):
    config, clip = Config(size_px=56, fit=fit), record_of(3, height=height, width=width)
    box = shown_box(height, width, config)
    longer = max(box.height * height, box.width * width)
    factor = scale_factor(clip, box, config)
    assert factor in (1, 2, 4, 8)
    assert factor == 1 or longer / factor >= 56
    assert factor == 8 or longer / (2 * factor) < 56
    out = fitted(
        torch.zeros(1, 1, -(-height // factor), -(-width // factor), dtype=torch.uint8), clip, box, config
    )
    assert out.shape == (1, 1, 56, 56)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_decoding_at_a_smaller_scale_gives_the_film_made_smaller(factor):
    frames = film(num_frames=2, height=128, width=96)
    record, [payload] = study_with("s", [frames], JPEG)
    small = decode_frames(record.clips[0], payload, np.arange(2), factor)
    assert small.shape == (2, 1, 128 // factor, 96 // factor)
    expected = np.asarray(Image.fromarray(frames[1, ..., 0]).resize((96 // factor, 128 // factor), Image.BOX))
    assert np.abs(small[1, 0].numpy().astype(int) - expected).mean() < 3


@pytest.mark.parametrize(("height", "width"), [(130, 99), (257, 66)])
def test_a_film_whose_sides_no_scale_divides_is_decoded_at_that_scale(height, width):
    frames = film(num_frames=2, height=height, width=width)
    video = decode(frames, frames=2, size_px=16, fit="crop")
    record, _ = study_with("s", [frames], JPEG)
    assert scale_factor(record.clips[0], shown_box(height, width, Config(fit="crop")), Config(size_px=16)) > 1
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(frames[0, top : top + side, left : left + side, 0]).resize((16, 16), Image.BOX)
    assert np.abs(video[0, 0].numpy().astype(int) - np.asarray(square)).mean() < 12


def test_letterbox_shows_the_whole_frame_and_crop_its_central_square():
    assert shown_box(40, 80, Config()) == Box(0, 0, 1, 1)
    assert shown_box(40, 80, Config(fit="crop")) == Box(0, 0.25, 1, 0.5)


def test_a_grey_film_beside_a_colour_film_has_three_equal_channels_and_alone_stays_grey():
    field = Config(frames=3, size_px=16).build()
    grey, colour = decode(film(), frames=3, size_px=16), decode(film(channels=3), frames=3, size_px=16)
    assert field.collate([[grey], [grey]], 1)["video"].shape == (2, 1, 3, 16, 16)
    mixed = field.collate([[grey], [colour]], 1)["video"]
    assert mixed.shape == (2, 3, 3, 16, 16)
    assert torch.equal(mixed[0], grey.expand(3, -1, -1, -1)) and torch.equal(mixed[1], colour)


def test_only_real_clips_are_stacked_and_the_mask_tells_their_cells():
    field = Config(frames=2, size_px=8).build()
    one, two, three = (torch.full((1, 2, 8, 8), value, dtype=torch.uint8) for value in (1, 2, 3))
    batch = field.collate([[one, two], None, [three]], num_videos=3)
    assert batch["video"][:, 0, 0, 0, 0].tolist() == [1, 2, 3]
    assert batch["clip_mask"].tolist() == [[True, True, False], [False] * 3, [True, False, False]]
    empty = field.collate([None, None], num_videos=3)
    assert (
        empty["video"].shape == (1, 1, 2, 8, 8) and not empty["video"].any() and not empty["clip_mask"].any()
    )


def test_only_the_wanted_frames_are_decoded():
    record, [payload] = study_with("s", [film()], JPEG)
    clip = record.clips[0]
    broken = bytearray(payload)
    for number in range(12):
        if number not in (1, 4, 7, 10):
            start, end = clip.frame_offsets[number : number + 2]
            broken[start:end] = bytes(end - start)
    field = Config(frames=4, size_px=32).build()
    [one], [other] = (
        field.decode(record, (0,), lambda _, blob=blob: bytes(blob), None) for blob in (payload, broken)
    )
    assert torch.equal(one, other)


@pytest.mark.parametrize("encoding", [JPEG, LOSSLESS])
def test_broken_frames_are_a_data_error_named_by_film_and_study(encoding):
    record, [payload] = study_with("s", [film()], encoding)
    with pytest.raises(DataError, match="film s-film0 of study s"):
        Config().build().decode(record, (0,), lambda clip: bytes(len(payload)), None)


@pytest.mark.parametrize("encoding", [JPEG, LOSSLESS])
@pytest.mark.parametrize("said", [{"height": 96}, {"width": 32}, {"frame_offsets": [0] * 13}])
def test_a_record_that_does_not_fit_its_frames_is_a_data_error(encoding, said):
    record, [payload] = study_with("s", [film()], encoding)
    record = record.model_copy(update={"clips": [record.clips[0].model_copy(update=said)]})
    with pytest.raises(DataError, match="film s-film0 of study s"):
        Config(size_px=16).build().decode(record, (0,), lambda clip: payload, None)


def test_a_members_frames_are_a_jpeg_stream_that_any_reader_opens():
    frames = film()
    record, [payload] = study_with("s", [frames], JPEG)
    start, end = record.clips[0].frame_offsets[3:5]
    image = np.asarray(Image.open(io.BytesIO(payload[start:end])))
    assert np.abs(image.astype(int) - frames[3, ..., 0]).mean() < 4


RATES_FPS = (7.5, 15.0, 30.0)


@pytest.fixture(scope="module")
def one_injection():
    """The same four seconds at three frame rates: rate -> [frame height width]."""
    preset = preset_named("small")
    study = studies_of(preset, 0, patient_of(preset, 0, 0))[0]
    scene = replace(films_of(preset, 0, study)[0].injection, pan_mm=(0.0, 0.0))
    return {
        rate: render_film(replace(scene, frame_rate_fps=rate, num_frames=int(4 * rate))).pixels
        for rate in RATES_FPS
    }


SAMPLINGS = [
    {"sampling": "uniform"},
    {"sampling": "window", "stride_s": 0.2},
    {"sampling": "window", "stride_s": 0.17},
    {"sampling": "multi_window", "stride_s": 0.15, "windows": 3},
]


@pytest.mark.parametrize("keys", SAMPLINGS)
@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_one_scene_at_three_frame_rates_gives_the_same_clip_within_a_frames_time(one_injection, keys, seed):
    config = Config(frames=8, **keys)
    times, clips = {}, {}
    for rate, pixels in one_injection.items():
        draw = None if seed is None else np.random.default_rng(seed)
        shown = frame_indices(config, record_of(len(pixels), rate), draw)
        times[rate], clips[rate] = shown / rate, pixels[shown].astype(float)
    for slow, fast in [(7.5, 15.0), (7.5, 30.0), (15.0, 30.0)]:
        assert times[slow].shape == times[fast].shape
        assert (np.abs(times[slow] - times[fast]) < 1 / slow).all()
    # and what is seen then is the same scene: half a heartbeat later it is another
    near = np.abs(clips[7.5] - clips[30.0]).mean()
    later = np.round((times[7.5] + 0.45) * 30).astype(int)
    inside = later < 120
    other = one_injection[30.0][later[inside]].astype(float)
    assert near < 0.95 * np.abs(clips[7.5][inside] - other).mean()


def pillow_frames(clip, payload, numbers):
    parts = [payload[clip.frame_offsets[each] : clip.frame_offsets[each + 1]] for each in numbers]
    return torch.from_numpy(np.stack([np.asarray(Image.open(io.BytesIO(part))) for part in parts]))


@pytest.mark.parametrize(("stored_px", "size_px"), [(256, 224), (448, 224), (448, 256), (512, 224)])
def test_a_clip_is_what_pillow_decodes_and_torch_resizes_in_fp32(one_injection, stored_px, size_px):
    """The slow way: every frame whole, resized with antialiasing in floating point. Half-scale decoding is the difference."""
    large = [
        np.asarray(Image.fromarray(frame).resize((stored_px, stored_px), Image.BICUBIC))[..., None]
        for frame in one_injection[7.5]
    ]
    record, [payload] = study_with("s", [np.stack(large)], Encoding(short_side_px=stored_px))
    config = Config(size_px=size_px)
    [clip] = config.build().decode(record, (0,), lambda _: payload, None)
    frames = pillow_frames(record.clips[0], payload, frame_indices(config, record.clips[0], None)[0])
    slow = torch.nn.functional.interpolate(
        frames[:, None].float(), size=(size_px, size_px), mode="bilinear", antialias=True
    )
    difference = (clip[0].float() - slow[:, 0]).abs()
    halved = stored_px >= 2 * size_px
    assert difference.mean() < (0.6 if halved else 0.3) and difference.max() < (12 if halved else 1.6)


def test_by_default_a_stored_frame_of_the_usual_size_is_shown_without_being_resized(monkeypatch):
    """512 x 512 is stored as 448 x 448 and decoded at half the scale, which is what towers are shown by default."""
    stored = encode(film(num_frames=3, height=512, width=512), Encoding())
    record = record_of(3, height=stored.height, width=stored.width)
    config = Config()
    assert scale_factor(record, shown_box(stored.height, stored.width, config), config) == 2
    monkeypatch.setattr(functional, "interpolate", lambda *_, **__: pytest.fail("a frame was resized"))
    assert decode(film(num_frames=3, height=448, width=448)).shape == (1, 16, 224, 224)


@pytest.mark.parametrize("frames", [2, 3, 4, 5])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_frame_is_resized_as_it_would_be_alone(frames, channels):
    shot = film(num_frames=frames, channels=channels)
    together = decode(shot, encoding=LOSSLESS, frames=frames, size_px=32)
    for number in range(frames):
        alone = decode(shot[number : number + 1], encoding=LOSSLESS, frames=1, size_px=32)
        assert (together[:, number].int() - alone[:, 0].int()).abs().max() <= 1
