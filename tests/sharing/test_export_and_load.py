"""A run becomes a folder without anything of its patients, and the folder answers as the run does."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file

import deepcoro
from deepcoro import checkpoint
from deepcoro.config import SHIPPED, ConfigError, DataError, find_config
from deepcoro.inference.trained import open_trained
from deepcoro.run_config import load_run_config
from deepcoro.sharing import export, layout
from deepcoro.sharing.card import Extras, privacy_of, render_card
from deepcoro.sharing.export import Asked, export_model, shared_config
from deepcoro.sharing.loaded import LoadedModel
from deepcoro.weights import read_pixel_constants
from tests.ingest.films import moving_bar, write_dicom
from tests.launch import ROOT
from tests.sharing.conftest import PATIENT, calibrated, made_run
from tests.tools.command import call_tool

QUESTION = {"cto": {"present": ["Chronic total occlusion."], "absent": ["No occlusion.", "Open vessels."]}}


@pytest.fixture(scope="module")
def folder(multitask_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shared") / "model"
    export_model(multitask_run, path, license_name="cc-by-nc-4.0")
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> LoadedModel:
    return deepcoro.load(folder, device="cpu")


def test_the_folder_answers_as_the_run_does(model: LoadedModel, multitask_run: Path, bars) -> None:
    shared, run = model, deepcoro.load(multitask_run, device="cpu")
    assert np.array_equal(shared.embed(bars).films, run.embed(bars).films)
    assert np.array_equal(shared.embed(bars).study, run.embed(bars).study)
    assert shared.caption(bars) == run.caption(bars)
    ours, theirs = shared.zero_shot(bars), run.zero_shot(bars)
    assert sorted(ours) == ["zero_shot/cto", "zero_shot/dominance", "zero_shot/side"] == sorted(theirs)
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert shared.who.digest == run.who.digest
    assert shared.who.name == "mine"


def test_films_come_back_in_the_order_given_whatever_their_acquisition(
    model: LoadedModel, tmp_path: Path
) -> None:
    paths = []
    for number in range(3):
        film = np.roll(moving_bar(), 7 * number, axis=2)
        paths.append(write_dicom(tmp_path / f"{number}.dcm", film, InstanceNumber=3 - number))
    embedded = model.embed(paths)
    assert embedded.film.tolist() == [0, 1, 2]
    for number, path in enumerate(paths):
        np.testing.assert_allclose(model.embed(path).films[0], embedded.films[number], atol=2e-6)
    of_folder = model.embed(tmp_path)
    assert of_folder.film.tolist() == [0, 1, 2]
    np.testing.assert_allclose(of_folder.films, embedded.films, atol=2e-6)
    assert np.linalg.norm(embedded.study) == pytest.approx(1, abs=1e-6)


def test_an_array_is_shown_as_the_same_array_in_a_file(model: LoadedModel, bars, tmp_path: Path) -> None:
    np.save(tmp_path / "film.npy", bars[0])
    assert np.array_equal(model.embed(bars[0]).films, model.embed(tmp_path / "film.npy").films)
    assert np.array_equal(model.embed(torch.from_numpy(bars[0])).films, model.embed(bars[0]).films)


def test_ones_own_sentences_are_scored_as_cosines_by_hand(model: LoadedModel, bars) -> None:
    films = model.embed(bars).films
    present, *absent = model.embed_texts([each for words in QUESTION["cto"].values() for each in words])
    mean = np.mean(absent, axis=0)
    by_hand = films @ present - films @ (mean / np.linalg.norm(mean))
    np.testing.assert_allclose(model.zero_shot(bars, QUESTION)["zero_shot/cto"], by_hand, atol=3e-6)


def test_nothing_of_patients_and_no_path_leaves_with_the_folder(folder: Path, multitask_run: Path) -> None:
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert [name for name in names if not name.startswith("tokenizer/")] == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for private in (str(multitask_run), str(multitask_run.parent), "/data/private", PATIENT):
                assert private.encode() not in content, f"{path.name} holds {private}"
    weights = load_file(folder / "model.safetensors")
    assert not [name for name in weights if "masked_modeling" in name]


def test_the_card_has_the_hubs_front_matter_and_the_digests(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["license"] == "cc-by-nc-4.0"
    assert front["library_name"] == "deepcoro"
    assert {"deepcoro", "contrastive", "captioning"} <= set(front["tags"])
    about = layout.read_shared_model(folder)
    assert about.weights["model.safetensors"] == layout.sha256_of(folder / "model.safetensors")
    assert about.weights["model.safetensors"] in text
    assert about.digest in text
    assert "Not a medical device" in text and "## Limits" in text
    assert "learned from the training reports" in text  # the vocabulary


def test_the_card_tells_what_was_measured_with_the_very_checkpoint_and_else_how_to_measure(
    multitask_run: Path, folder: Path
) -> None:
    assert "**not measured** with this checkpoint" in (folder / "README.md").read_text()
    digest = layout.read_shared_model(folder).digest
    numbers = {"copied/verbatim": 0.25, "copied/verbatim_reports": 0.125, "copied/num": 40, "copied/num_training_reports": 300}  # fmt: skip
    numbers |= {"linked/other_study/rate": 0.5, "linked/other_study/rate_chance": 0.1, "linked/other_study/num": 6}  # fmt: skip
    metrics = {f"privacy/{key}": value for key, value in numbers.items()}
    document = {"split": "test", "data": "shards", "checkpoint": f"step 3 ({digest})", "metrics": metrics}
    assert privacy_of([document | {"checkpoint": "step 3 (another)"}], digest) is None
    told = privacy_of([document | {"split": "val"}, document], digest)
    assert told.split == "test" and told.num_training_reports == 300
    assert [(rate.value, rate.beside, rate.num) for rate in told.rates] == [
        (0.25, 0.125, 40)
    ]  # 6 are too few
    (multitask_run / "results").mkdir(exist_ok=True)
    results = multitask_run / "results" / "shards_test.json"
    results.write_text(json.dumps(document))
    try:
        page = render_card(multitask_run, layout.read_shared_model(folder), Extras())
    finally:
        results.unlink()
    assert "| 0.250 |  | 0.125 | 40 |" in page and "against 300 training reports" in page
    assert "**not measured** with this checkpoint" not in page


def test_every_shipped_config_is_shared_without_a_place_of_the_machine(monkeypatch) -> None:
    monkeypatch.setattr("deepcoro.towers.text_hf.Config.standalone", lambda self: self)
    found = [path for path in sorted(SHIPPED.rglob("*.yaml")) if "sweep" not in path.name]
    assert len(found) > 8
    for path in found:
        tree = shared_config(load_run_config(path, ["run_dir=/data/private"]))
        assert set(tree["data"]) == {"multi_video", "num_videos", "fields"}
        assert "shards/" not in json.dumps(tree) and "/data" not in json.dumps(tree), path
        assert not tree["towers"]["video"].get("weights"), path


def test_folders_that_a_run_kept_features_in_or_read_texts_from_stay_at_home(tmp_path: Path) -> None:
    words = ("towers.video.features_folder=/data/features", "towers.video.cache_features=true", "towers.video.video_freeze_ratio=1", "data.fields.video.jitter=false")  # fmt: skip
    tree = shared_config(load_run_config(find_config("demo/tiny_probe"), list(words)))
    assert "/data" not in json.dumps(tree) and tree["towers"]["video"]["cache_features"] is False
    texts = "data.fields.report={type: texts, texts: /data/texts.csv, edges: /data/edges.csv, max_tokens: 48}"
    tree = shared_config(load_run_config(find_config("demo/tiny"), [texts, "towers.text.model=/data/bert"]))
    assert "/data" not in json.dumps(tree) and tree["data"]["fields"]["report"]["max_tokens"] == 48


def test_weights_above_the_limit_are_several_files_and_read_back_the_same(
    multitask_run: Path, tmp_path: Path, monkeypatch, bars
) -> None:
    monkeypatch.setattr(export, "SHARD_BYTES", 200_000)
    about = export_model(multitask_run, tmp_path / "model")
    assert len(about.weights) > 1
    whole = deepcoro.load(multitask_run, device="cpu").embed(bars).films
    assert np.array_equal(deepcoro.load(tmp_path / "model", device="cpu").embed(bars).films, whole)


def test_a_changed_weights_file_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(folder), str(copy)], check=True)
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "model.safetensors").write_bytes(content)
    with pytest.raises(DataError, match="missing or damaged"):
        deepcoro.load(copy, device="cpu")


def test_a_failed_export_leaves_nothing_and_none_is_overwritten(
    multitask_run: Path, folder: Path, tmp_path: Path, monkeypatch
) -> None:
    with pytest.raises(ConfigError, match="exists; name a new folder"):
        export_model(multitask_run, folder)

    def full_disk(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(export, "write_text", full_disk)
    with pytest.raises(OSError, match="no space"):
        export_model(multitask_run, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_probe_goes_with_its_thresholds_and_says_what_it_cannot_do(tmp_path: Path, bars) -> None:
    run = calibrated(made_run(tmp_path / "probe", "demo/tiny_probe"), "linear_probing/cto")
    export_model(run, tmp_path / "model")
    model = deepcoro.load(tmp_path / "model", device="cpu")
    found = {each.name: each for each in model.answer(bars).findings}
    assert found["linear_probing/cto"].call == "positive"  # any score is above 0
    expected = {each.name: each for each in deepcoro.load(run, device="cpu").answer(bars).findings}
    assert found == expected
    for ask, words in ((model.zero_shot, bars), (model.embed_texts, ["Normal."])):
        with pytest.raises(ConfigError, match=r"share no space.*\['linear_probing'\].*contrastive"):
            ask(words)
    with pytest.raises(ConfigError, match=r"writes no captions.*\['linear_probing'\].*captioning"):
        model.caption(bars)
    embedded = model.embed(bars)  # a row of the probe is a study
    assert embedded.films.shape == (3, embedded.study.size)
    assert embedded.weight.sum() == pytest.approx(1)


def test_films_that_cannot_be_used_are_told_by_place(model: LoadedModel, bars, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"film 1 of 2 cannot be used: array_shape"):
        model.embed([bars[0], bars[1][0]])
    with pytest.raises(DataError, match=r"film 0 of 1 cannot be used: missing"):
        model.embed(tmp_path / "nowhere.dcm")
    (tmp_path / "notes.txt").write_text("no film")
    with pytest.raises(DataError, match=r"none of 1 files can be used"):
        model.embed(tmp_path)
    np.save(tmp_path / "film.npy", bars[0])
    assert model.embed(tmp_path).film.tolist() == [0]
    with pytest.raises(ConfigError, match="question 'cto' needs two classes or more"):
        model.zero_shot(bars, {"cto": {"present": ["Occluded."]}})
    with pytest.raises(ConfigError, match="give a list of sentences, also of one"):
        model.embed_texts("Occluded.")


def test_a_device_that_is_not_there_is_told_before_films_are_read(folder: Path) -> None:
    with pytest.raises(ConfigError, match="device 'gpu' is not there; there are: auto, cpu"):
        deepcoro.load(folder, device="gpu")


def test_a_text_tower_of_the_hub_is_built_without_it(tmp_path: Path, monkeypatch, bars) -> None:
    """BERT in a local folder that is gone when the model is loaded."""
    from transformers import BertConfig, BertModel

    from deepcoro.towers.text_hf import train_tokenizer

    source = tmp_path / "private" / "bert"
    tokenizer = train_tokenizer(["Severe stenosis."], 256, 64)
    tokenizer.save_pretrained(source)
    small = BertConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, max_position_embeddings=64)  # fmt: skip
    BertModel(small).save_pretrained(source)
    words = ("towers.text={type: text_hf, model: " + str(source) + "}",)
    run = made_run(tmp_path / "run", "demo/tiny", *words)
    expected = deepcoro.load(run, device="cpu").zero_shot(bars)
    export_model(run, tmp_path / "model")
    source.rename(tmp_path / "gone")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = deepcoro.load(tmp_path / "model", device="cpu").zero_shot(bars)
    assert all(np.array_equal(found[name], expected[name]) for name in expected) and expected
    assert str(source) not in (tmp_path / "model" / "config.json").read_text()
    assert all(str(source).encode() not in path.read_bytes() for path in (tmp_path / "model" / "tokenizer").iterdir())  # fmt: skip


def test_a_run_starts_from_a_shared_models_encoder(folder: Path, multitask_run: Path) -> None:
    config = load_run_config(find_config("demo/tiny_multitask"), [f"towers.video.weights={folder}"])
    tower = config.towers.video.build(4, 32)
    own = checkpoint.find(multitask_run / "checkpoints", "best").weights()
    assert torch.equal(tower.state_dict()["norm.weight"], own["towers.video.norm.weight"])
    assert read_pixel_constants(folder) == (91.0, 40.0)


def test_what_is_asked_for_goes_along_and_the_card_says_so(multitask_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--with_reports.*holds none; run_mode=inference"):
        export_model(multitask_run, tmp_path / "model", asked=Asked(reports=True))
    (multitask_run / "report.html").write_text("<html>films</html>")
    try:
        export_model(multitask_run, tmp_path / "model", asked=Asked(films=True))
    finally:
        (multitask_run / "report.html").unlink()
    assert (tmp_path / "model" / "report.html").is_file()
    card = (tmp_path / "model" / "README.md").read_text()
    assert "`report.html`: went along because it was asked for" in card
    assert "No report, no bank" not in card


def test_the_tool_writes_from_a_run_and_from_a_checkpoint_folder(
    multitask_run: Path, tmp_path: Path, monkeypatch, capsys, caplog
) -> None:
    caplog.set_level("INFO")
    step = multitask_run / "checkpoints" / "step_3"
    code, out, _ = call_tool("export_model", (step, "--output", tmp_path / "a"), monkeypatch, capsys)
    assert code == 0 and 'deepcoro.load("' in out and "step 3" in out
    assert (
        "saved to" not in caplog.text
    ), "the folder where weights lie before all is written is nobody's business"
    code, _, err = call_tool("export_model", (multitask_run, "--output", tmp_path / "b", "--checkpoint", "step_9"), monkeypatch, capsys)  # fmt: skip
    assert code == 2 and "step_9" in err and err.count("\n") == 1
    assert open_trained(tmp_path / "a", "step_3").who.step == 3
    with pytest.raises(ConfigError, match="holds the model of step 3 alone"):
        open_trained(tmp_path / "a", "step_9")


def test_what_is_no_model_is_told_with_the_way_to_one(tmp_path: Path, folder: Path, monkeypatch) -> None:
    import huggingface_hub

    with pytest.raises(ConfigError, match=r"neither a folder of tools/export_model.py nor a run.*hf://"):
        deepcoro.load(tmp_path)

    def snapshot(local_files_only: bool, allow_patterns: object, **_: object) -> str:
        assert allow_patterns is None
        if local_files_only:
            raise LocalEntryNotFoundError("not in the cache")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert deepcoro.load("hf://heart/model", device="cpu").who.step == 3


def test_importing_deepcoro_loads_no_torch() -> None:
    code = "import sys, deepcoro; assert callable(deepcoro.load); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
