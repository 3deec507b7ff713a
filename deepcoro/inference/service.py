"""The endpoint: films of one or more studies in, answers out. Uploads are bounded, nothing of them stays on disk, one study at a time.

Needs the extra `serve` (FastAPI). It keeps no list of users: put it behind the hospital's own proxy, or give it a token.
"""

import asyncio
import hmac
import logging
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request, UploadFile
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.formparsers import MultiPartException

from deepcoro.config import DataError
from deepcoro.inference.audit import AuditLog
from deepcoro.inference.found import studies_of_folder
from deepcoro.inference.model import Answerer
from deepcoro.inference.opened import FilmOpener, OpenedStudy
from deepcoro.inference.prediction import StudyAnswer
from deepcoro.inference.study_page import study_page
from deepcoro.ingest.identity import Identity

logger = logging.getLogger(__name__)

_PIECE = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What one request may ask."""

    upload_bytes: int = 4 << 30
    """Of the whole body. An uncompressed study of 10 films of 60 frames of 512 x 512 has 160 to 320 MB."""
    files: int = 400
    waiting: int = 4
    """Requests that may wait for the one under way; more are told to come back."""


class _TooLarge(Exception):
    pass


class BoundedBody:
    """Ends a request whose body is longer than it may be, while it comes, whatever its headers say of the length."""

    def __init__(self, app: Callable[..., Awaitable[None]], limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: dict[str, Any], receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        received = 0

        async def counted() -> dict[str, Any]:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                raise _TooLarge
            return message

        try:
            await self._app(scope, counted, send)
        except _TooLarge:
            told = {"detail": f"the upload is larger than {self._limit} bytes; send one study at a time"}
            await JSONResponse(told, status_code=413)(scope, receive, send)


class Service:
    """Answers one request after the other: the model and the processes that decode are shared."""

    def __init__(
        self,
        answerer: Answerer,
        opener: FilmOpener,
        identity: Identity,
        limits: Limits,
        scratch: Path | None = None,
        audit: AuditLog | None = None,
    ) -> None:
        """`scratch`: where uploads lie while they are read; best in memory (/dev/shm)."""
        self._answerer, self._opener, self._identity = answerer, opener, identity
        self.limits, self._scratch, self._audit = limits, scratch, audit
        self._turn = asyncio.Lock()
        self._present = 0

    @property
    def who(self) -> dict[str, Any]:
        return self._answerer.who.model_dump()

    async def answer(self, uploads: list[UploadFile]) -> list[tuple[StudyAnswer, OpenedStudy]]:
        """503 where too many wait already. The files are gone when this returns, however it returns."""
        if self._present > self.limits.waiting:
            raise HTTPException(503, "busy: other studies are waiting; try again", {"Retry-After": "10"})
        self._present += 1
        try:
            async with self._turn:
                with tempfile.TemporaryDirectory(dir=self._scratch, prefix="deepcoro-") as folder:
                    await _store(uploads, Path(folder))
                    return await asyncio.to_thread(self._answers, Path(folder))
        finally:
            self._present -= 1

    def _answers(self, folder: Path) -> list[tuple[StudyAnswer, OpenedStudy]]:
        found = []
        for source in studies_of_folder(folder, self._identity):
            study = self._opener.open(source)
            answer = self._answerer.answer(study, self._identity.check)
            if self._audit is not None:
                self._audit.note(answer, study, answer.model_dump_json().encode())
            found.append((answer, study))
        return found


async def _store(uploads: list[UploadFile], folder: Path) -> None:
    """Under numbers: the names that a client gives are never used."""
    for number, upload in enumerate(uploads, start=1):
        with (folder / f"{number:06d}").open("xb") as file:
            while piece := await upload.read(_PIECE):
                file.write(piece)


def make_app(service: Service, token: str | None = None) -> FastAPI:
    """`POST /studies` (multipart files) gives the answers of the studies found in them; `GET /health` who answers.

    With a token every request must carry `Authorization: Bearer TOKEN`.
    """
    # no pages of documentation: they load scripts from elsewhere
    app = FastAPI(title="deepcoro", docs_url=None, redoc_url=None)
    app.add_middleware(BoundedBody, limit=service.limits.upload_bytes)

    def check(request: Request) -> None:
        told = request.headers.get("authorization", "")
        if token is not None and not hmac.compare_digest(told.encode(), f"Bearer {token}".encode()):
            raise HTTPException(401, "a token is needed", {"WWW-Authenticate": "Bearer"})

    @app.get("/health")
    async def health(request: Request) -> dict[str, Any]:
        check(request)
        return {"status": "ok", "model": service.who}

    @app.post("/studies")
    async def studies(request: Request) -> JSONResponse:
        check(request)
        answered = await _answered(request, service)
        return JSONResponse({"studies": [answer.model_dump(mode="json") for answer, _ in answered]})

    @app.post("/page")
    async def page(request: Request) -> HTMLResponse:
        """The page of one study, with its films."""
        check(request)
        answered = await _answered(request, service)
        if len(answered) != 1:
            raise HTTPException(422, f"the files belong to {len(answered)} studies; a page shows one")
        return HTMLResponse(study_page(*answered[0]))

    return app


async def _answered(request: Request, service: Service) -> list[tuple[StudyAnswer, OpenedStudy]]:
    try:
        async with request.form(max_files=service.limits.files, max_fields=0) as form:
            uploads = [each for each in form.getlist("file") if not isinstance(each, str)]
            if not uploads:
                raise HTTPException(
                    422, "no file: send multipart/form-data with one or more parts named 'file'"
                )
            return await service.answer(uploads)
    except MultiPartException as error:
        raise HTTPException(400, error.message) from error
    except DataError as error:
        raise HTTPException(422, str(error)) from error
