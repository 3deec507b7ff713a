"""docs/migrating.md is run: its commands on small data and a checkpoint of full size; the tools, files and keys that it names are there."""

import csv
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml

from deepcoro import command_line
from deepcoro.config import _blocks_of
from deepcoro.run_config import RunConfig, load_run_config
from deepcoro.towers.video_mvit import VideoMViT
from tests.ingest.films import write_video
from tests.launch import ROOT, main_on_this_rank
from tests.migration import original
from tests.migration.old_files import CLIP, HEADS, PROBE
from tests.migration.test_end_to_end import film
from tests.tools.command import call_tool

PAGE = (ROOT / "docs" / "migrating.md").read_text()
BLOCKS = [block.splitlines() for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)]
LABELS = """\
FileName,StudyInstanceUID,main_structure,mid_lad_stenosis,prox_rca_cto
a.avi,s1,Left Coronary,80,1
b.avi,s1,Right Coronary,80,1
c.avi,s2,Left Coronary,0,0
"""


def words_of(line):
    return shlex.split(line, comments=True)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """One line of the page as its reader types it, its files lying in tmp_path. Gives what it printed."""
    key = tmp_path / "id.key"
    key.write_text("0123456789abcdef0123456789abcdef\n")
    key.chmod(0o600)
    monkeypatch.setenv("DEEPCORO_KEY_FILE", str(key))
    monkeypatch.chdir(tmp_path)

    def call(line):
        words = [str(key) if word == "~/.config/deepcoro/id.key" else word for word in words_of(line)]
        program, tool = words[0], Path(words[1])
        assert program == "python"
        if tool.name == "train.py":
            assert command_line.main(words[2:]) == 0
            return capsys.readouterr().out
        code, said, error = call_tool(tool.stem, tuple(words[2:]), monkeypatch, capsys)
        assert code == 0, error
        return said

    return call


def launched_words(line):
    """What stands behind train.py in a launch; the launch file is there."""
    words = words_of(line)
    assert words[:3] == ["accelerate", "launch", "--config_file"] and (ROOT / words[3]).is_file()
    assert words[4] == "train.py"
    return words[5:]


def write_films(folder, table):
    """The films that a table names, short ones."""
    import numpy as np

    draw = np.random.default_rng(1)
    for number, row in enumerate(csv.DictReader(table.splitlines())):
        write_video(folder / row["FileName"], film(draw, 20 + number, (96, 128)), "mjpeg", "yuvj420p")


def test_data_builders_run_as_written(run, tmp_path):
    (tmp_path / "labels.csv").write_text(LABELS)
    (builders,) = [block for block in BLOCKS if "build_texts.py" in block[0]]
    for line in builders:
        run(line)
    keyed = list(csv.DictReader((tmp_path / "edges_keyed.csv").open()))
    assert {row["text_id"] for row in keyed} == {"T1", "T2", "T3"}
    assert all(row["clip"] and 0 < float(row["weight"]) <= 1 for row in keyed)


@pytest.mark.slow
def test_the_afternoon_goes_from_their_table_to_a_step_of_training(run, tmp_path, monkeypatch):
    shard, convert, show, launch = next(block for block in BLOCKS if "shard_dataset.py --csv" in block[0])
    rows = ["FileNameαSplitαReportαStudyInstanceUID"]
    for number in range(8):
        rows.append(
            f"{number}.aviα{'val' if number > 5 else 'train'}αSevere stenosis of film {number}.αs{number}"
        )
    (tmp_path / "reports.csv").write_text("\n".join(rows) + "\n")
    write_films(tmp_path, "FileName\n" + "\n".join(f"{number}.avi" for number in range(8)))
    (tmp_path / "config" / "clip").mkdir(parents=True)
    (tmp_path / "config" / "clip" / "base_config.yaml").write_text(
        yaml.safe_dump(CLIP | {"multi_video": False})
    )
    run(shard)
    assert "changed on purpose" in run(convert)
    assert "batch_size:" in run(show)
    small = "towers.video.variant=tiny towers.text.from_scratch={} max_steps=1 batch_size=2 precision=fp32 data.num_workers=0"
    more = [
        "evaluate.metrics={zero_shot: false}",
        f"run_dir={tmp_path}/run",
        f"data.shards={tmp_path}/shards/reports",
    ]
    name, *own = launched_words(launch)
    assert own == []
    assert main_on_this_rank("ddp", str(tmp_path / name), *small.split(), *more) == 0
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.slow
def test_a_checkpoint_of_full_size_becomes_a_run_that_answers_and_an_encoder(run, tmp_path):
    whole, predict, encoder, launch = next(block for block in BLOCKS if "best_model_epoch_11.pt" in block[0])
    torch.manual_seed(0)
    tower = VideoMViT.from_variant("mvit_v2_s")
    parts = {"model": tower, "proj": original.projection(768)}
    encoder_state = {
        f"{part}.{key}": each for part, it in parts.items() for key, each in it.state_dict().items()
    }
    mil = original.MultiInstance("attention+cls_token", HEADS).state_dict()
    probe = {f"video_encoder.{key}": each for key, each in encoder_state.items()}
    probe |= {f"mil_model.module.{key}": each for key, each in mil.items()}
    torch.save({"linear_probing": probe}, tmp_path / "best_model_epoch_11.pt")
    torch.save({"video_encoder": encoder_state}, tmp_path / "checkpoint.pt")
    (tmp_path / "OLD.yaml").write_text(yaml.safe_dump(PROBE | {"resize": 224, "num_videos": 2}))
    (tmp_path / "STUDY_FOLDER").mkdir()
    write_films(tmp_path / "STUDY_FOLDER", "FileName\na.avi\nb.avi\n")
    assert "missing: 0" in run(whole)
    run(f"{predict} --device cpu --workers 1")
    findings = list(csv.DictReader((tmp_path / "answers" / "studies.csv").open()))
    assert findings and any("cto" in name for name in findings[0])
    run(encoder)
    name, *own = launched_words(launch)
    (tmp_path / name).write_text("data: {shards: nowhere}\nrun_dir: runs/mine\n")
    config = load_run_config(tmp_path / name, own)
    built = config.towers.video.build(16, 224)
    assert torch.equal(built.norm.weight, tower.norm.weight) and config.data.fields["video"].fit == "stretch"


def test_tools_and_pages_that_are_named_exist():
    named = re.findall(r"\b(tools/\w+\.(?:py|sh)|deepcoro/[\w/]+\.py|accelerate_configs/\w+\.yaml)", PAGE)
    linked = [path.split("#")[0] for path in re.findall(r"\]\(([^)]+)\)", PAGE)]
    assert len(set(named)) > 8
    for path in [*named, *(f"docs/{path}" for path in linked if path)]:
        assert (ROOT / path).exists(), path


def test_keys_that_are_named_are_ours():
    roots = "data|towers|pooler|objectives|optim|evaluate|tracking|normalisation|inference"
    keys = set(re.findall(rf"`((?:{roots})\.[\w.]+)", PAGE))
    assert len(keys) > 15
    for key in keys - {"objectives.linear_probing.head_lr.HEAD"}:
        blocks = [RunConfig]
        for step in key.split("."):
            inner = [
                found
                for block in blocks
                for name, field in block.model_fields.items()
                if name == step
                for found in _blocks_of(field.annotation) or [None]
            ]
            in_mapping = any(block is not None for block in blocks) and not inner
            if in_mapping and key.split(".")[0] in ("objectives", "data"):
                continue  # the name of a field or an objective
            assert inner, f"{key} is no key: '{step}'"
            blocks = [block for block in inner if block is not None]
