"""`python -m policy_server`: serve a bundle until SIGINT or SIGTERM."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from contracts.bundle import BundleError
from policy_server.access import AccessLimits, is_loopback
from policy_server.bundles import find_bundle
from policy_server.engines import ENGINE_VARIABLE, ENGINES
from policy_server.engines.engine import EngineUnavailable
from policy_server.logs import LogFile, log_to_stderr
from policy_server.policy import Policy
from policy_server.server import DRAIN_S, Certificate, PolicyServer
from policy_server.service import PolicyService, ServiceOptions

USAGE_ERROR = 2
BACKLOG = 512
"""Connections that the kernel keeps while the server is busy; 200 robots may come back at once."""


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
        if not is_loopback(options.host) and token is None:
            raise StartError(
                f"--host {options.host} is open to other machines: give a --token-file"
            )
        certificate = _read_certificate(options.certificate, options.key)
        limits = _limits(options)
        with _bind(options.host, options.port) as listener:
            log_file = _open_log(options.log_file)
            policy = _load(options.bundle, options.threads, options.engine)
            service_options = ServiceOptions(
                token=token, limits=limits, log_requests=log_file is not None
            )
            return _serve(policy, service_options, listener, certificate, log_file, options)
    except (StartError, BundleError, EngineUnavailable) as error:
        print(f"policy server: {error}", file=sys.stderr)
        return USAGE_ERROR


def _parser() -> argparse.ArgumentParser:
    limits = AccessLimits()
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
    parser.add_argument("--certificate", type=Path, help="TLS certificate chain in PEM")
    parser.add_argument("--key", type=Path, help="private key of --certificate in PEM")
    parser.add_argument(
        "--engine", choices=ENGINES, help=f"default: ${ENGINE_VARIABLE}, else {ENGINES[0]}"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of one inference")
    parser.add_argument("--log-file", type=Path, help="append one JSON object a line to this file")
    parser.add_argument(
        "--requests-per-second",
        type=float,
        default=limits.requests_per_second,
        help="of one client address; 0: any number (default: %(default)g)",
    )
    parser.add_argument(
        "--max-connections",
        type=int,
        default=limits.max_connections,
        help="websockets open at once (default: %(default)s)",
    )
    parser.add_argument(
        "--drain-seconds",
        type=float,
        default=DRAIN_S,
        help="most time that waiting requests get at the end (default: %(default)g)",
    )
    return parser


def _load(name: str, threads: int, engine: str | None) -> Policy:
    return Policy.load(find_bundle(name), threads, engine)


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


def _read_certificate(chain: Path | None, key: Path | None) -> Certificate | None:
    if chain is None and key is None:
        return None
    if chain is None or key is None:
        raise StartError("--certificate and --key go together: give both")
    certificate = Certificate(chain, key)
    try:
        certificate.check()
    except OSError as error:
        raise StartError(f"cannot use the certificate {chain} with {key}: {error}") from error
    return certificate


def _limits(options: argparse.Namespace) -> AccessLimits:
    try:
        return AccessLimits(options.max_connections, options.requests_per_second)
    except ValueError as error:
        raise StartError(str(error)) from error


def _open_log(path: Path | None) -> LogFile | None:
    log_to_stderr()
    try:
        return None if path is None else LogFile(path)
    except OSError as error:
        raise StartError(f"cannot write the log file: {error}") from error


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise StartError(
                f"port {port} on {host} is in use; choose another with --port"
            ) from error
        raise StartError(f"cannot listen on {host} port {port}: {error}") from error
    return listener


def _serve(
    policy: Policy,
    service_options: ServiceOptions,
    listener: socket.socket,
    certificate: Certificate | None,
    log_file: LogFile | None,
    options: argparse.Namespace,
) -> int:
    failures: list[Exception] = []
    url = _url(listener, "ws" if certificate is None else "wss")

    def when_warm(error: Exception | None) -> None:
        if error is None:
            print(f"policy server ready: {policy.manifest.name} on {url}", flush=True)
        else:
            print(f"policy server: warm-up failed: {error}", file=sys.stderr)
            failures.append(error)
            server.should_exit = True

    service = PolicyService(
        policy,
        lambda name: _load(name, options.threads, options.engine),
        service_options,
        when_warm,
        lambda: 0 if log_file is None else log_file.dropped,
    )
    server = PolicyServer(service, certificate, options.drain_seconds)
    try:
        server.run(sockets=[listener])
    finally:
        if log_file is not None:
            log_file.flush()
        if not service.quiet():
            # Threads within an engine crash a process that ends in the usual way.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1 if failures else 0)
    return 1 if failures else 0


def _url(listener: socket.socket, scheme: str) -> str:
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


if __name__ == "__main__":
    sys.exit(main())
