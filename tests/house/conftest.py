"""The setup's modules are scripts, not an installed package: make them importable here."""

import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "scripts"))


@pytest.fixture
def repository() -> Path:
    return REPOSITORY
