"""A download that is damaged, or lists what it does not hold, is told by its file: nothing is left out in silence."""

import json

import pytest

from deepcoro.config import DataError
from deepcoro.ingest.layouts import layout_named
from tests.ingest import public_data


@pytest.mark.parametrize("line", ["a", "a,50,10,20", "a,50,10,20,112,112,30,40,TRAIN,more"])
def test_a_row_that_is_cut_is_told_by_file_and_line(tmp_path, line):
    folder = public_data.echonet_dynamic(tmp_path / "echonet")
    with (folder / "FileList.csv").open("a") as file:
        file.write(line)
    with pytest.raises(DataError, match=r"FileList.csv: line \d+ has more or fewer cells than the header"):
        layout_named("echonet_dynamic").read(folder)


def test_damaged_lists_are_told_by_name(tmp_path):
    folder = public_data.mimic_iv_echo(tmp_path / "mimic")
    path = folder / "structured-measurement.csv.gz"
    path.write_bytes(path.read_bytes()[:12] + b"\xff" * 40)
    with pytest.raises(DataError, match="structured-measurement.csv.gz is damaged"):
        layout_named("mimic_iv_echo").read(folder)
    root = public_data.cadica(tmp_path / "cadica") / "CADICA"
    projections = root / "selectedVideos" / "CADICAprojections.json"
    for text, message in (("{", "is not valid JSON"), ("[1]", "holds no lists by name")):
        projections.write_text(text)
        with pytest.raises(DataError, match=f"CADICAprojections.json {message}"):
            layout_named("cadica").read(root.parent)
    projections.unlink()
    (root / "metadata.xlsx").write_text("no workbook")
    with pytest.raises(DataError, match="metadata.xlsx is no workbook"):
        layout_named("cadica").read(root.parent)


def test_films_that_a_list_does_not_place_are_told(tmp_path, caplog):
    folder = public_data.cardiosyntax(tmp_path / "syntax")
    lists = json.loads((folder / "fold_0_train.json").read_text())
    (folder / "fold_0_train.json").write_text(
        json.dumps([*lists, {"study_id": "1.2.3.99", "videos_left": []}])
    )
    layout_named("cardiosyntax").read(folder)
    assert f"study {len(lists) + 1} of fold_0_train.json lists no film" in caplog.text
    (folder / "fold_0_train.json").write_text(json.dumps([{"study_id": "1.2.3.99", "videos_left": [{}]}]))
    with pytest.raises(DataError, match="fold_0_train.json: a film of study 1 has no path"):
        layout_named("cardiosyntax").read(folder)
    folder = public_data.coronary_dominance(tmp_path / "dominance")
    (film,) = folder.glob("main_normal/Left_Dominance/9.1/LCA/0.npz")
    film.parent.rename(film.parents[1] / "LCA_2")
    assert len(layout_named("coronary_dominance").read(folder).rows) == 7
    assert "1 films lie in a folder that is neither LCA nor RCA" in caplog.text
