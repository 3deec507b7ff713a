"""Reports in nearly the same words are positives: the cosine of their TF-IDF vectors, for texts that the grammar does not read."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from deepcoro.config import Block, ConfigError
from deepcoro.matching import Described, Likeness
from deepcoro.sample import canonical_text, text_id


@dataclass(frozen=True)
class DescribeWords:
    """A text as the unit vector of its words and pairs of words, rare ones counting more (scikit-learn's TF-IDF)."""

    vectorizer: Any

    def __call__(self, text: str) -> Described:
        vector = self.vectorizer.transform([canonical_text(text)])
        if not vector.nnz:  # words that no training text has
            return Described(text_id(text), [text_id(text)], [1.0])
        return Described(text_id(text), vector.indices.tolist(), vector.data.tolist())


class Config(Block):
    """Reports in nearly the same words. It counts words and knows no meaning: `70 %` and `30 %` differ in one word of many, so
    prefer `findings` where the grammar reads the reports, and look at run_dir/positives.html. The weight is the cosine.
    """

    type: Literal["similarity"] = "similarity"
    """Which rule this is."""
    threshold: float = Field(0.9, gt=0, le=1)
    """Smallest cosine of positives; 1 = the same words."""
    min_texts: int = Field(2, ge=1)
    """Words that fewer distinct training texts hold are passed over."""

    likeness: ClassVar[Likeness] = "cosine"
    learns: ClassVar[bool] = True

    def describer(self, texts: Iterable[str]) -> DescribeWords:
        """Words and their weights are those of the distinct `texts`; the same texts in any order give the same."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        distinct = sorted(set(map(canonical_text, texts)))
        vectorizer = TfidfVectorizer(
            token_pattern=r"\d+(?:[.,]\d+)?|[^\W\d_]\w*|%",
            ngram_range=(1, 2),
            min_df=min(self.min_texts, max(len(distinct), 1)),
        )
        try:
            return DescribeWords(vectorizer.fit(distinct))
        except ValueError as error:
            raise ConfigError(
                f"objectives.contrastive.positives: no word is in {self.min_texts} of the {len(distinct)} distinct training"
                " texts; lower min_texts, or take type report_id"
            ) from error
