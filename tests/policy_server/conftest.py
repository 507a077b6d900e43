"""One tiny bundle for all tests, and one server a module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from server_process import ServerProcess, running_server
from tiny_bundle import save_bundle

from policy_server.client import PolicyClient


@pytest.fixture(scope="session")
def bundle_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="module")
def server(bundle_directory: Path) -> Iterator[ServerProcess]:
    with running_server("--bundle", str(bundle_directory), "--port", "0") as process:
        yield process


@pytest.fixture
def client(server: ServerProcess) -> Iterator[PolicyClient]:
    with PolicyClient(server.url) as connected:
        yield connected
