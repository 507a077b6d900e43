"""`python -m policy_server`: serve a bundle until SIGINT or SIGTERM."""

from __future__ import annotations

import argparse
import errno
import ipaddress
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from contracts.bundle import BundleError
from contracts.wire import MAX_MESSAGE_BYTES
from policy_server.app import create_app
from policy_server.bundles import find_bundle
from policy_server.policy import Policy

USAGE_ERROR = 2
DRAIN_S = 2
"""Seconds that requests in progress get to finish when the server is told to stop."""


class StartError(Exception):
    """The server cannot start as asked; the text says why and what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve; the exit code is 0 after a signal, 1 if warm-up failed, 2 if it could not start."""
    options = _parser().parse_args(arguments)
    # Holds while loading, and again when uvicorn hands the signal on after its shutdown.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        token = _read_token(options.token_file)
        _check_host(options.host, token)
        with _bind(options.host, options.port) as listener:
            policy = Policy.load(find_bundle(options.bundle), options.threads)
            return _serve(policy, listener, token)
    except (StartError, BundleError) as error:
        print(f"policy server: {error}", file=sys.stderr)
        return USAGE_ERROR


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m policy_server", description=__doc__)
    parser.add_argument(
        "--bundle", default="shipped", help="name of a shipped bundle, or a directory"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="other than loopback needs --token-file"
    )
    parser.add_argument("--port", type=int, default=8000, help="0 picks a free one")
    parser.add_argument(
        "--token-file", type=Path, help="file with the token that clients must send"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of one inference")
    return parser


def _read_token(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"cannot read the token file {path}: {error}") from error
    if not token:
        raise StartError(f"the token file {path} is empty")
    return token


def _check_host(host: str, token: str | None) -> None:
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback and token is None:
        raise StartError(f"--host {host} is open to other machines: give a --token-file")


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except (OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise StartError(
                f"port {port} on {host} is in use; choose another with --port"
            ) from error
        raise StartError(f"cannot listen on {host} port {port}: {error}") from error
    return listener


def _serve(policy: Policy, listener: socket.socket, token: str | None) -> int:
    failures: list[Exception] = []

    def when_warm(error: Exception | None) -> None:
        if error is None:
            print(f"policy server ready: {policy.manifest.name} on {_url(listener)}", flush=True)
        else:
            print(f"policy server: warm-up failed: {error}", file=sys.stderr)
            failures.append(error)
            server.should_exit = True

    server = uvicorn.Server(
        uvicorn.Config(
            create_app(policy, token=token, when_warm=when_warm),
            log_level="warning",
            access_log=False,
            # Deflate, uvicorn's default, makes a round trip with two pictures 25 times slower.
            ws_per_message_deflate=False,
            ws_max_size=MAX_MESSAGE_BYTES,
            timeout_graceful_shutdown=DRAIN_S,
        )
    )
    server.run(sockets=[listener])
    return 1 if failures else 0


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}"


if __name__ == "__main__":
    sys.exit(main())
