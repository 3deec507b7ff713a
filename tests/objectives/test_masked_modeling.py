"""The objective on the tiny encoder: blind to what is hidden, exact sums over rows, and numbers that a loop finds too."""

import itertools

import pytest
import torch

from deepcoro.config import ConfigError, find_config
from deepcoro.features import Features, Surroundings, encode_clips
from deepcoro.masked_video.masks import hidden_of
from deepcoro.objectives.masked_modeling import Config
from deepcoro.run_config import load_run_config
from deepcoro.towers.video_mvit import VideoMViT

FRAMES, SIZE_PX, UNIT_PX, GRID = 6, 32, 16, (3, 2, 2)
SMALL = {"decoder_layers": 2, "decoder_dim": 24, "decoder_heads": 2}
LATENTS = ("none", "dense", "ema")
# three rows: two clips, none (it could not be read), one
CLIP_MASK = torch.tensor([[True, True], [False, False], [True, False]])


def make(latent="none", frames=FRAMES, size_px=SIZE_PX, **settings):
    torch.manual_seed(0)
    tower = VideoMViT.from_variant("tiny", frames=frames, size_px=size_px)
    beside = Surroundings(tower.dim, 8, None, frames, size_px, video_tower=tower)
    objective = Config(latent=latent, **SMALL | settings).build(beside)
    return tower.double(), objective.double()


def films(num, seed=1, channels=1, frames=FRAMES, size_px=SIZE_PX):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, channels, frames, size_px, size_px, generator=generator, dtype=torch.float64)


def batch_of(clip_mask=CLIP_MASK, first=100, valid=None):
    rows = len(clip_mask)
    valid = clip_mask.any(1) if valid is None else valid
    return {"clip_mask": clip_mask, "valid": valid, "position": torch.arange(first, first + rows)}


def features_of(tower, objective, video, batch):
    """As the model runs it."""
    shown = objective.shown_units(batch, len(video))
    encode = (tower.encode, video, batch["clip_mask"], tower.has_class_token)
    clips = encode_clips(*encode) if "clips" in objective.reads else None
    return Features(clips=clips, video=video, shown=shown, visible=encode_clips(*encode, visible=shown))


def result_of(tower, objective, video, batch):
    return objective(features_of(tower, objective, video, batch), batch)


def gradients(*modules):
    return {
        f"{number}.{name}": each.grad
        for number, module in enumerate(modules)
        for name, each in module.named_parameters()
        if each.requires_grad
    }


def pixels_of(shown, num_clips, frames=FRAMES, size_px=SIZE_PX, grid=GRID):
    """[clip, 1, frame, row, column]: which pixels the shown units hold."""
    frame = torch.arange(frames)[:, None, None] // 2
    row, column = torch.arange(size_px)[:, None] // UNIT_PX, torch.arange(size_px) // UNIT_PX
    unit = (frame * grid[1] + row) * grid[2] + column
    return torch.stack([torch.isin(unit, shown[clip]) for clip in range(num_clips)])[:, None]


@pytest.mark.parametrize("latent", ["none", "ema"])
@pytest.mark.parametrize("masking", ["agnostic", "tube"])
def test_what_is_hidden_changes_neither_the_encoder_nor_the_guess_and_only_the_target(latent, masking):
    tower, objective = make(latent, masking=masking, mask_ratio=0.5)
    batch, video = batch_of(), films(3)
    seen = pixels_of(objective.shown_units(batch, 3), 3)
    other = torch.where(seen, video, films(3, seed=9) * 5)
    found = [features_of(tower, objective, each, batch) for each in (video, other)]
    assert torch.equal(found[0].visible.tokens, found[1].visible.tokens)
    guesses = [objective.guess(each, batch) for each in found]
    assert torch.equal(guesses[0].tokens, guesses[1].tokens)
    assert torch.equal(guesses[0].normalised, guesses[1].normalised)
    sums = [objective(each, batch)["sum"] for each in found]
    assert not torch.allclose(*sums)


def test_what_is_seen_is_no_target():
    tower, objective = make()
    batch, video = batch_of(), films(3)
    found = features_of(tower, objective, video, batch)
    seen = pixels_of(found.shown, 3)
    other = Features(video=torch.where(seen, 7.0, video), shown=found.shown, visible=found.visible)
    assert torch.equal(objective(other, batch)["sum"], objective(found, batch)["sum"])
    for name, value in objective.evaluate(found, batch).items():
        same = torch.equal(objective.evaluate(other, batch)[name].nan_to_num(), value.nan_to_num())
        assert same == (name != "error_of_nearest_visible")


@pytest.mark.parametrize("latent", LATENTS)
def test_shares_of_ranks_add_up_to_those_of_one_process(latent):
    """Rows are each other's nothing here: what ranks and micro-steps hold apart is summed."""
    tower, objective = make(latent)
    video = films(3)
    whole = batch_of()
    assert objective.count(whole).tolist() == [3 * 9]
    result_of(tower, objective, video, whole)["sum"].backward()
    expected = gradients(tower, objective)
    total = result_of(tower, objective, video, whole)["sum"].detach()
    for module in tower, objective:
        module.zero_grad()
    shares, counts = [], []
    for rows, clips in ((slice(0, 1), slice(0, 2)), (slice(1, 3), slice(2, 3))):
        part = {name: value[rows] for name, value in whole.items()}
        shares.append(result_of(tower, objective, video[clips], part)["sum"])
        counts.append(objective.count(part))
        shares[-1].backward()
    torch.testing.assert_close(sum(shares).detach(), total, rtol=1e-12, atol=0)
    assert sum(counts).tolist() == [27]
    for name, value in gradients(tower, objective).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("latent", LATENTS)
def test_a_row_that_could_not_be_read_has_no_part_in_it(latent):
    tower, objective = make(latent)
    video, batch = films(3), batch_of(valid=torch.tensor([True, False, False]))
    other = video.clone()
    other[2] = 1e3
    sums = [result_of(tower, objective, each, batch)["sum"] for each in (video, other)]
    alone = {name: value[:1] for name, value in batch.items()}
    assert torch.equal(*sums)
    torch.testing.assert_close(sums[0], result_of(tower, objective, video[:2], alone)["sum"])
    assert objective.count(batch).tolist() == objective.count(alone).tolist() == [18]


@pytest.mark.parametrize("latent", LATENTS)
def test_without_a_valid_row_the_sum_is_a_zero_that_every_parameter_hears_of(latent):
    tower, objective = make(latent)
    nothing = batch_of(torch.zeros(2, 1, dtype=torch.bool))
    result = result_of(tower, objective, torch.zeros_like(films(1)), nothing)
    result["sum"].backward()
    assert result["sum"].item() == 0 and objective.count(nothing).tolist() == [0]
    assert all(value.isfinite().all() for value in result.values())
    for name, value in gradients(tower, objective).items():
        if not name.startswith("0.norm") or value is not None:
            assert value is not None and not value.any(), name
    rows = objective.evaluate(features_of(tower, objective, films(1), nothing), nothing)
    assert all(torch.isnan(value).all() and value.shape == (2,) for value in rows.values())


@pytest.mark.parametrize("latent", LATENTS)
def test_a_batch_of_one_clip_trains(latent):
    tower, objective = make(latent)
    result = result_of(tower, objective, films(1), batch_of(torch.ones(1, 1, dtype=torch.bool)))
    assert {value.shape for value in result.values()} == {(1,)}
    assert [name for name, value in result.items() if value.requires_grad] == ["sum"]
    result["sum"].backward()
    for name, value in gradients(tower, objective).items():
        assert value is not None and value.isfinite().all(), name


def test_latent_targets_are_normalised_tokens_of_the_whole_clip_without_gradient():
    tower, objective = make("dense", latent_weight=3.0)
    batch, video = batch_of(), films(3)
    found = features_of(tower, objective, video, batch)
    result = objective(found, batch)
    (gradient,) = torch.autograd.grad(
        result["sum"], [found.clips.tokens], allow_unused=True, retain_graph=True
    )
    assert gradient is None
    guess = objective.guess(found, batch)
    tokens = tower.encode(video)[:, 1:]
    wanted = (tokens - tokens.mean(-1, keepdim=True)) / (
        tokens.var(-1, correction=0, keepdim=True) + 1e-5
    ).sqrt()
    total = torch.zeros((), dtype=torch.float64)
    for clip in range(3):
        for number, unit in enumerate(guess.hidden[clip].tolist()):
            latent = objective.latents(guess.tokens[clip, number]) - wanted[clip, unit]
            pixel = guess.normalised[clip, number] - guess.truth.normalised[clip, unit]
            total += pixel.square().mean() + 3.0 * latent.square().mean()
    torch.testing.assert_close(result["sum"], total.reshape(1))
    torch.testing.assert_close(result["pixel_loss"] + 3 * result["latent_loss"], total.reshape(1) / 27)


def test_the_teacher_starts_as_the_student_and_no_gradient_reaches_it():
    tower, objective = make("ema")
    objective.train()
    assert not objective.teacher.encoder.training
    torch.testing.assert_close(objective.teacher.encoder.state_dict(), tower.state_dict())
    batch, video = batch_of(), films(3)
    targets = objective.teacher(video, batch["clip_mask"])
    torch.testing.assert_close(targets, tower.eval().encode(video).detach())
    result_of(tower, objective, video, batch)["sum"].backward()
    assert all(each.grad is None for each in objective.teacher.parameters())
    assert "teacher.encoder.norm.weight" in objective.state_dict()


@pytest.mark.parametrize(("frames", "size_px"), [(FRAMES, SIZE_PX), (5, 40)])
def test_rows_of_an_evaluation_are_what_a_loop_finds(frames, size_px):
    tower, objective = make(frames=frames, size_px=size_px, mask_ratio=0.5)
    video, batch = films(3, channels=3, frames=frames, size_px=size_px), batch_of()
    video[0, :, :2, :16, :16] = 0.5  # a flat unit
    vessels = films(3, seed=4, frames=frames, size_px=size_px)[:, 0] > 0.5
    batch |= {"vessels": vessels}
    found = features_of(tower, objective, video, batch)
    rows, expected = objective.evaluate(found, batch), _by_loop(objective, found, batch)
    assert rows.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(rows[name].double(), value, rtol=1e-5, atol=1e-6, equal_nan=True, msg=name)
    assert rows["error_of_unit_mean"][[0, 2]].tolist() == pytest.approx([1, 1], rel=1e-5)
    assert torch.isnan(rows["error"][1])


@torch.no_grad()
def _by_loop(objective, found, batch):
    """Sums over rows, clips and hidden units, from the definition; grey films of whole units, black outside of the clip."""
    grid = objective.units.grid
    whole = (2 * grid[0], UNIT_PX * grid[1], UNIT_PX * grid[2])
    guess = objective.guess(found, batch)
    sums = {}
    for clip, row in ((0, 0), (1, 0), (2, 2)):
        grey, vessels, inside = (torch.zeros(whole, dtype=torch.float64) for _ in range(3))
        part = tuple(slice(size) for size in found.video.shape[2:])
        grey[part], vessels[part], inside[part] = (
            found.video[clip].mean(0),
            batch["vessels"][clip].double(),
            1,
        )
        for number, unit in enumerate(guess.hidden[clip].tolist()):
            box = _box(unit, grid)
            target, is_flat = _normal(grey[box], inside[box])
            if is_flat:
                continue
            time, at = divmod(unit, grid[1] * grid[2])
            units = [each for each in found.shown[clip].tolist() if each % (grid[1] * grid[2]) == at]
            copied = torch.zeros_like(target)
            if units:
                source = min(units, key=lambda each: abs(each // (grid[1] * grid[2]) - time))
                copied, _ = _normal(grey[_box(source, grid)], inside[_box(source, grid)])
            guesses = {
                "error": guess.normalised[clip, number].reshape(target.shape),
                "error_of_unit_mean": torch.zeros_like(target),
                "error_of_nearest_visible": copied,
            }
            weights = {"": inside[box], "_on_vessels": inside[box] * vessels[box]}
            for name, suffix in itertools.product(guesses, weights):
                total = sums.setdefault(name + suffix, torch.zeros(3, 2, dtype=torch.float64))[row]
                squares = (guesses[name] - target).square() * weights[suffix]
                total += torch.stack([squares.sum(), weights[suffix].sum()])
    return {name: value[:, 0] / value[:, 1] for name, value in sums.items()}


def _box(unit, grid):
    time, row, column = unit // (grid[1] * grid[2]), unit // grid[2] % grid[1], unit % grid[2]
    sizes = (2, UNIT_PX, UNIT_PX)
    return tuple(
        slice(size * at, size * (at + 1)) for size, at in zip(sizes, (time, row, column), strict=True)
    )


def _normal(values, inside):
    own = values[inside > 0]
    std = own.std(correction=0)
    return (values - own.mean()) / std.clamp(min=0.02) * inside, std < 0.02


@pytest.mark.parametrize(("frames", "size_px"), [(FRAMES, SIZE_PX), (5, 40)])
def test_pictures_show_the_film_what_was_seen_of_it_and_the_guess_elsewhere(frames, size_px):
    tower, objective = make(frames=frames, size_px=size_px)
    video, batch = films(3, channels=3, frames=frames, size_px=size_px), batch_of()
    found = features_of(tower, objective, video, batch)
    drawn = objective.pictures(found, batch)
    grid = objective.units.grid
    seen = pixels_of(found.shown, 3, frames, size_px, grid)[:, 0]
    assert torch.equal(drawn["original"], video.mean(1))
    assert torch.equal(drawn["masked"], torch.where(seen, video.mean(1), 0))
    assert torch.equal(drawn["reconstruction"][seen], video.mean(1)[seen])
    guess, unit = objective.guess(found, batch), int(hidden_of(found.shown, len(objective.inside))[1, 0])
    box = _box(unit, grid)
    whole, own = video[1].mean(0)[box], drawn["reconstruction"][1][box]
    wanted = guess.normalised[1, 0].reshape(2, UNIT_PX, UNIT_PX)[tuple(slice(size) for size in own.shape)]
    torch.testing.assert_close(own, wanted * whole.std(correction=0) + whole.mean())


@pytest.mark.parametrize(("frames", "size_px"), [(4, 32), (1, 40), (5, 33)])
def test_small_and_uneven_clips_can_be_masked(frames, size_px):
    tower, objective = make("dense", frames=frames, size_px=size_px)
    video, batch = films(1, frames=frames, size_px=size_px), batch_of(torch.ones(1, 1, dtype=torch.bool))
    result = result_of(tower, objective, video, batch)
    assert result["sum"].isfinite().all() and result["sum"].item() > 0
    assert (
        hidden_of(objective.shown_units(batch, 1), len(objective.inside)).shape[1]
        == objective.rule.num_hidden
    )


def test_masks_hang_on_the_rows_position_its_clip_and_the_seed():
    _, objective = make()
    shown = objective.shown_units(batch_of(), 3)
    assert torch.equal(objective.eval().shown_units(batch_of(), 3), shown)
    part = {name: value[2:] for name, value in batch_of().items()}
    assert torch.equal(objective.shown_units(part, 1), shown[2:])
    assert not torch.equal(shown[0], shown[1])
    assert not torch.equal(objective.shown_units(batch_of(first=101), 3), shown)
    assert not torch.equal(make(seed=1)[1].shown_units(batch_of(), 3), shown)


def test_under_bf16_autocast_the_loss_is_fp32_and_near():
    tower, objective = make("dense")
    batch, video = batch_of(), films(3).float()
    exact = result_of(tower.float(), objective.float(), video, batch)["sum"]
    with torch.autocast("cpu", torch.bfloat16):
        result = result_of(tower, objective, video, batch)
        rows = objective.evaluate(features_of(tower, objective, video, batch), batch)
    assert {value.dtype for value in (*result.values(), *rows.values())} == {torch.float32}
    torch.testing.assert_close(result["sum"], exact, rtol=2e-2, atol=0)
    assert not torch.equal(result["sum"], exact)


def test_a_tower_that_cannot_encode_a_part_of_a_clip_is_refused():
    beside = Surroundings(8, 8, None, FRAMES, SIZE_PX, video_tower=torch.nn.Linear(1, 1))
    with pytest.raises(ConfigError, match="Linear cannot; take towers.video.type=video_mvit"):
        Config().build(beside)


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="mask_ratio 0.99 leaves no visible unit"):
        make(mask_ratio=0.99)
    with pytest.raises(ValueError, match="decoder_heads 5 does not divide decoder_dim 384"):
        Config(decoder_heads=5)


def test_a_run_has_one_of_them_since_a_film_is_masked_once_a_step():
    second = "objectives.tubes={type: masked_modeling, mask_ratio: 0.5, masking: tube}"
    with pytest.raises(
        ConfigError, match=r"objectives \['masked_modeling', 'tubes'\] are all of type masked_modeling"
    ):
        load_run_config(find_config("demo/tiny_multitask"), [second])
