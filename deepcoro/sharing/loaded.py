"""A trained model in one line of Python: embeddings, zero-shot questions, captions, answers of heads. It is what tools/predict.py runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from deepcoro import exported
from deepcoro.config import ConfigError
from deepcoro.inference.model import Answerer, Said
from deepcoro.inference.opened import settings_of
from deepcoro.inference.prediction import Model, StudyAnswer
from deepcoro.inference.questions import Questions
from deepcoro.metrics import zero_shot
from deepcoro.sharing.films import Films, opened_study
from deepcoro.sharing.layout import is_shared_model

Prompts = Mapping[str, Mapping[str, Sequence[str]]]
"""Question -> class -> sentences that say it; the first class is the one that a high score speaks for."""


@dataclass(frozen=True)
class Embeddings:
    """What a model makes of one study; of unit length where it shares a space with texts."""

    study: Float[np.ndarray, " dim"]
    """Of all its films: what the model pools, or the mean of its films where a row of the model is a film."""
    films: Float[np.ndarray, "film dim"]
    """Each film by itself, in the order given."""
    film: Int[np.ndarray, " film"]
    """Place of each among the films given, from 0: of a folder's unusable files, and of more films than the model takes of a study,
    there is no row; of a film that is shown in windows there are several."""
    weight: Float[np.ndarray, " film"] | None
    """Share of each in the study's embedding; None where the model weighs none."""


class LoadedModel:
    """A model on one device, in evaluation. Every method takes the films of ONE study (`deepcoro.sharing.films.Films`)."""

    def __init__(
        self,
        source: Path,
        device: str = "auto",
        modality: Literal["XA", "US"] = "XA",
        accept_burned_in: bool = False,
        echo_mask: Literal["sector", "none"] = "sector",
    ) -> None:
        """The settings of films are those of tools/shard_dataset.py; set them as for the films of training."""
        self._answerer = Answerer(source, device=device)
        self._settings = settings_of(1, modality, accept_burned_in, echo_mask)

    @property
    def who(self) -> Model:
        """Name, step and digest."""
        return self._answerer.who

    @property
    def embeds_texts(self) -> bool:
        """Whether films and sentences share a space."""
        return self._answerer.shares_space

    def embed(self, films: Films, frame_rate_fps: float | None = None) -> Embeddings:
        """Embeddings as run_mode=inference writes them. DataError for a film that cannot be used."""
        said = self._said(films, frame_rate_fps)
        if not self._answerer.answers_for_studies:
            place, order = _in_order_given(said)
            return Embeddings(self._mean(said.films), said.films[order], place, None)
        shown = said.numbers["clip_mask"][0].astype(bool)
        place = np.array([said.study.rows[clip] for clip in self._answerer.slots(said)])
        order = np.argsort(place, kind="stable")
        weight = said.numbers.get("clip_weight")
        return Embeddings(
            study=said.films[0],
            films=said.numbers["clip_embedding"][0][shown][order],
            film=place[order],
            weight=None if weight is None else weight[0][shown][order],
        )

    def embed_texts(self, sentences: Sequence[str]) -> Float[np.ndarray, "sentence dim"]:
        """Unit vectors, to be compared with those of films by their inner product. ConfigError where the model has no such space, and for
        a single sentence in no list.
        """
        self._require_texts("embed_texts")
        if isinstance(sentences, str):
            raise ConfigError(
                "embed_texts: give a list of sentences, also of one; a text alone would be taken letter by letter"
            )
        return self._answerer.embed_texts(list(sentences))

    def zero_shot(
        self, films: Films, prompts: Prompts | None = None, frame_rate_fps: float | None = None
    ) -> dict[str, Float[np.ndarray, " film"]]:
        """Score of each film (of the study alone, where the model was trained on studies), by question: the cosine with the first class
        less that with the nearest other. It orders films and is no probability.

        `prompts`: None = the questions that come with the model, by `zero_shot/TASK`. ConfigError where it has no space with texts.
        """
        self._require_texts("zero_shot")
        questions = self._answerer.questions if prompts is None else self._asked(prompts)
        said = self._said(films, frame_rate_fps)
        scores = questions.scores(said.films)
        order = np.arange(1) if self._answerer.answers_for_studies else _in_order_given(said)[1]
        return {name: values[order] for name, values in scores.items()}

    def caption(self, films: Films, frame_rate_fps: float | None = None) -> list[str]:
        """The report of each film, in the order given (of the study alone, where the model was trained on studies). ConfigError for a
        model that writes none.
        """
        kinds = sorted(each.type for each in self._answerer.config.objectives.values())
        if "captioning" not in kinds:
            raise ConfigError(
                f"this model writes no captions: it was trained with {kinds}; load one with a captioning objective"
            )
        said = self._said(films, frame_rate_fps)
        order = [0] if self._answerer.answers_for_studies else _in_order_given(said)[1]
        return [said.captions[row] for row in order]

    def answer(self, films: Films, frame_rate_fps: float | None = None) -> StudyAnswer:
        """Everything that tools/predict.py says of a study: heads at the thresholds of val, zero-shot scores, captions, what was left out."""
        return self._answerer.answer(opened_study(films, self._settings, frame_rate_fps))

    def _said(self, films: Films, frame_rate_fps: float | None) -> Said:
        return self._answerer.ask(opened_study(films, self._settings, frame_rate_fps))

    def _mean(self, films: Float[np.ndarray, "film dim"]) -> Float[np.ndarray, " dim"]:
        """As a table of studies has it."""
        mean = films.astype(np.float64).mean(axis=0)
        length = np.linalg.norm(mean) if self.embeds_texts else 1.0
        return (mean / max(length, 1e-12)).astype(np.float32)

    def _asked(self, prompts: Prompts) -> Questions:
        tasks = {}
        for name, classes in prompts.items():
            if len(classes) < 2 or any(isinstance(each, str) or not each for each in classes.values()):
                raise ConfigError(
                    f"zero_shot: question '{name}' needs two classes or more, each with a list of sentences; got {dict(classes)}"
                )
            sentences = {word: list(each) for word, each in classes.items()}
            tasks[name] = zero_shot.Task(label=name, positive=next(iter(classes)), prompts=sentences)
        metric = zero_shot.Config(tasks=tasks).build()
        return Questions([metric], self._answerer.embed_texts)

    def _require_texts(self, what: str) -> None:
        if not self.embeds_texts:
            kinds = sorted(each.type for each in self._answerer.config.objectives.values())
            raise ConfigError(
                f"{what}: films and texts of this model share no space (it was trained with {kinds}); load one with a contrastive objective"
            )


def _in_order_given(said: Said) -> tuple[Int[np.ndarray, " film"], Int[np.ndarray, " film"]]:
    """Where a row is a film: place of each among those given, ascending, and the row that it is."""
    place = np.array([said.study.rows[clip] for (clip,) in said.rows])
    order = np.argsort(place, kind="stable")
    return place[order], order


def load(source: str | Path, **settings: object) -> LoadedModel:
    """A folder of tools/export_model.py, a run folder, or `hf://ORGANISATION/NAME[@REVISION]`. `settings`: as of LoadedModel.

    ConfigError when there is no model at `source`, or no such device.
    """
    folder = exported.locate(str(source), whole=True)
    if not (is_shared_model(folder) or (folder / "checkpoints").is_dir()):
        raise ConfigError(
            f"'{source}' is neither a folder of tools/export_model.py nor a run folder; export a run with "
            f"`python tools/export_model.py RUN --output FOLDER`, or name one on the hub as {exported.HUB}ORGANISATION/NAME"
        )
    return LoadedModel(folder, **settings)
