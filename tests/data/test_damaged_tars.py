"""Tars damaged in every way that disks and copies know: never a wrong sample, never one lost unnamed. Plain webdataset beside it."""

import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import webdataset

from deepcoro.data import manifest as schema
from deepcoro.data.shards import Shards
from deepcoro.data.stream import EvaluationStream
from deepcoro.fields import video
from tests.data.folder import moving_film, study_with, write_folder
from tests.data.test_stream import ReportTexts

CLIPS = [1, 2, 1, 2, 1, 2]
TAR, NEXT = "shard-000000.tar", "shard-000001.tar"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tars of three studies; small films, so that there are few places to cut."""
    studies = [
        study_with(
            f"study{number}",
            [moving_film(9 * number + clip, 2, (16, 16)) for clip in range(clips)],
            schema.Encoding(),
        )
        for number, clips in enumerate(CLIPS)
    ]
    return write_folder(tmp_path_factory.mktemp("damaged") / "shards", studies, studies_per_shard=3)


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "shards")


def samples(folder: Path) -> tuple[dict[str, tuple], dict[str, str]]:
    """What comes out: key -> (text, film), and what is said to be lost: key -> reason."""
    shards = Shards.open(folder)
    units = shards.units("train", False, 1)
    fields = {"video": video.Config(frames=2, size_px=16).build(), "texts": ReportTexts()}
    stream = EvaluationStream(shards, units, fields, 3)
    shown: dict[str, tuple] = {}
    for batch in stream:
        films = iter(batch["video"])
        for row in torch.flatten(torch.nonzero(batch["valid"])).tolist():
            shown[units.name(int(batch["unit"][row]))] = (batch["seen"][row], next(films))
    return shown, {key: f"{shard}: {reason}" for key, shard, reason in stream.bad}


def assert_nothing_is_wrong_or_lost_unnamed(folder: Path, intact: dict[str, tuple]) -> dict[str, str]:
    shown, lost = samples(folder)
    assert set(shown) | set(lost) == set(intact) and not set(shown) & set(lost)
    for key, (seen, film) in shown.items():
        assert seen == intact[key][0] and torch.equal(film, intact[key][1]), key
    assert all(reason.startswith(TAR) for reason in lost.values())
    return lost


def test_a_tar_cut_at_every_block_gives_no_wrong_sample_and_names_those_it_lost(written, folder) -> None:
    intact, _ = samples(written)
    whole = (written / TAR).read_bytes()
    num_lost = []
    for length in range(0, len(whole), 512):
        (folder / TAR).write_bytes(whole[:length])
        num_lost.append(len(assert_nothing_is_wrong_or_lost_unnamed(folder, intact)))
    assert num_lost == sorted(num_lost, reverse=True)
    assert (num_lost[0], num_lost[-1]) == (4, 0)


def vanish(tar: Path) -> None:
    tar.unlink()


def empty(tar: Path) -> None:
    tar.write_bytes(b"")


def flip_payload(tar: Path) -> None:
    with tarfile.open(tar) as file:
        place = file.getmembers()[1].offset_data + 30
    flip(tar, place)


def flip_header(tar: Path) -> None:
    with tarfile.open(tar) as file:
        place = file.getmembers()[1].offset + 3
    flip(tar, place)


def flip(tar: Path, place: int) -> None:
    content = bytearray(tar.read_bytes())
    content[place] ^= 4
    tar.write_bytes(content)


def rewrite(tar: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], list]) -> None:
    with tarfile.open(tar) as file:
        members = [(member, file.extractfile(member).read()) for member in file.getmembers()]
    with tarfile.open(tar, "w") as file:
        for member, payload in change(members):
            file.addfile(member, io.BytesIO(payload))


def swap_members(tar: Path) -> None:
    """The films of two studies change places, names and all."""
    rewrite(tar, lambda members: [members[each] for each in (0, 3, 2, 1, *range(4, len(members)))])


def swap_payloads(tar: Path) -> None:
    """The films change places under the names that stay: a plain reader cannot notice."""

    def change(members: list) -> list:
        swapped = list(members)
        one, other = (
            next(each for each, (info, _) in enumerate(members) if info.name == name)
            for name in ("study0.000.mjpg", "study2.000.mjpg")
        )
        for mine, theirs in ((one, other), (other, one)):
            info = tarfile.TarInfo(members[mine][0].name)
            info.size = len(members[theirs][1])
            swapped[mine] = (info, members[theirs][1])
        return swapped

    rewrite(tar, change)


def repeat_a_key(tar: Path) -> None:
    rewrite(tar, lambda members: [members[0], *members])


DAMAGE = {
    "vanished": (vanish, 4),
    "zero bytes": (empty, 4),
    "a flipped bit in a film": (flip_payload, 1),
    "a flipped bit in a header": (flip_header, 0),
    "swapped members": (swap_members, None),
    "swapped payloads": (swap_payloads, None),
    "a key twice": (repeat_a_key, 4),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_gives_no_wrong_sample_and_is_named(written, folder, case: str) -> None:
    intact, _ = samples(written)
    damage, num_lost = DAMAGE[case]
    damage(folder / TAR)
    lost = assert_nothing_is_wrong_or_lost_unnamed(folder, intact)
    assert num_lost is None or len(lost) == num_lost
    assert num_lost is not None or lost, "members that moved are not where the index says"


def plain_webdataset(tars: list[Path], handler: Callable) -> tuple[list[dict], bool]:
    """The samples that webdataset gives, and whether it raised."""
    found: list[dict] = []
    dataset = webdataset.WebDataset([str(tar) for tar in tars], shardshuffle=False, handler=handler)
    try:
        for sample in dataset:
            found.append(
                {key: value for key, value in sample.items() if key not in ("__url__", "__local_path__")}
            )
    except Exception:  # noqa: BLE001 - whatever it raises, it has told
        return found, True
    return found, False


def test_plain_webdataset_loses_samples_of_the_same_tars_in_silence(written, folder) -> None:
    """The contrast, so that it is known when webdataset changes: with its strict handler, cuts between members raise nothing."""
    whole = (written / TAR).read_bytes()
    intact, _ = plain_webdataset([written / TAR, written / NEXT], webdataset.handlers.reraise_exception)
    assert len(intact) == 6
    silent, torn = 0, 0
    cuts = range(512, len(whole), 512)
    for length in cuts:
        (folder / TAR).write_bytes(whole[:length])
        strict, raised = plain_webdataset([folder / TAR], webdataset.handlers.reraise_exception)
        silent += not raised and strict != intact[:3]
        lenient, _ = plain_webdataset([folder / TAR, folder / NEXT], webdataset.handlers.ignore_and_continue)
        kinds = {sample["__key__"]: set(sample) for sample in lenient}
        torn += any(
            kinds[sample["__key__"]] != set(sample) for sample in intact if sample["__key__"] in kinds
        )
    print(
        f"webdataset, of {len(cuts)} cuts: {silent} lost samples in silence, {torn} gave a sample that lacks members"
    )
    assert silent > 0 and torn > 0


def test_plain_webdataset_gives_one_patient_anothers_film_and_nobody_notices(written, folder) -> None:
    swap_payloads(folder / TAR)
    before, _ = plain_webdataset([written / TAR], webdataset.handlers.reraise_exception)
    after, raised = plain_webdataset([folder / TAR], webdataset.handlers.reraise_exception)
    assert not raised
    assert after[0]["json"] == before[0]["json"] and after[0]["000.mjpg"] == before[2]["000.mjpg"]
