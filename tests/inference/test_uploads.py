"""What is uploaded lies in the scratch folder from its first byte, and no more of it than the places in the queue allow."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from deepcoro.inference.model import Answerer
from deepcoro.inference.opened import FilmOpener
from deepcoro.inference.service import Limits, Service, make_app
from deepcoro.inference.uploads import UploadError, store_uploads
from deepcoro.ingest.identity import Identity

FORM = "multipart/form-data; boundary=x"
FILM = b"\0" * (2 << 20)


def part(content: bytes, name: str = "file", more: str = '; filename="../a"', headers: str = "") -> bytes:
    head = f'--x\r\nContent-Disposition: form-data; name="{name}"{more}\r\n{headers}\r\n'
    return head.encode() + content + b"\r\n"


async def in_pieces(body: bytes, size: int = 7) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


def stored(body: bytes, folder: Path, most_files: int = 2) -> int:
    return asyncio.run(store_uploads(in_pieces(body), FORM, folder, most_files))


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """Two places, and no model: nothing is said of any film."""
    (tmp_path / "scratch").mkdir()
    unused = [object.__new__(kind) for kind in (Answerer, FilmOpener)]
    service = Service(*unused, Identity(b"0" * 32), Limits(waiting=1), tmp_path / "scratch")
    service._answered = lambda folder, body_of: body_of([])
    return service


def client_of(service: Service) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(make_app(service)), base_url="http://test")


async def post(client: httpx.AsyncClient, body: AsyncIterator[bytes]) -> httpx.Response:
    return await client.post("/studies", content=body, headers={"Content-Type": FORM})


def test_parts_named_file_are_stored_under_numbers_as_they_were_sent(tmp_path: Path) -> None:
    body = part(b"one\r\n--y") + part(b"passed over", name="other") + part(b"two") + b"--x--\r\n"
    assert stored(body, tmp_path, most_files=3) == 2
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "000001": b"one\r\n--y",
        "000002": b"two",
    }


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (part(b"a") * 3, "more than 2 files"),
        (part(b"a", more=""), "no file"),
        (part(b"a", headers="X-Long: " + "a" * 20_000 + "\r\n"), "multipart|too long"),
        (b"no form at all", "no multipart form"),
    ],
)
def test_a_body_that_cannot_be_taken_says_why(tmp_path: Path, body: bytes, why: str) -> None:
    with pytest.raises(UploadError, match=why):
        stored(body + b"--x--\r\n", tmp_path)


def test_a_form_without_a_boundary_is_refused_and_another_body_holds_no_films(tmp_path: Path) -> None:
    with pytest.raises(UploadError, match="boundary"):
        asyncio.run(store_uploads(in_pieces(b"a"), "multipart/form-data", tmp_path, 1))
    assert asyncio.run(store_uploads(in_pieces(b"a"), "application/json", tmp_path, 1)) == 0


def test_a_large_film_lies_in_the_scratch_folder_while_it_comes_and_nowhere_else(
    service: Service, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    lay = []

    async def body() -> AsyncIterator[bytes]:
        yield part(FILM)[:-2]
        yield FILM
        lay.extend(path.stat().st_size for path in (tmp_path / "scratch").rglob("*") if path.is_file())
        yield b"\r\n--x--\r\n"

    async def asked() -> httpx.Response:
        async with client_of(service) as client:
            return await post(client, body())

    assert asyncio.run(asked()).status_code == 200
    # the last pieces may wait in a buffer
    assert len(lay) == 1 and lay[0] > len(FILM)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_request_has_its_place_before_its_body_is_read(service: Service, tmp_path: Path) -> None:
    """Two are still sending: the third is refused although no study is under way."""

    async def slow(go_on: asyncio.Event) -> AsyncIterator[bytes]:
        yield part(b"film")
        await go_on.wait()
        yield b"--x--\r\n"

    async def three() -> list[int]:
        go_on = asyncio.Event()
        async with client_of(service) as client:
            posts = [asyncio.create_task(post(client, slow(go_on))) for _ in range(3)]
            done, _ = await asyncio.wait(posts, timeout=30, return_when=asyncio.FIRST_COMPLETED)
            refused = [reply.result().status_code for reply in done]
            go_on.set()
            assert refused == [503]
            return [reply.status_code for reply in await asyncio.gather(*posts)]

    assert sorted(asyncio.run(three())) == [200, 200, 503]
    assert list((tmp_path / "scratch").iterdir()) == []


def test_an_upload_that_falls_silent_gives_its_place_back(service: Service, tmp_path: Path) -> None:
    service.limits = replace(service.limits, waiting=0, silence_s=0.1)

    async def silent() -> AsyncIterator[bytes]:
        yield part(b"film")
        await asyncio.sleep(60)

    async def asked() -> tuple[httpx.Response, httpx.Response]:
        async with client_of(service) as client:
            return await post(client, silent()), await post(client, in_pieces(part(b"film") + b"--x--\r\n"))

    ended, next_one = asyncio.run(asked())
    assert (ended.status_code, next_one.status_code) == (408, 200)
    assert "nothing of the upload came" in ended.json()["detail"]
    assert list((tmp_path / "scratch").iterdir()) == []
