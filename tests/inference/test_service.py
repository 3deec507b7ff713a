"""The endpoint: uploads in, answers out, nothing left behind, and a bound on everything that a client can send."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from deepcoro.inference.audit import AUDIT, AuditLog, check_audit
from deepcoro.inference.model import Answerer
from deepcoro.inference.opened import FilmOpener, settings_of
from deepcoro.inference.service import Limits, Service, make_app
from deepcoro.ingest.identity import Identity
from tests.ingest.films import moving_bar, of_film, write_dicom
from tests.ingest.identities import found_in, write_full_dicom

SECRET = b"0123456789abcdef0123456789abcdef"
TOKEN = {"Authorization": "Bearer a-token"}


@pytest.fixture(scope="module")
def answerer(run_dir: Path) -> Answerer:
    return Answerer(run_dir, "last", "cpu")


@pytest.fixture
def service(answerer: Answerer, tmp_path: Path) -> Iterator[Service]:
    """Uploads lie in tmp_path / "scratch"; at most 4 files of 300,000 bytes together."""
    (tmp_path / "scratch").mkdir()
    with FilmOpener(settings_of(1, "XA", False, "sector")) as opener:
        limits = Limits(upload_bytes=300_000, files=4, waiting=1)
        audit = AuditLog(tmp_path / AUDIT)
        yield Service(answerer, opener, Identity(SECRET), limits, tmp_path / "scratch", audit)


@pytest.fixture
def client(service: Service) -> TestClient:
    return TestClient(make_app(service, "a-token"), headers=TOKEN)


def part(path: Path) -> tuple[str, tuple[str, bytes]]:
    return "file", (path.name, path.read_bytes())


def films_in(folder: Path) -> list[Path]:
    folder.mkdir()
    kind = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.2"}
    capture = write_full_dicom(folder / "BOUCHARD.dcm", 3, **kind, **of_film(3))
    return [write_full_dicom(folder / "TREMBLAY.dcm", 1), capture]


def test_uploaded_films_are_answered_and_nothing_of_them_stays(
    client: TestClient, tmp_path: Path, caplog
) -> None:
    caplog.set_level("DEBUG", "deepcoro")
    reply = client.post("/studies", files=[part(path) for path in films_in(tmp_path / "films")])
    assert reply.status_code == 200, reply.text
    (answer,) = reply.json()["studies"]
    assert [film["number"] for film in answer["films"]] == [1]
    assert [each["reason"] for each in answer["skipped"]] == ["secondary_capture"]
    assert list((tmp_path / "scratch").iterdir()) == []
    assert not found_in("reply.json", reply.content) and not found_in("log", caplog.text.encode())
    assert check_audit(tmp_path / AUDIT) == 1
    assert not found_in("audit.jsonl", (tmp_path / AUDIT).read_bytes())


def test_the_page_of_a_study_comes_as_html(client: TestClient, tmp_path: Path) -> None:
    reply = client.post("/page", files=[part(path) for path in films_in(tmp_path / "films")])
    assert reply.status_code == 200 and reply.headers["content-type"].startswith("text/html")
    assert "secondary_capture" in reply.text and "data:image/jpeg;base64," in reply.text
    assert not found_in("page.html", reply.content)


def test_an_upload_may_not_be_larger_than_the_limit_whatever_it_says_of_its_length(
    client: TestClient, tmp_path: Path
) -> None:
    reply = client.post("/studies", files=[("file", ("a", b"\0" * 400_000))])
    assert reply.status_code == 413

    def pieces() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(50):
            yield b"\0" * 10_000

    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    reply = client.post("/studies", content=pieces(), headers=kind)
    assert reply.status_code == 413
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize(
    ("files", "status"),
    [
        ([("file", (f"{number}", b"\0")) for number in range(5)], 400),  # too many
        ([("other", ("a", b"\0"))], 422),
        ([], 422),
    ],
)
def test_a_request_that_cannot_be_answered_says_why(client: TestClient, files: list, status: int) -> None:
    reply = client.post("/studies", files=files or None)
    assert reply.status_code == status and reply.json()["detail"]


def test_files_that_are_no_films_are_an_answer_with_reasons(client: TestClient) -> None:
    reply = client.post("/studies", files=[("file", ("../../etc/passwd", b"no film"))])
    (answer,) = reply.json()["studies"]
    assert answer["films"] == [] and answer["skipped"][0]["reason"].startswith("unsupported_format")


def test_without_the_token_nothing_is_answered(service: Service) -> None:
    client = TestClient(make_app(service, "a-token"))
    assert client.get("/health").status_code == 401
    assert client.post("/studies", files=[("file", ("a", b"\0"))]).status_code == 401
    assert client.get("/health", headers=TOKEN).json()["model"]["step"] == 2


def test_who_comes_when_others_wait_is_told_to_come_back(
    service: Service, tmp_path: Path, monkeypatch
) -> None:
    """One is under way and one waits: the third is refused, the two are answered."""
    under_way, go_on = threading.Event(), threading.Event()
    answered = service._answered

    def held(*asked: object) -> bytes:
        under_way.set()
        assert go_on.wait(60)
        return answered(*asked)

    monkeypatch.setattr(service, "_answered", held)
    app, path = make_app(service), write_dicom(tmp_path / "a.dcm", moving_bar())
    codes = asyncio.run(three_at_once(app, path, under_way, go_on))
    assert sorted(codes) == [200, 200, 503]


async def three_at_once(app, path: Path, under_way: threading.Event, go_on: threading.Event) -> list[int]:
    import httpx

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        posts = [asyncio.create_task(client.post("/studies", files=[part(path)])) for _ in range(3)]
        await asyncio.to_thread(under_way.wait, 60)
        done, _ = await asyncio.wait(posts, return_when=asyncio.FIRST_COMPLETED)
        assert {each.result().status_code for each in done} == {503}
        go_on.set()
        return [reply.status_code for reply in await asyncio.gather(*posts)]


def test_the_form_of_an_answer_is_the_one_that_the_tool_writes(client: TestClient, tmp_path: Path) -> None:
    from deepcoro.inference.prediction import StudyAnswer

    reply = client.post("/studies", files=[part(path) for path in films_in(tmp_path / "films")])
    (answer,) = reply.json()["studies"]
    assert json.loads(StudyAnswer.model_validate(answer).model_dump_json()) == answer
