"""The whole model: two ranks against one, and rows that are not there."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from deepcoro import distributed
from deepcoro.build import build_model, build_parts
from deepcoro.config import find_config
from deepcoro.data.order import Shuffled
from deepcoro.data.plan import Plan, rows_from
from deepcoro.data.stream import Fetch
from deepcoro.model import Batch, VideoTextModel, _copy_stream, to_device
from deepcoro.run_config import load_run_config
from tests.launch import SILENT, STEADY, main_on_rank, metrics, tiny
from tests.ranks import Ranks

GLOBAL_BATCH = 6


def model_and_batch(shards: Path, run_dir: Path, *words: str) -> tuple[VideoTextModel, Batch]:
    """This rank's share of a batch of studies with up to three films."""
    words = (*STEADY, "data.multi_video=true", "data.num_videos=3", *words)
    name, *overrides = tiny(shards, run_dir, *words)
    config = load_run_config(find_config(name), overrides)
    parts = build_parts(config, make_tokenizer=True)
    units = parts.shards.units("train", True, 3)
    rank, world_size = distributed.rank(), distributed.world_size()
    plan = Plan(Shuffled(units.shard), GLOBAL_BATCH // world_size, 1, rank, world_size)
    batch = Fetch(parts.shards, units, parts.fields, 0)[rows_from(plan, 0, 0)].batch
    return build_model(config, parts), batch


def loss_and_gradients(rank: int, shards: Path, run_dir: Path, words: tuple[str, ...]) -> dict[str, Any]:
    model, batch = model_and_batch(shards, run_dir, *words)
    world_size = distributed.world_size()
    wrapped = DistributedDataParallel(model) if world_size > 1 else model
    result = wrapped(batch, task="losses")["contrastive"]
    count = distributed.sum_over_ranks(model.objectives["contrastive"].count(batch))
    (result["sum"] * world_size / count).sum().backward()
    value = distributed.sum_over_ranks(result["sum"]) / count
    return {"loss": value, "gradients": {name: each.grad for name, each in model.named_parameters()}}


CLIP, SIGLIP = (f"objectives.contrastive.loss.type={loss}" for loss in ("clip", "siglip"))
AUGMENTED = (
    "augment={rotation_deg: 20, crop_min_scale: 0.5, noise_std: 9}",
    "data.fields.report.length_buckets=2",
)

GATHER, RING = (
    (f"objectives.contrastive.form={form}", "objectives.contrastive.tile=2") for form in ("gather", "ring")
)


@pytest.mark.parametrize(
    "words",
    [(CLIP,), (SIGLIP,), (CLIP, *AUGMENTED), (CLIP, *RING), (SIGLIP, *RING), (CLIP, *GATHER)],
    ids=["clip", "siglip", "augmented", "clip ring", "siglip ring", "clip gather"],
)
def test_two_ranks_have_the_loss_and_gradients_of_one(
    tiny_shards: Path, two_ranks: Ranks, tmp_path: Path, words: tuple[str, ...]
) -> None:
    alone = loss_and_gradients(0, tiny_shards, tmp_path / "alone", words)
    assert all(gradient is not None for gradient in alone["gradients"].values()), "no parameter is left out"
    for rank in two_ranks.run(loss_and_gradients, tiny_shards, tmp_path / "two", words):
        torch.testing.assert_close(rank["loss"], alone["loss"], rtol=1e-5, atol=0)
        assert rank["gradients"].keys() == alone["gradients"].keys()
        errors = [rank["gradients"][name] - each for name, each in alone["gradients"].items()]
        norms = [
            torch.stack([each.norm() for each in some]).norm()
            for some in (errors, alone["gradients"].values())
        ]
        assert norms[0] <= 1e-5 * norms[1]


@pytest.fixture(scope="module")
def ready(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[VideoTextModel, Batch]:
    return model_and_batch(tiny_shards, tmp_path_factory.mktemp("model"))


def test_wider_padding_changes_no_embedding(ready: tuple[VideoTextModel, Batch]) -> None:
    model, batch = ready
    padded = dict(batch, clip_mask=torch.nn.functional.pad(batch["clip_mask"], (0, 2)))
    report = batch["report"]
    wider = {name: torch.nn.functional.pad(report[name], (0, 3)) for name in ("input_ids", "attention_mask")}
    padded["report"] = report | wider
    with torch.no_grad():
        torch.testing.assert_close(model(padded, "features"), model(batch, "features"), rtol=1e-5, atol=1e-6)


def test_an_invalid_row_changes_neither_loss_nor_gradients(ready: tuple[VideoTextModel, Batch]) -> None:
    """What is shown in its place does not matter."""
    model, batch = ready
    valid = batch["valid"].clone()
    valid[2] = False
    start = int(batch["clip_mask"][:2].sum())
    video = batch["video"].clone()
    video[start : start + int(batch["clip_mask"][2].sum())] = 255
    losses = []
    for shown in (batch["video"], video):
        model.zero_grad()
        given = dict(batch, valid=valid, video=shown)
        share = model(given, task="losses")["contrastive"]["sum"]
        share.backward()
        gradients = {name: each.grad.clone() for name, each in model.named_parameters()}
        losses.append((share.detach(), gradients, model.objectives["contrastive"].count(given)))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)
    assert int(losses[0][2]) == GLOBAL_BATCH - 1


def test_a_batch_without_a_valid_row_gives_a_zero_that_every_parameter_hears_of(
    ready: tuple[VideoTextModel, Batch],
) -> None:
    model, batch = ready
    model.zero_grad(set_to_none=True)
    given = dict(batch, valid=torch.zeros_like(batch["valid"]))
    share = model(given, task="losses")["contrastive"]["sum"]
    share.backward()
    assert share.item() == 0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and not parameter.grad.any(), name


def test_encoding_in_chunks_is_encoding_at_once(ready: tuple[VideoTextModel, Batch]) -> None:
    model, batch = ready
    with torch.no_grad():
        whole = model(batch, task="features")["video"]
        model.clips_per_chunk = 2
        chunked = model(batch, task="features")["video"]
        model.clips_per_chunk = None
    torch.testing.assert_close(chunked, whole, rtol=1e-5, atol=1e-6)


def test_bf16_keeps_losses_and_embeddings_in_fp32(ready: tuple[VideoTextModel, Batch]) -> None:
    model, batch = ready
    with torch.no_grad():
        exact = model(batch, task="features")["video"]
        model.precision = "bf16"
        features, share = model(batch, task="features"), model(batch, task="losses")["contrastive"]["sum"]
        model.precision = "fp32"
    assert {each.dtype for each in (*features.values(), share)} == {torch.float32}
    torch.testing.assert_close(features["video"], exact, rtol=0, atol=0.05)
    assert not torch.equal(features["video"], exact)


def test_windows_of_a_film_are_encoded_as_clips_of_its_row(tiny_shards: Path, tmp_path: Path) -> None:
    words = ("sampling=multi_window", "stride_s=0.2", "windows=2")
    model, batch = model_and_batch(tiny_shards, tmp_path, *(f"data.fields.video.{word}" for word in words))
    assert batch["clip_mask"].shape == (GLOBAL_BATCH, 6) and len(batch["video"]) == batch["clip_mask"].sum()
    with torch.no_grad():
        together = model(batch, task="features")["video"]
        alone = dict(batch, video=batch["video"][-int(batch["clip_mask"][-1].sum()) :])
        alone |= {name: batch[name][-1:] for name in ("clip_mask", "position")}
        torch.testing.assert_close(
            model(alone, task="features")["video"], together[-1:], rtol=1e-5, atol=1e-6
        )


def test_films_are_augmented_in_training_and_never_in_evaluation(tiny_shards: Path, tmp_path: Path) -> None:
    plain, batch = model_and_batch(tiny_shards, tmp_path)
    changed, _ = model_and_batch(tiny_shards, tmp_path, "augment.rotation_deg=30", "augment.brightness=0.3")
    changed.load_state_dict(plain.state_dict())
    with torch.no_grad():
        evaluated = [model.eval()(batch, task="features")["video"] for model in (plain, changed)]
        trained = [model.train()(batch, task="features")["video"] for model in (changed, changed)]
    assert torch.equal(*evaluated)
    assert torch.equal(*trained), "the same rows are shown the same way, also after a resume"
    assert not torch.allclose(trained[0], evaluated[0], atol=1e-4)


def test_length_buckets_change_no_embedding_and_no_loss_and_cost_as_many_calls_in_any_batch(
    ready: tuple[VideoTextModel, Batch], tiny_shards: Path, tmp_path: Path
) -> None:
    model, batch = ready
    bucketed, other = model_and_batch(tiny_shards, tmp_path, "data.fields.report.length_buckets=3")
    bucketed.load_state_dict(model.state_dict())
    with torch.no_grad():
        texts = [
            each(given, task="features")["text"][given["report"]["index"]]
            for each, given in ((model, batch), (bucketed, other))
        ]
        torch.testing.assert_close(*texts, rtol=0, atol=1e-6)
        losses = [each(given)["contrastive"]["sum"] for each, given in ((model, batch), (bucketed, other))]
        torch.testing.assert_close(*losses, rtol=1e-6, atol=1e-6)
    widths: list[tuple[int, ...]] = []
    bucketed.towers["text"].register_forward_pre_hook(lambda _, given: widths.append(tuple(given[0].shape)))
    field = build_parts(
        load_run_config(
            find_config("demo/tiny"),
            [f"data.shards={tiny_shards}", f"run_dir={tmp_path}", "data.fields.report.length_buckets=3"],
        )
    ).fields["report"]
    for values in (["a short one", None], [None], ["one", "a longer one", "the very longest one", "two"]):
        widths.clear()
        given = field.collate(values, 1)
        bucketed({"report": given["report"]}, task="features")
        assert len(widths) == 3 and sum(width[0] for width in widths) == len(given["report"]["input_ids"])
    assert len({width[1] for width in widths}) > 1, "each group is as wide as its longest"


@pytest.mark.slow
def test_zero_3_trains_with_buckets_that_hold_repeats_on_some_ranks(
    tiny_shards: Path, two_ranks: Ranks, tmp_path: Path
) -> None:
    """One row a rank and three buckets: a missing call would hang the ranks."""
    words = (*STEADY, *SILENT, "max_steps=2", "batch_size=1", "data.fields.report.length_buckets=3")
    assert two_ranks.run(main_on_rank, "zero3_whole", *tiny(tiny_shards, tmp_path / "run", *words)) == [0, 0]
    assert 0 < metrics(tmp_path / "run")[-1]["speed/padded_token_fraction"] < 1


def test_a_batch_on_the_host_is_left_as_it_is() -> None:
    batch = {"video": torch.zeros(1), "report": {"input_ids": torch.ones(2)}, "key": ["a.000"]}
    moved = to_device(batch, torch.device("cpu"))
    assert moved["video"] is batch["video"] and moved["report"]["input_ids"] is batch["report"]["input_ids"]
    assert moved["key"] == ["a.000"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: two streams of it")
def test_a_batch_is_copied_beside_the_compute_under_way_and_arrives_whole() -> None:
    device, chance = torch.device("cuda"), torch.Generator().manual_seed(0)
    batches = [torch.randint(256, (1 << 20,), generator=chance) for _ in range(8)]
    sums = []
    for batch in batches:
        torch.cuda._sleep(50_000_000)
        moved = to_device({"video": batch.pin_memory(), "key": "a.000"}, device)
        sums.append(moved["video"].sum())
        del moved  # its memory may go to the next batch, which is copied while the sum still waits
    assert torch.stack(sums).tolist() == [int(batch.sum()) for batch in batches]

    computing, pinned = torch.cuda.current_stream(), batches[0].pin_memory()
    torch.cuda._sleep(2_000_000_000)
    to_device(pinned, device)
    _copy_stream(device).synchronize()
    assert not computing.query(), "the copy waited for the compute"
