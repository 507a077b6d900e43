"""The HTTP routes: one for chunks, the others about the server. The websocket is in `websocket`.

Every refusal is a `Refusal` in JSON, with the status that `refusal.MEANINGS` gives its code.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contracts import wire
from policy_server import status_page
from policy_server.bundle_host import in_thread
from policy_server.refusal import MEANINGS, PolicyRefused, Reason
from policy_server.service import PolicyService, Reply

MSGPACK = "application/msgpack"
JSON = "application/json"
MAX_JSON_BYTES = 16 * 2**10


class Refusal(BaseModel):
    """Why there is no chunk."""

    reason_code: Reason
    message: str


class Health(BaseModel):
    """The process lives."""

    alive: bool


class Readiness(BaseModel):
    """Whether the policy is warm and takes requests."""

    ready: bool


class Metadata(BaseModel):
    """What a client may want to know before it asks; there may be more fields."""

    model_config = ConfigDict(extra="allow")

    protocol_version: int
    policy: str
    bundle_hash: str
    horizon: int
    time_step: float


class BundleChange(BaseModel):
    """Which bundle is to serve next."""

    model_config = ConfigDict(extra="forbid")

    bundle: str = Field(
        min_length=1,
        max_length=1024,
        pattern=r"^[^\x00]+$",
        description="name of a shipped bundle, or a directory on the server",
    )


class BundleChanged(BaseModel):
    """The bundle that serves from now on, and the one that served before."""

    policy: str
    bundle_hash: str
    previous_bundle_hash: str


def refusals(*reasons: Reason) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's responses for these reason codes."""
    by_status: dict[int | str, dict[str, Any]] = {}
    for reason in reasons:
        meaning = MEANINGS[reason]
        entry = by_status.setdefault(meaning.http_status, {"model": Refusal, "description": ""})
        entry["description"] = f"{entry['description']}\n{reason}: {meaning.text}".strip()
    return by_status


DOOR = (Reason.UNAUTHORISED, Reason.FORBIDDEN)
INFER = (
    Reason.BAD_MESSAGE,
    Reason.BAD_OBSERVATION,
    Reason.UNKNOWN_INSTRUCTION,
    Reason.MISSING_CAMERA,
    Reason.BAD_OPTION,
    Reason.DEADLINE,
    Reason.QUEUE_FULL,
    Reason.RATE_LIMITED,
    Reason.NOT_READY,
    Reason.SHUTTING_DOWN,
    Reason.INTERNAL,
    *DOOR,
)
REQUEST_BODY = {
    "requestBody": {
        "required": True,
        "description": "A request as on the websocket: a msgpack map with `instruction`, `images`, "
        "`state` and, if wanted, `stamp`, `image_stamps`, `options`, `previous` and `deadline`; "
        "arrays are maps with `__ndarray__`, `data`, `dtype` and `shape` (contracts/wire.py).",
        "content": {MSGPACK: {"schema": {"type": "string", "format": "binary"}}},
    }
}


def create_app(service: PolicyService) -> FastAPI:
    """The routes of `service`; it warms up when the application starts."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(service.warm_up())
        yield
        task.cancel()

    # The interactive pages would load their scripts from the internet.
    app = FastAPI(title="RoboAlign policy server", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_exception_handler(PolicyRefused, _refused)
    for status in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED):
        app.add_exception_handler(status, _no_such_route)

    def let_in(request: Request) -> None:
        service.access.check(request.headers)

    inside = [Depends(let_in)]

    @app.get("/healthz")
    async def healthz() -> Health:
        """The process lives."""
        return Health(alive=True)

    @app.get("/readyz", responses={503: {"model": Readiness}})
    async def readyz() -> JSONResponse:
        """200 while the server takes requests; 503 before it is warm and while it stops."""
        ready = service.ready and not service.draining
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    @app.get("/metadata", dependencies=inside, responses=refusals(*DOOR))
    async def metadata() -> Metadata:
        """What the policy needs and answers."""
        return Metadata(**service.host.policy.metadata())

    @app.get(
        "/metrics",
        dependencies=inside,
        response_class=Response,
        responses=refusals(*DOOR) | {200: {"content": {"text/plain": {}}}},
    )
    async def metrics() -> Response:
        """Counts and times for Prometheus."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", dependencies=inside, response_class=HTMLResponse, responses=refusals(*DOOR))
    async def status() -> HTMLResponse:
        """The status page, for people; it renews itself."""
        return HTMLResponse(
            status_page.render(service.metrics),
            headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"},
        )

    @app.post(
        "/infer",
        dependencies=inside,
        response_class=Response,
        responses=refusals(*INFER)
        | {200: {"description": "the action chunk, in msgpack", "content": {MSGPACK: {}}}},
        openapi_extra=REQUEST_BODY,
    )
    async def infer(request: Request) -> Response:
        """One observation's action chunk."""
        body = await _body(request, MSGPACK, wire.MAX_MESSAGE_BYTES)
        reply = await _ask(service, body, _address(request))
        if isinstance(reply, PolicyRefused):
            raise reply
        return Response(reply, media_type=MSGPACK)

    @app.post(
        "/bundle",
        responses=refusals(
            Reason.BAD_MESSAGE, Reason.BAD_BUNDLE, Reason.BUSY, Reason.NOT_READY, *DOOR
        ),
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {JSON: {"schema": BundleChange.model_json_schema()}},
            }
        },
    )
    async def change_bundle(request: Request) -> BundleChanged:
        """Load another bundle beside the one that serves, and swap them between two requests."""
        service.access.check_change(request.headers, _address(request))
        # Read here and not by the framework, which would take a body of any size, and from anybody.
        change = _bundle_change(await _body(request, JSON, MAX_JSON_BYTES))
        if not service.ready:
            raise PolicyRefused(Reason.NOT_READY, "the first bundle still warms up")
        new, old = await in_thread(service.host.swap, change.bundle)
        return BundleChanged(
            policy=new.manifest.name,
            bundle_hash=new.bundle_hash,
            previous_bundle_hash=old.bundle_hash,
        )

    return app


async def _ask(service: PolicyService, body: bytes, address: str) -> Reply:
    future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def reply(answer: Reply) -> None:
        if not future.done():
            future.set_result(answer)

    job = service.submit(body, address, reply)
    try:
        return await future
    except asyncio.CancelledError:
        if job is not None:
            job.abandoned = True
        raise


async def _body(request: Request, content_type: str, max_bytes: int) -> bytes:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != content_type:
        raise PolicyRefused(Reason.BAD_MESSAGE, f"the content type must be {content_type}")
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > max_bytes:
            text = f"more than {max_bytes} bytes, which are the most accepted"
            raise PolicyRefused(Reason.BAD_MESSAGE, text)
        parts.append(part)
    return b"".join(parts)


def _bundle_change(body: bytes) -> BundleChange:
    try:
        return BundleChange.model_validate_json(body)
    except ValidationError as error:
        found = error.errors()[0]
        place = ".".join(str(part) for part in found["loc"]) or "body"
        raise PolicyRefused(Reason.BAD_MESSAGE, f"{place}: {found['msg']}") from error


def _address(request: Request) -> str:
    return request.client.host if request.client else "unknown"


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, PolicyRefused)
    status = MEANINGS[error.reason_code].http_status
    headers = {}
    if error.reason_code is Reason.UNAUTHORISED:
        # A browser then asks its user; any name goes, with the token as password.
        headers["WWW-Authenticate"] = 'Basic realm="policy server"'
    if MEANINGS[error.reason_code].passing:
        headers["Retry-After"] = "1"
    content = {"reason_code": error.reason_code, "message": error.message}
    return JSONResponse(content, status, headers)


async def _no_such_route(_: Request, error: Exception) -> JSONResponse:
    # Starlette's HTTPException, of which FastAPI's own is only one kind.
    status, headers = getattr(error, "status_code", 404), getattr(error, "headers", None)
    content = {"reason_code": Reason.BAD_MESSAGE, "message": str(error)}
    return JSONResponse(content, status, headers)
