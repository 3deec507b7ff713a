"""The zero-shot questions of a run's config, put to embeddings of films: sentences embedded once, scores as evaluation computes them."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from deepcoro.evaluated import Evaluated, Measurement

Embed = Callable[[list[str]], Float[np.ndarray, "sentence dim"]]


class Questions:
    """Empty where films and texts share no space."""

    def __init__(self, metrics: Sequence[Measurement], embed: Embed | None) -> None:
        """`embed`: L2-normalised embeddings of sentences; None = the model has no space for them."""
        self._metrics = metrics
        sentences = list(dict.fromkeys(sentence for metric in metrics for sentence in metric.prompts()))
        has_any = embed is not None and sentences
        self.prompts: dict[str, np.ndarray] = (
            dict(zip(sentences, embed(sentences), strict=True)) if has_any else {}
        )
        """Embedding [dim] of every sentence that a metric asks for."""
        told = [metric.higher_means() for metric in metrics]
        self.higher_means = {_name(column): said for each in told for column, said in each.items()}
        """What a higher score speaks for, by the names of `scores`; a score without one is a number in its label's unit."""
        labels = [metric.label_of_score() for metric in metrics]
        self.label_of_score = {_name(column): label for each in labels for column, label in each.items()}
        """The label whose number a score is, by the names of `scores`."""

    def scores(self, films: Float[np.ndarray, "film dim"]) -> dict[str, Float[np.ndarray, "film"]]:
        """Of each film, by `zero_shot/TASK` or the name that the predictions table of an evaluation has for it; not what no film has."""
        names = [str(number) for number in range(len(films))]
        asked = Evaluated(
            split="inference",
            units=np.arange(len(films)),
            clips=names,
            studies=names,
            patients=[None] * len(films),
            films=films,
            texts=(),
            text_embeddings=np.zeros((0, films.shape[1] if self.prompts else 0), np.float32),
            text_of_film=np.full(len(films), -1),
            labels={},
            prompts=self.prompts,
        )
        found: dict[str, np.ndarray] = {}
        for metric in self._metrics:
            found |= metric.film_scores(asked)
        return {_name(column): values for column, values in found.items() if not np.isnan(values).any()}


def _name(column: str) -> str:
    """`zero_shot_cto_score` is what metrics call `zero_shot/cto`."""
    if not column.startswith("zero_shot_"):
        return column
    return f"zero_shot/{column.removeprefix('zero_shot_').removesuffix('_score')}"
