"""The digest in the endpoint's audit log is that of the body which the client got."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from deepcoro.inference.audit import AUDIT, AuditLog, check_audit
from deepcoro.inference.opened import FilmOpener, settings_of
from deepcoro.inference.service import Limits, Service, make_app
from deepcoro.ingest.identity import Identity
from tests.inference.stand_in import SCORE, StandIn
from tests.ingest.films import PLANTED, moving_bar, write_dicom


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with FilmOpener(settings_of(1, "XA", False, "sector")) as opener:
        identity, audit = Identity(b"0123456789abcdef0123456789abcdef"), AuditLog(tmp_path / AUDIT)
        yield TestClient(make_app(Service(StandIn(), opener, identity, Limits(), audit=audit)))


@pytest.fixture
def films(tmp_path: Path) -> list[tuple[str, bytes]]:
    """One film of each of two studies, as parts of a form."""
    one = write_dicom(tmp_path / "a.dcm", moving_bar())
    other = write_dicom(tmp_path / "b.dcm", moving_bar(), StudyInstanceUID=PLANTED["StudyInstanceUID"] + ".1")
    return [("file", path.read_bytes()) for path in (one, other)]


def digests_in(path: Path) -> list[str]:
    return [json.loads(line)["answer_sha256"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize(("verb", "num_studies"), [("studies", 1), ("studies", 2), ("page", 1)])
def test_the_audit_log_holds_the_digest_of_the_body_that_was_sent(
    client: TestClient, films: list, tmp_path: Path, verb: str, num_studies: int
) -> None:
    reply = client.post(f"/{verb}", files=films[:num_studies])
    assert reply.status_code == 200, reply.text
    assert digests_in(tmp_path / AUDIT) == [hashlib.sha256(reply.content).hexdigest()] * num_studies
    assert check_audit(tmp_path / AUDIT) == num_studies
    if verb == "studies":
        assert reply.headers["content-type"] == "application/json"
        told = [answer["findings"][0]["score"] for answer in reply.json()["studies"]]
        assert told == [SCORE] * num_studies


def test_a_page_that_is_refused_is_no_answer_and_has_no_line(client: TestClient, films: list, tmp_path: Path) -> None:  # fmt: skip
    reply = client.post("/page", files=films)
    assert reply.status_code == 422 and "belong to 2 studies" in reply.json()["detail"]
    assert not (tmp_path / AUDIT).exists()
