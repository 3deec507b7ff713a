"""The preset `predecessor`: films as DeepCORO_CLIP showed them, against a re-statement of it over the AVI itself."""

import cv2
import numpy as np
import pydantic
import pytest
import torch
from torch.nn import functional

from deepcoro.data.manifest import Encoding
from deepcoro.fields.video import Config, frame_indices
from deepcoro.ingest.open import open_film
from tests.data.folder import study_with
from tests.fields.test_video import film, record_of

SIZE_PX = 64


def written_avi(path, frames):
    """Motion JPEG of grey frames [frame height width 1]."""
    height, width = frames.shape[1:3]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 15, (width, height))
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR))
    writer.release()
    return path


def read_by_the_predecessor(path):
    """Every frame, as three channels."""
    reader, frames = cv2.VideoCapture(str(path)), []
    while (answer := reader.read())[0]:
        frames.append(answer[1])
    return np.stack(frames)


def shown_by_the_predecessor(frames):
    """16 from the first to the last, or the last one repeated; stretched to a square as floats; one channel."""
    clip = torch.from_numpy(frames).float().permute(0, 3, 1, 2)
    if len(clip) < 16:
        clip = torch.cat([clip, clip[-1:].expand(16 - len(clip), -1, -1, -1)])
    clip = clip[torch.linspace(0, len(clip) - 1, 16).long()]
    return functional.interpolate(clip, size=(SIZE_PX, SIZE_PX), mode="bilinear", antialias=True).mean(1)


def shown_by_us(frames, encoding, draw=None):
    record, payloads = study_with("s", [frames], encoding)
    field = Config(preset="predecessor", size_px=SIZE_PX).build()
    return field.decode(record, (0,), lambda clip: payloads[clip], draw)[0]


@pytest.mark.parametrize(
    "num_frames, height, width", [(40, 96, 128), (16, 64, 64), (7, 150, 100), (61, 80, 80)]
)
def test_the_preset_shows_what_the_predecessor_showed(tmp_path, num_frames, height, width):
    path = written_avi(tmp_path / "film.avi", film(num_frames, height, width, seed=num_frames))
    stored = np.stack(list(open_film(path).frames)).reshape(num_frames, height, width, -1)
    shown = shown_by_us(stored, Encoding(type="lossless"), np.random.default_rng(0))
    assert shown.shape == (1, 16, SIZE_PX, SIZE_PX)
    # of the same frames: bytes instead of floats
    assert (shown[0] - shown_by_the_predecessor(stored)).abs().max() <= 1.01
    # end to end: OpenCV's conversion of colours makes every grey about 1.3 levels darker than the JPEG says
    gap = shown[0] - shown_by_the_predecessor(read_by_the_predecessor(path))
    assert gap.abs().max() <= 3.5 and gap.abs().mean() <= 1.7


def test_the_encoding_of_shards_costs_little():
    pixels = film(30, 96, 128)
    usual, lossless = (shown_by_us(pixels, each).float() for each in (Encoding(), Encoding(type="lossless")))
    assert (usual - lossless).abs().mean() <= 1


def test_frames_are_the_same_in_training_and_end_in_copies_of_the_last():
    config = Config(preset="predecessor", frames=4)
    of = {number: record_of(number) for number in (3, 4, 11)}
    for draw in (None, np.random.default_rng(0)):
        assert frame_indices(config, of[3], draw).tolist() == [[0, 1, 2, 2]]
        assert frame_indices(config, of[4], draw).tolist() == [[0, 1, 2, 3]]
        assert frame_indices(config, of[11], draw).tolist() == [[0, 3, 6, 10]]


def test_the_preset_is_read_back_from_its_own_dump_and_bears_no_contradiction():
    config = Config(preset="predecessor")
    assert (config.sampling, config.fit) == ("first_to_last", "stretch")
    assert Config.model_validate(config.model_dump()) == config
    with pytest.raises(pydantic.ValidationError, match="leave one out"):
        Config(preset="predecessor", fit="crop")
