"""The endpoint: films of one or more studies in, answers out. Uploads are bounded, nothing of them stays on disk, one study at a time.

Needs the extra `serve` (FastAPI). It keeps no list of users: put it behind the hospital's own proxy, or give it a token.
"""

import asyncio
import hmac
import logging
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.requests import ClientDisconnect

from deepcoro.config import DataError
from deepcoro.inference.audit import AuditLog
from deepcoro.inference.found import studies_of_folder
from deepcoro.inference.model import Answerer
from deepcoro.inference.opened import FilmOpener, OpenedStudy
from deepcoro.inference.prediction import StudyAnswer
from deepcoro.inference.study_page import study_page
from deepcoro.inference.uploads import UploadError, store_uploads
from deepcoro.ingest.identity import Identity

logger = logging.getLogger(__name__)

Answered = Sequence[tuple[StudyAnswer, OpenedStudy]]
BodyOf = Callable[[Answered], bytes]
"""What is sent of the answers to one request."""


@dataclass(frozen=True)
class Limits:
    """What one request may ask."""

    upload_bytes: int = 4 << 30
    """Of the whole body. An uncompressed study of 10 films of 60 frames of 512 x 512 has 160 to 320 MB."""
    files: int = 400
    waiting: int = 4
    """Requests that may wait for the one under way, those whose films are still coming among them; more are told to come back."""
    silence_s: float = 60.0
    """A request whose body stops coming for so long is ended: it holds the place of another."""


class _EndedError(Exception):
    """A request that its body ends: the answer in place of the endpoint's."""

    def __init__(self, status_code: int, detail: str) -> None:
        super().__init__(detail)
        self.status_code, self.detail = status_code, detail


class BoundedBody:
    """Ends a request whose body is longer than it may be, while it comes, whatever its headers say of the length, or stops coming."""

    def __init__(self, app: Callable[..., Awaitable[None]], limits: Limits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: dict[str, Any], receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        received, is_whole = 0, False

        async def counted() -> dict[str, Any]:
            nonlocal received, is_whole
            message = await (receive() if is_whole else self._next(receive))
            received += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if received > self._limits.upload_bytes:
                told = (
                    f"the upload is larger than {self._limits.upload_bytes} bytes; send one study at a time"
                )
                raise _EndedError(413, told)
            return message

        try:
            await self._app(scope, counted, send)
        except _EndedError as ended:
            reply = JSONResponse({"detail": ended.detail}, status_code=ended.status_code)
            await reply(scope, receive, send)

    async def _next(self, receive: Callable) -> dict[str, Any]:
        try:
            return await asyncio.wait_for(receive(), self._limits.silence_s)
        except TimeoutError:
            told = f"nothing of the upload came for {self._limits.silence_s:g} s; send it again"
            raise _EndedError(408, told) from None


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

    @contextmanager
    def place(self) -> Iterator[Path]:
        """A place in the queue and the folder for its films, gone at the end, however it ends. 503 where too many are here already.

        To be had before anything of the body is read: what is uploaded at one time is bounded by the places.
        """
        if self._present > self.limits.waiting:
            raise HTTPException(503, "busy: other studies are waiting; try again", {"Retry-After": "10"})
        self._present += 1
        try:
            with tempfile.TemporaryDirectory(dir=self._scratch, prefix="deepcoro-") as folder:
                yield Path(folder)
        finally:
            self._present -= 1

    async def answer(self, folder: Path, body_of: BodyOf) -> bytes:
        """The body to be sent for the films in the folder of a place, when its turn comes; the audit log has noted these very bytes."""
        async with self._turn:
            return await asyncio.to_thread(self._answered, folder, body_of)

    def _answered(self, folder: Path, body_of: BodyOf) -> bytes:
        answered = []
        for source in studies_of_folder(folder, self._identity):
            study = self._opener.open(source)
            answered.append((self._answerer.answer(study, self._identity.check), study))
        body = body_of(answered)
        if self._audit is not None:
            for answer, study in answered:
                self._audit.note(answer, study, body)
        return body


def make_app(service: Service, token: str | None = None) -> FastAPI:
    """`POST /studies` (multipart files) gives the answers of the studies found in them; `GET /health` who answers.

    With a token every request must carry `Authorization: Bearer TOKEN`.
    """
    # no pages of documentation: they load scripts from elsewhere
    app = FastAPI(title="deepcoro", docs_url=None, redoc_url=None)
    app.add_middleware(BoundedBody, limits=service.limits)

    def check(request: Request) -> None:
        told = request.headers.get("authorization", "")
        if token is not None and not hmac.compare_digest(told.encode(), f"Bearer {token}".encode()):
            raise HTTPException(401, "a token is needed", {"WWW-Authenticate": "Bearer"})

    @app.get("/health")
    async def health(request: Request) -> dict[str, Any]:
        check(request)
        return {"status": "ok", "model": service.who}

    @app.post("/studies")
    async def studies(request: Request) -> Response:
        check(request)
        return Response(await _answered(request, service, _json_of), media_type="application/json")

    @app.post("/page")
    async def page(request: Request) -> HTMLResponse:
        """The page of one study, with its films."""
        check(request)
        return HTMLResponse(await _answered(request, service, _page_of))

    return app


def _json_of(answered: Answered) -> bytes:
    return b'{"studies":[' + b",".join(answer.model_dump_json().encode() for answer, _ in answered) + b"]}"


def _page_of(answered: Answered) -> bytes:
    if len(answered) != 1:
        raise HTTPException(422, f"the files belong to {len(answered)} studies; a page shows one")
    return study_page(*answered[0]).encode()


async def _answered(request: Request, service: Service, body_of: BodyOf) -> bytes:
    kind = request.headers.get("content-type", "")
    try:
        with service.place() as folder:
            if not await store_uploads(request.stream(), kind, folder, service.limits.files):
                raise HTTPException(
                    422, "no file: send multipart/form-data with one or more parts named 'file'"
                )
            return await service.answer(folder, body_of)
    except UploadError as error:
        raise HTTPException(400, str(error)) from error
    except ClientDisconnect as error:
        # nobody reads it: the log has one line of it, not a stack trace
        raise HTTPException(400, "the client went away") from error
    except DataError as error:
        raise HTTPException(422, str(error)) from error
