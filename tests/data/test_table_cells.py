"""A newer table means what the table of the films meant: names, codes for not assessed, and findings only where they were filmed."""

import numpy as np
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepcoro.config import ConfigError, DataError
from deepcoro.data import manifest as schema
from deepcoro.data.collection import Collection
from deepcoro.data.shards import Shards
from deepcoro.data.table_cells import FACTS, Showing
from deepcoro.ingest.filmed import reason_against, shown_by
from tests.data.folder import moving_film, study_with, write_folder

FILMS = {
    "s0": [("left", "diagnostic"), ("right", "diagnostic"), ("left", "PCI"), (None, "diagnostic")],
    "s1": [("right", "diagnostic")],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    studies = []
    for key, films in FILMS.items():
        record, payloads = study_with(
            key, [moving_film(n) for n in range(len(films))], schema.Encoding(), f"p-{key}"
        )
        clips = [
            clip.model_copy(update={"side": side, "labels": {"status": status, "mid_lad_stenosis": 10.0}})
            for clip, (side, status) in zip(record.clips, films, strict=True)
        ]
        studies.append((record.model_copy(update={"clips": clips}), payloads))
    return write_folder(
        tmp_path_factory.mktemp("cells") / "site", studies, splits=dict.fromkeys(FILMS, "train")
    )


def labels(folder, tmp_path, text, column, **options):
    table = tmp_path / "newer.csv"
    table.write_text(text)
    collection = Collection({"site": Shards.open(folder)}, [table], **options)
    stored = collection.films.read([column])[column].to_pylist()
    read = [clip.labels[column] for row in range(2) for clip in collection.study(row).clips]
    assert stored == read
    return read


def test_a_row_of_a_study_speaks_of_the_diagnostic_films_of_the_findings_own_tree(folder, tmp_path, caplog):
    text = "study,mid_lad_cto,mid_rca_cto,lvef\ns0,1,0,55\ns1,1,0,60\n"
    assert labels(folder, tmp_path, text, "mid_lad_cto") == [1.0, None, None, None, None]
    assert labels(folder, tmp_path, text, "mid_rca_cto") == [None, 0.0, None, None, 0.0]
    assert labels(folder, tmp_path, text, "lvef") == [55.0, 55.0, 55.0, 55.0, 60.0]


def test_the_users_own_rules_read_a_newer_table_too(folder, tmp_path):
    rules = tmp_path / "rules.yaml"
    rules.write_text("rules: {lvef: {kind: percent, missing_codes: [99]}}\n")
    text = "study,lvef\ns0,99\ns1,60\n"
    assert labels(folder, tmp_path, text, "lvef") == [99.0] * 4 + [60.0]
    assert labels(folder, tmp_path, text, "lvef", label_rules=rules) == [None] * 4 + [60.0]
    with pytest.raises(ConfigError, match="label_rules: .*none.yaml does not exist"):
        labels(folder, tmp_path, text, "lvef", label_rules=tmp_path / "none.yaml")


def test_what_a_film_does_not_show_keeps_what_was_known(folder, tmp_path):
    assert labels(folder, tmp_path, "study,mid_lad_stenosis\ns0,80\n", "mid_lad_stenosis") == [
        80.0,
        *[10.0] * 4,
    ]


def test_names_codes_and_words_are_those_of_the_table_of_films(folder, tmp_path):
    text = "study,LCX_stenosis,leftmain_calcification,om1_IFRHYPEREMIE\ns0,-1,pas de calcification,0\n"
    assert labels(folder, tmp_path, text, "prox_lcx_stenosis") == [None] * 5
    assert labels(folder, tmp_path, text, "left_main_calcif") == ["none", *[None] * 4]
    assert labels(folder, tmp_path, text, "om1_IFRHYPEREMIE") == [None] * 5
    assert labels(folder, tmp_path, "study,mid_lad_stenosis\ns0,-1\n", "mid_lad_stenosis") == [
        None,
        *[10.0] * 4,
    ]
    assert labels(folder, tmp_path, "study,left_main_calcif\ns0,none\n", "left_main_calcif")[0] == "none"
    assert labels(folder, tmp_path, 'study,mid_lad_stenosis\ns0,"70,25 %"\n', "mid_lad_stenosis")[0] == 70.25


def test_dominance_and_status_of_the_table_itself_decide_on_its_findings(folder, tmp_path):
    text = "study,pda_cto,dominance\ns0,1,{}\ns1,1,right\n"
    assert labels(folder, tmp_path, text.format("left"), "pda_cto") == [1.0, None, None, None, 1.0]
    assert labels(folder, tmp_path, text.format(""), "pda_cto") == [None, 1.0, None, None, 1.0]
    text = "clip,mid_lad_cto,status\ns0-film0,1,PCI\ns0-film2,1,diagnostic\n"
    assert labels(folder, tmp_path, text, "mid_lad_cto") == [None, None, 1.0, None, None]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (
            "study,mid_lad_cto\ns0,perhaps\n",
            DataError,
            "newer.csv: a cell of 'mid_lad_cto' is neither yes nor no",
        ),
        ("study,mid_lad_stenosis\ns0,-2\n", DataError, "no percentage"),
        ("study,mid_lad_stenosis\ns0,0.7\n", DataError, "newer.csv: 'mid_lad_stenosis' has no value above 1"),
        (
            "study,OM1_cto,om1_cto\ns0,1,1\n",
            ConfigError,
            "newer.csv: columns 'OM1_cto' and 'om1_cto' both mean",
        ),
    ],
)
def test_cells_that_do_not_fit_are_told_by_file_and_column(folder, tmp_path, text, error, message):
    with pytest.raises(error, match=message):
        labels(folder, tmp_path, text, "mid_lad_cto")


COLUMNS = ("mid_lad_cto", "pda_stenosis", "svg_stenosis", "syntax_left", "cto", "lvef")
FILM = st.tuples(
    st.integers(0, 2), st.sampled_from(("left", "right", None)), st.sampled_from(("LV", "Graft", None)),
    st.sampled_from(("PCI", "diagnostic", None)), st.sampled_from((0.0, 1.0, None)), st.sampled_from(("left", "co", None)),
)  # fmt: skip


@given(st.lists(FILM, min_size=1, max_size=12))
def test_all_films_at_once_show_what_each_shows_alone(films):
    films = sorted(films, key=lambda film: film[0])
    _, study = np.unique([film[0] for film in films], return_inverse=True)
    types = dict(zip(FACTS, [*[pyarrow.string()] * 3, pyarrow.float64(), pyarrow.string()], strict=True))
    facts = {
        name: pyarrow.array([film[n + 1] for film in films], types[name]) for n, name in enumerate(FACTS)
    }
    showing = Showing(facts, study)
    tells_side = any(film[1] for film in films)
    alone = [
        shown_by(
            {name: None if cell is None else str(cell) for name, cell in zip(FACTS, film[1:], strict=True)},
            tells_side,
        )
        for film in films
    ]
    for column in COLUMNS:
        kept = showing.only("t", column, pyarrow.array(["x"] * len(films)))
        for number, film in enumerate(alone):
            mates = [other for other, key in zip(alone, study, strict=True) if key == study[number]]
            both = all(any(mate.is_of_tree(side) for mate in mates) for side in ("left", "right"))
            shows = reason_against(column, film._replace(both_trees=both)) is None
            assert kept[number].is_valid == shows
