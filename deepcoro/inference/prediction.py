"""What a model says of one study, as it is written and sent: keyed ids, numbers, sentences, and what was left out and why."""

from typing import Literal

from deepcoro.config import Block

NOTICE = "Research only. Made by a model without regulatory clearance; not for diagnosis or treatment."


Call = Literal["positive", "negative", "abstained"]
Unit = Literal["films", "studies"]


class WithoutOneFilm(Block):
    """A finding of a model of whole studies when one film is not seen: each of those shown is left out once, the others stay. It tells how
    much the answer hangs on single films; it is no confidence interval, since films that agree may all mislead.
    """

    lowest: float
    """Lowest score of the study without one film; the score of the whole study may lie below."""
    highest: float
    """Highest such score; that of the whole study may lie above."""
    num_changing: int | None = None
    """Films without which the call, or the likeliest class, would be another; None where there is neither."""
    scores: dict[str, float]
    """Of the study without the film, by the film's keyed id; of a class the probability of the whole study's likeliest one."""


class Finding(Block):
    """One question put to the study."""

    name: str
    """`zero_shot/TASK`, `prompt_sweep_TASK`, or `OBJECTIVE/HEAD` of a head that was trained for it."""
    kind: Literal["zero_shot", "probability", "value", "class"] = "zero_shot"
    """What the score is: a zero-shot score, a probability, a number in the label's unit, the probability of the likeliest class."""
    score: float
    """Of the study: the mean of its films. Zero-shot: cosine with the positive class less that with the nearest other, an ordering and no
    risk."""
    lowest: float | None = None
    """Lowest score among its films; None of one film, and where the model answers for whole studies: films then have no score."""
    highest: float | None = None
    """Highest score among its films; None as of `lowest`."""
    without_one_film: WithoutOneFilm | None = None
    """What the score hangs on, where the model answers for whole studies; None of one film, and where films have scores of their own."""
    num_films: int
    """Films it was put to."""
    unit: Literal["%"] | None = None
    """Of a number whose label is a percentage by the rules that labels are read with; None = no number, or nobody knows its unit."""
    higher_means: str | None = None
    """Zero-shot: the class that a higher score speaks for, `LABEL = CLASS`."""
    interval: tuple[float, float] | None = None
    """Of a head of numbers: the study's score less and more the half-width that val chose, in the label's unit, of a percentage the part from 0
    to 100; None where val chose none."""
    interval_level: float | None = None
    """Least share of patients, exchangeable with those of val, whose numbers lie inside, on average (0.9); None as of `interval`."""
    word: str | None = None
    """The likeliest class, of several."""
    class_probabilities: dict[str, float] = {}
    """Of several classes, by word (by number where `labels_map` has none), in the order of the classes: the mean of the films; their sum
    is 1. Empty otherwise."""
    probability: float | None = None
    """Of a binary head: the score recalibrated on val; None where val has not been run with this checkpoint, and for the mean of several
    films where val fixed the recalibration on films."""
    threshold: float | None = None
    """Of a binary head: the score from which on val calls it positive; None where val has not been run with this checkpoint."""
    fixed_on: Unit | None = None
    """What the threshold was fixed on: single films, or whole studies; None as above."""
    call: Call | None = None
    """Of a binary head: what the threshold says, `abstained` where the probability is not sure enough; None as of `probability`."""
    film_calls: dict[Call, int] = {}
    """How many films each call is made of, where the threshold was fixed on films; empty otherwise."""

    @property
    def spread(self) -> tuple[float, float] | None:
        """Lowest and highest of what is known: scores of films, or of the study without one film; None of one film."""
        known = self.without_one_film or self
        return None if known.lowest is None or known.highest is None else (known.lowest, known.highest)


class NearReport(Block):
    """A report of the model's train split that lies near to a film or study: of other patients, never of this one."""

    text: str
    similarity: float
    """Cosine with the film, or with the study."""
    num_films: int
    """Training films that carry it."""


class Reading(Block):
    """What the nearest training reports say of the study under one label, as `tools/search.py --film` does of a film."""

    label: str
    """`NAME`, or of a label in words `NAME=WORD`."""
    value: float
    """Mean label of the neighbours, over the rows of the study: a share of a label of 0 and 1, else in the label's unit."""
    lowest: float
    """Lowest among the rows."""
    highest: float
    """Highest among the rows."""
    overall: float
    """Mean over the whole bank: what would be said without looking."""
    num_rows: int
    """Films (or the one study) that it is said of."""
    known: int
    """Neighbours that have the label, of the row with fewest."""


class FilmAnswer(Block):
    """What is known and said of one film."""

    clip: str
    """Keyed id."""
    number: int
    """Number of the file in the folder (in the order of names) or of the row in the table; 1 is the first."""
    num_frames: int
    """Frames stored of the film; the model sees some of them."""
    frame_rate_fps: float | None
    """None = the file does not tell."""
    view: str | None
    """Projection, from the angles of the header or from the table; None = not known."""
    side: Literal["left", "right"] | None
    """Tree, where a table tells it."""
    shown: bool
    """Whether the model saw it: of studies with more films than the model takes, some are left out, evenly spaced."""
    weight: float | None = None
    """Share of this film in the study's answer, where the model weighs films; None where it does not, or did not see it."""
    scores: dict[str, float] = {}
    """Zero-shot scores of this film; empty where the model answers for whole studies only."""
    caption: str | None = None
    """The report that the model wrote of it; None where it writes none of single films."""
    nearest_reports: list[NearReport] = []
    """Nearest first; empty without a bank, and where the model answers for whole studies only."""


class Skipped(Block):
    """A file that could not be used."""

    number: int
    """Number of the file in the folder, or of the row in the table."""
    clip: str | None
    """Keyed id; None where a row names no file."""
    reason: str
    """A word, and in most cases a sentence behind a colon."""


class Seconds(Block):
    """Where the time of a study went, wall clock."""

    decode: float
    """Files to encoded films; of a folder also the study's share of reading all headers, which tell the studies apart."""
    model: float
    """Encoded films to answers."""

    @property
    def total(self) -> float:
        return self.decode + self.model

    @property
    def decode_share(self) -> float:
        return self.decode / max(self.total, 1e-9)


class Model(Block):
    """Who answered."""

    name: str
    """Name of the run folder."""
    step: int
    """Optimiser steps it was trained for."""
    digest: str
    """Of the weights file."""
    data: str
    """Fingerprint of the films it was trained on."""
    deepcoro: str
    """Version of the program."""


class StudyAnswer(Block):
    """Everything that is said of one study."""

    schema_version: Literal[1] = 1
    """Version of this form."""
    notice: str = NOTICE
    """To be shown wherever an answer is shown."""
    study: str
    """Keyed id."""
    patient: str | None
    """Keyed id; None where no file and no table names one."""
    patient_in_training: Literal["yes", "no", "unknown"]
    """Whether the model was trained on this patient: then its answers look better than they are."""
    model: Model
    """Who answered."""
    films: list[FilmAnswer]
    """In acquisition order."""
    skipped: list[Skipped] = []
    """In the order of their numbers."""
    findings: list[Finding] = []
    """Empty where no film could be used, or where the model has learned no such question."""
    caption: str | None = None
    """The report of the whole study; None where the model writes reports of single films."""
    nearest_reports: list[NearReport] = []
    """Of the whole study, nearest first; empty without a bank, and where the model answers for single films."""
    readings: list[Reading] = []
    """What the neighbours say; empty without a bank."""
    seconds: Seconds
    """Where the time went."""
