"""The server's routes: openpi's websocket protocol at `/`, and HTTP routes about its state.

The protocol: the server sends its metadata first, as msgpack. Each binary frame of the client is an
observation; the answer is a binary frame with the chunk, or a text frame `CODE: message`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.requests import HTTPConnection
from fastapi.responses import JSONResponse, PlainTextResponse

from contracts import wire
from contracts.wire import WireError
from policy_server.policy import Policy
from policy_server.refusal import PolicyRefused, Reason
from policy_server.worker import QUEUE_CAPACITY, InferenceWorker

UNAUTHORISED = PolicyRefused(
    Reason.UNAUTHORISED, "send the header 'Authorization: Api-Key <token>' with the server's token"
)


def create_app(
    policy: Policy,
    *,
    token: str | None,
    when_warm: Callable[[Exception | None], None],
    queue_capacity: int = QUEUE_CAPACITY,
) -> FastAPI:
    """The application that serves `policy`.

    `when_warm` is called once the first inferences have run, with the error if they failed. With a
    `token`, the websocket and the metadata are open only to clients that send it.
    """
    worker = InferenceWorker(policy, queue_capacity)
    ready = asyncio.Event()

    async def warm_up() -> None:
        try:
            await worker.warm_up()
        except Exception as error:
            when_warm(error)
        else:
            ready.set()
            when_warm(None)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(warm_up())
        yield
        task.cancel()

    app = FastAPI(title="RoboAlign policy server", lifespan=lifespan)

    @app.get("/healthz")
    async def healthz() -> dict[str, bool]:
        """The process lives."""
        return {"alive": True}

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        """200 once the policy is warm, 503 before."""
        return JSONResponse({"ready": ready.is_set()}, 200 if ready.is_set() else 503)

    @app.get("/metadata")
    async def metadata(request: HTTPConnection) -> JSONResponse:
        """What the policy needs and answers."""
        if not _authorised(request, token):
            return JSONResponse({"detail": str(UNAUTHORISED)}, 401)
        return JSONResponse(policy.metadata())

    @app.websocket("/")
    async def actions(websocket: WebSocket) -> None:
        if not _authorised(websocket, token):
            await websocket.send_denial_response(PlainTextResponse(str(UNAUTHORISED), 401))
            return
        await websocket.accept()
        await ready.wait()
        try:
            await websocket.send_bytes(wire.pack(policy.metadata()))
            while (message := await websocket.receive())["type"] == "websocket.receive":
                await _reply(websocket, worker, message.get("bytes"))
        except WebSocketDisconnect:
            # Gone while we were sending; there is nobody left to tell.
            return

    return app


async def _reply(websocket: WebSocket, worker: InferenceWorker, data: bytes | None) -> None:
    try:
        answer = await _answer(worker, data)
    except PolicyRefused as refusal:
        await websocket.send_text(str(refusal))
    else:
        await websocket.send_bytes(answer)


async def _answer(worker: InferenceWorker, data: bytes | None) -> bytes:
    if data is None:
        raise PolicyRefused(Reason.BAD_MESSAGE, "expected a binary frame, got text")
    try:
        message = wire.unpack(data)
    except WireError as error:
        raise PolicyRefused(Reason.BAD_MESSAGE, str(error)) from error
    try:
        observation, options = wire.observation_from_message(message)
    except WireError as error:
        raise PolicyRefused(Reason.BAD_OBSERVATION, str(error)) from error
    chunk, timings = await worker.infer(observation, options)
    return wire.pack(wire.chunk_to_message(chunk) | {"server_timing": timings})


def _authorised(connection: HTTPConnection, token: str | None) -> bool:
    if token is None:
        return True
    sent = connection.headers.get("authorization", "")
    # compare_digest takes the same time wherever the two differ.
    return secrets.compare_digest(sent.encode(), f"Api-Key {token}".encode())
