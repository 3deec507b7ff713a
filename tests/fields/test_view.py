import math

import numpy as np
import pytest

from deepcoro.config import DataError
from deepcoro.fields import video, view
from deepcoro.sample import ClipRecord, StudyRecord

ANGLES = [(30.0, -20.0), (-45.5, None), (None, None)]


def study(num_frames: int = 30, rate_fps: float | None = 15.0) -> StudyRecord:
    clips = [
        ClipRecord(
            clip=f"c{number}",
            member=f"{number:03d}.mjpg",
            frame_offsets=list(range((4 if number == 1 else num_frames) + 1)),
            height=8,
            width=8,
            frame_rate_fps=rate_fps,
            primary_angle_deg=primary,
            secondary_angle_deg=secondary,
        )
        for number, (primary, secondary) in enumerate(ANGLES)
    ]
    return StudyRecord(study="s", clips=clips)


def batch_of(field: view.ViewField, rows: list[tuple[int, ...] | None], num_videos: int) -> np.ndarray:
    values = [
        None if films is None else field.decode(study(), films, lambda clip: b"", None) for films in rows
    ]
    return field.collate(values, num_videos)["views"].numpy()


def test_each_slot_has_the_angles_of_its_film_and_nan_where_there_is_no_film_or_no_angle() -> None:
    views = batch_of(view.Config().build(), [(1, 0), None, (2,)], 3)
    assert views.shape == (3, 3, 2)
    nowhere = [math.nan, math.nan]
    expected = [[[-45.5, math.nan], [30.0, -20.0], nowhere], [nowhere] * 3, [nowhere] * 3]
    np.testing.assert_array_equal(views, np.array(expected, np.float32))


def test_a_film_without_angles_has_the_usual_ones_of_its_view_word_and_measured_ones_stay() -> None:
    known = study()
    words = ("RAO_CAUDAL", "RAO_CAUDAL", "LAO Cranial")
    clips = [clip.model_copy(update={"view": word}) for clip, word in zip(known.clips, words, strict=True)]
    named = known.model_copy(update={"clips": clips})
    found = view.Config().build().decode(named, (0, 1, 2), lambda clip: b"", None)
    np.testing.assert_array_equal(found, [[30.0, -20.0], [-45.5, math.nan], [45.0, 30.0]])
    assert clips[2].primary_angle_deg is None, "the record tells what was measured"


def test_windows_of_a_film_have_its_angles_each_in_the_slots_that_the_films_fill() -> None:
    config = video.Config(
        frames=4, size_px=8, sampling="multi_window", stride_s=0.1, windows=2, default_frame_rate_fps=15
    )
    films, field = config.build(), view.Config().build()
    field.slots, field.slots_per_film = films.slots, config.clips_per_film
    assert films.slots(study(), (0, 1, 2)) == [0, 0, 1, 2, 2], "film 1 is no longer than a window"
    views = batch_of(field, [(0, 1, 2)], 3)
    assert views.shape == (1, 6, 2)
    assert views[0, :3, 0].tolist() == [30.0, 30.0, -45.5]


def test_windows_of_a_film_without_a_frame_rate_are_a_bad_sample_here_as_in_the_films() -> None:
    films = video.Config(frames=4, sampling="window", stride_s=0.1).build()
    with pytest.raises(DataError, match="c0 of study s: frame rate unknown"):
        films.slots(study(rate_fps=None), (0,))
