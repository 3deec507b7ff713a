"""Captions word by word: the cache changes nothing, beams find the likeliest, a row stops at its end."""

import itertools

import pytest
import torch

from deepcoro.captioning.generation import CachedWriter, Generation, Script, write_captions
from tests.captioning.words import WINDOW, WORDS, make_features, make_objective

END, PAD = 1, 0
METHODS = {
    "greedy": Generation(method="greedy"),
    "beam": Generation(method="beam", num_beams=3),
    "nucleus": Generation(method="nucleus", top_p=0.8, temperature=1.5, seed=7),
}


class UncachedWriter:
    """Reads every line from its beginning for each word."""

    def __init__(self, decoder, reading):
        self.decoder, self.reading, self.lines = decoder, reading, None

    def logits(self, tokens):
        self.lines = tokens if self.lines is None else torch.cat([self.lines, tokens], dim=1)
        return self.decoder.logits(self.lines, self.reading)

    def keep(self, lines):
        self.lines = self.lines[lines]


def written(objective, features, settings, cached, prefix, units=None):
    rows = len(features.clips.tokens)
    reading = objective.decoder.read(features.clips.tokens, features.clips.clip_mask)
    length = WINDOW - len(prefix)
    writer = (
        CachedWriter(objective.decoder, reading, WINDOW)
        if cached
        else UncachedWriter(objective.decoder, reading)
    )
    lines = rows * (settings.num_beams if settings.method == "beam" else 1)
    script = Script(lines, length, END, PAD, torch.device("cpu"))
    with torch.no_grad():
        return write_captions(
            writer, torch.tensor([prefix] * rows), script, settings, units or list(range(rows))
        )


@pytest.mark.parametrize("question", ["", "the lad"])
@pytest.mark.parametrize("method", METHODS)
def test_with_the_cache_the_same_words_are_written_as_without(method, question):
    objective, features = make_objective(), make_features([3, 1, 2, 0])
    prefix = objective.words.prefix("finding" if question else "report", question)
    cached, plain = (written(objective, features, METHODS[method], each, prefix) for each in (True, False))
    assert torch.equal(cached, plain)
    assert len({tuple(row) for row in cached.tolist()}) > 1, "rows differ, so there was something to mix up"


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_enough_beams_find_the_likeliest_of_all_captions(penalty):
    """Against every caption of two words there is."""
    objective, features = make_objective(), make_features([2])
    prefix = objective.words.prefix("report")
    reading = objective.decoder.read(features.clips.tokens, features.clips.clip_mask)
    settings = Generation(method="beam", num_beams=len(WORDS) ** 2, length_penalty=penalty)
    script = Script(settings.num_beams, 2, END, PAD, torch.device("cpu"))
    with torch.no_grad():
        found = write_captions(
            CachedWriter(objective.decoder, reading, 3), torch.tensor([prefix]), script, settings, [0]
        )
        scores = {}
        for words in [(END,), *itertools.product(range(2, len(WORDS)), range(1, len(WORDS)))]:
            score = 0.0
            for place, word in enumerate(words):
                logits = objective.decoder.logits(torch.tensor([[*prefix, *words[:place]]]), reading)
                logits[:, PAD] = -torch.inf
                score += logits.log_softmax(-1)[0, word].item()
            scores[words] = score / len(words) ** penalty
    best = max(scores, key=scores.get)
    assert tuple(found[0, : len(best)].tolist()) == best


class Scripted:
    """Says what it is told: after the prefix, line i gets the words of `texts[i]`."""

    def __init__(self, texts):
        self.texts, self.calls = texts, 0

    def logits(self, tokens):
        words = torch.tensor([text[min(self.calls, len(text) - 1)] for text in self.texts])
        self.calls += 1
        return torch.nn.functional.one_hot(words, len(WORDS)).double() * 50

    def keep(self, lines):
        assert torch.equal(lines, torch.arange(len(lines)))


@pytest.mark.parametrize("method", ["greedy", "nucleus"])
def test_a_row_ends_at_its_end_token_and_all_ended_rows_end_the_work(method):
    writer = Scripted([[5, END, 6, 6], [5, 6, 7, END, 8]])
    script = Script(2, 40, END, PAD, torch.device("cpu"))
    tokens = write_captions(writer, torch.tensor([[13], [13]]), script, METHODS[method], [0, 1])
    assert tokens[:, :6].tolist() == [[5, END, PAD, PAD, PAD, PAD], [5, 6, 7, END, PAD, PAD]]
    assert tokens.shape == (2, 40) and not tokens[:, 6:].any()
    assert writer.calls == 8, "asked once in eight words"


def test_a_tokenizer_whose_pad_is_its_end_can_end():
    script = Script(1, 4, END, END, torch.device("cpu"))
    tokens = write_captions(Scripted([[5, END]]), torch.tensor([[13]]), script, METHODS["greedy"], [0])
    assert tokens.tolist() == [[5, END, END, END]]


def test_nucleus_draws_by_row_whatever_its_neighbours_and_a_small_nucleus_is_greedy():
    objective, features = make_objective(), make_features([2, 2, 2])
    prefix = objective.words.prefix("report")
    together = written(objective, features, METHODS["nucleus"], True, prefix, units=[4, 5, 6])
    alone = type(features)(
        clips=type(features.clips)(features.clips.tokens[1:2], features.clips.clip_mask[1:2], False)
    )
    assert torch.equal(written(objective, alone, METHODS["nucleus"], True, prefix, units=[5])[0], together[1])
    other = written(objective, features, Generation(method="nucleus", seed=8), True, prefix)
    assert not torch.equal(other, together)
    narrow = written(objective, features, Generation(method="nucleus", top_p=1e-6), True, prefix)
    assert torch.equal(narrow, written(objective, features, METHODS["greedy"], True, prefix))


def test_nucleus_draws_words_as_often_as_they_are_likely():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().repeat(4000, 1)

    class Fixed(Scripted):
        def logits(self, tokens):
            return logits

    script = Script(4000, 1, end=9, pad=9, device=torch.device("cpu"))
    settings = Generation(method="nucleus", top_p=0.9)
    words = write_captions(Fixed([]), torch.zeros(4000, 1, dtype=torch.int64), script, settings, range(4000))
    shares = torch.bincount(words[:, 0], minlength=4) / 4000
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.3, 0.15, 0]) / 0.95, rtol=0, atol=0.03)
