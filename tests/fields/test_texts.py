"""Rows that bring texts of their own and others: what a batch holds, and what the losses make of it on one rank and on two."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from deepcoro.config import ConfigError
from deepcoro.features import Features, Surroundings
from deepcoro.fields import texts
from deepcoro.losses import clip, siglip
from deepcoro.objectives.contrastive import Config
from deepcoro.sample import ClipRecord, StudyRecord, text_id
from tests.objectives.over_ranks import loss_and_gradients
from tests.ranks import Ranks

NUM_TEXTS, NUM_FILMS = 9, 8
# films 3 has no edge
EDGES = {
    0: {0: 1.0, 1: 0.5},
    1: {0: 1.0},
    2: {2: 0.25, 3: 1.0, 4: 0.5},
    4: {5: 1.0},
    5: {0: 0.5},
    6: {1: 1.0},
    7: {3: 1.0},
}


class Tokenizer:
    """A token a letter."""

    pad_token_id = 0

    def __call__(self, texts: list[str], **settings) -> dict:
        return {"input_ids": [[ord(letter) for letter in text] or [1] for text in texts]}


def study() -> StudyRecord:
    clips = [
        ClipRecord(clip=f"film{number}", member="000.mjpg", frame_offsets=[0, 1], height=8, width=8)
        for number in range(NUM_FILMS)
    ]
    return StudyRecord(study="s", clips=clips)


def field_in(folder, **settings) -> texts.TextsField:
    rows = "".join(f"T{number},{'x' * number}text {number}\n" for number in range(NUM_TEXTS))
    (folder / "texts.csv").write_text("text_id,prompt_text\n" + rows)
    edges = [f"film{film},T{text},{weight}\n" for film, of in EDGES.items() for text, weight in of.items()]
    (folder / "edges.csv").write_text("clip,text_id,weight\n" + "".join(edges))
    config = texts.Config(texts=folder / "texts.csv", edges=folder / "edges.csv", **settings)
    return config.build(Tokenizer())


def draw(position: int) -> np.random.Generator:
    return np.random.default_rng([7, 0, position])


def decoded(field: texts.TextsField, films: list[int | None], start: int = 0) -> list:
    return [
        None if film is None else field.decode(study(), (film,), lambda clip: b"", draw(start + place))
        for place, film in enumerate(films)
    ]


def test_a_batch_holds_each_text_once_and_all_edges_of_its_rows(tmp_path):
    field = field_in(tmp_path)
    batch = field.collate(decoded(field, [0, 1, 3, None, 2]), num_videos=1)
    ids = [field.bank.ids[row] for row in (0, 1, 2, 3, 4)]
    assert batch["report"]["id"].tolist() == ids
    assert batch["report"]["index"].tolist() == [0, 0, 0, 0, 2]
    rows = [text_id(f"film{film}") for film in (0, 1, 2)]
    assert batch["report_id"].tolist() == [rows[0], rows[1], -1, -1, rows[2]]
    found = list(zip(*(each.tolist() for each in batch["positives"].values()), strict=True))
    assert found == [
        (rows[0], ids[0], 1.0), (rows[0], ids[1], 0.5), (rows[1], ids[0], 1.0),
        (rows[2], ids[2], 0.25), (rows[2], ids[3], 1.0), (rows[2], ids[4], 0.5),
    ]  # fmt: skip


def test_drawn_texts_depend_on_seed_and_position_alone_and_edges_are_told_whole(tmp_path):
    field = field_in(tmp_path, num_positives=1, num_negatives=4)
    one, again, other = (decoded(field, [2], start)[0] for start in (0, 0, 1))
    assert one == again
    assert one.shown != other.shown
    assert one.positives == {2: 0.25, 3: 1.0, 4: 0.5}
    seen = [decoded(field, [2], start)[0].shown for start in range(60)]
    assert {own for own, *_ in seen} == {2, 3, 4}
    assert {text for _, *others in seen for text in others} == set(range(NUM_TEXTS))
    assert all(len(set(others)) == 4 for _, *others in seen)
    more = field_in(tmp_path, num_negatives=99)
    assert len(decoded(more, [1])[0].shown) == 1 + NUM_TEXTS


def test_in_evaluation_nothing_is_drawn_and_the_heaviest_text_speaks(tmp_path):
    field = field_in(tmp_path, num_positives=1, num_negatives=4)
    shown = field.decode(study(), (2,), lambda clip: b"", None)
    assert shown.shown == [2, 3, 4]
    assert field.text_of(study(), (2,)) == "xxxtext 3"
    assert field.text_of(study(), (3,)) is None


def test_a_batch_without_edges_holds_one_empty_text(tmp_path):
    field = field_in(tmp_path, length_buckets=2)
    batch = field.collate(decoded(field, [3, None]), num_videos=1)
    assert batch["report"]["id"].tolist() == [-1, -1]
    assert batch["report_id"].tolist() == [-1, -1]
    assert [len(each) for each in batch["positives"].values()] == [0, 0, 0]


def test_texts_lie_by_length_where_groups_are_asked_for(tmp_path):
    field = field_in(tmp_path, length_buckets=2)
    batch = field.collate(decoded(field, [2, 0]), num_videos=1)
    ids = batch["report"]["id"].tolist()
    assert ids == [field.bank.ids[row] for row in (0, 1, 2, 3, 4)]
    assert batch["report"]["index"].tolist() == [2, 0]
    assert len(batch["report"]["buckets"]) == 2


def test_without_a_tokenizer_the_error_names_the_remedy(tmp_path):
    with pytest.raises(ConfigError, match="towers.text"):
        texts.Config(texts=tmp_path / "t", edges=tmp_path / "e").build()


LOSSES = {
    "clip": clip.Config(init_logit_scale=6),
    "siglip": siglip.Config(init_logit_scale=6, init_logit_bias=-2),
}
FORMS = ("dense", "gather", "ring")
FILMS = [0, 1, 2, 3, 4, 5, 6, 7, 0, 2]
UNREAD = 5
SHARES = {1: [10], 2: [6, 4]}


def feature(seed: int, width: int) -> torch.Tensor:
    return torch.randn(width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def build(loss: str, form: str) -> torch.nn.Module:
    torch.manual_seed(0)
    beside = Surroundings(5, 3, tokenizer=None, frames=4, size_px=32)
    return Config(embed_dim=4, loss=LOSSES[loss], form=form, tile=2).build(beside).double()


def trained_on(rank: int, world_size: int, folder, loss: str, form: str) -> dict:
    objective, field = build(loss, form), field_in(folder / str(rank), num_positives=2, num_negatives=2)
    start = sum(SHARES[world_size][:rank])
    mine = range(start, start + SHARES[world_size][rank])
    values = decoded(field, [None if row == UNREAD else FILMS[row] for row in mine], start)
    batch = field.collate(values, 1) | {"valid": torch.tensor([row != UNREAD for row in mine])}
    features = Features(
        study=torch.stack([feature(FILMS[row], 5) for row in mine]),
        text=torch.stack(
            [feature(100 + field.bank.ids.index(each), 3) for each in batch["report"]["id"].tolist()]
        ),
    )
    return loss_and_gradients(objective, features, batch, world_size)


def every_case(rank: int, world_size: int, folder) -> dict:
    (folder / str(rank)).mkdir(exist_ok=True)
    return {
        (loss, form): trained_on(rank, world_size, folder, loss, form) for loss in LOSSES for form in FORMS
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory, two_ranks: Ranks) -> dict[int, dict]:
    folder = tmp_path_factory.mktemp("ranks")
    return {1: every_case(0, 1, folder), 2: two_ranks.run(every_case, 2, folder)[0]}


def by_definition(folder, loss: str) -> dict:
    """The whole batch, dense, from EDGES themselves."""
    objective, field = build(loss, "dense"), field_in(folder, num_positives=2, num_negatives=2)
    rows = [row for row, film in enumerate(FILMS) if film in EDGES and row != UNREAD]
    brought = {row: decoded(field, [FILMS[row]], row)[0].shown for row in rows}
    shown = sorted({text for of_row in brought.values() for text in of_row})
    video = objective.embed_video(torch.stack([feature(FILMS[row], 5) for row in rows]))
    text = objective.embed_text(torch.stack([feature(100 + each, 3) for each in shown]))
    weights = torch.tensor(
        [[EDGES[FILMS[row]].get(each, 0.0) for each in shown] for row in rows], dtype=torch.float64
    )
    assert (weights.sum(dim=0) == 0).any(), "some texts are of none of these films"
    logits = objective.logit_scale.exp() * video @ text.T
    if loss == "siglip":
        logits = logits + objective.logit_bias
        pairs = weights * functional.logsigmoid(logits) + (1 - weights) * functional.logsigmoid(-logits)
        total = -pairs.sum() / len(rows)
    else:
        total = (_soft_cross_entropy(logits, weights) + _soft_cross_entropy(logits.T, weights.T)) / 2
    total.backward()
    return {"loss": total.detach().reshape(1)} | {
        name: each.grad for name, each in objective.named_parameters()
    }


def _soft_cross_entropy(logits: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean over the queries that have a positive."""
    asks = weights.sum(dim=1) > 0
    targets = weights[asks] / weights[asks].sum(dim=1, keepdim=True)
    return -(targets * logits[asks].log_softmax(dim=1)).sum(dim=1).mean()


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("loss", LOSSES)
def test_loss_and_gradients_are_those_of_the_definition(tmp_path, trained, world_size, loss, form):
    expected, got = by_definition(tmp_path, loss), trained[world_size][loss, form]
    for key, wanted in expected.items():
        torch.testing.assert_close(
            got[key], wanted, rtol=1e-10, atol=1e-10, msg=lambda text, key=key: f"{key}: {text}"
        )
