"""A model's place, taken by something that needs no training: for tests of what is done with an answer."""

from deepcoro.inference.model import Answerer
from deepcoro.inference.opened import OpenedStudy
from deepcoro.inference.prediction import FilmAnswer, Finding, Model, Seconds, Skipped, StudyAnswer

SCORE = 1e-05
"""Written otherwise by the `json` of Python than by pydantic."""


class StandIn(Answerer):
    """Says the same of every study that has a film."""

    def __init__(self, *_: object) -> None:
        self.who = Model(name="first", step=5, digest="d", data="f", deepcoro="0")

    def answer(self, study: OpenedStudy, key_check: str | None = None, neighbours: None = None) -> StudyAnswer:  # fmt: skip
        facts = {"frame_rate_fps": None, "view": None, "side": None, "shown": True}
        clips = zip(study.record.clips, study.rows, strict=True)
        films = [
            FilmAnswer(clip=clip.clip, number=row, num_frames=clip.num_frames, **facts) for clip, row in clips
        ]
        found = Finding(name="zero_shot/cto", score=SCORE, num_films=len(films), higher_means="cto = 1")
        return StudyAnswer(
            study=study.record.study,
            patient=study.record.patient,
            patient_in_training="unknown",
            model=self.who,
            films=films,
            skipped=[Skipped(number=each.row, clip=each.clip, reason=each.reason) for each in study.skipped],
            findings=[found] if films else [],
            seconds=Seconds(decode=study.decode_s, model=0.1),
        )
