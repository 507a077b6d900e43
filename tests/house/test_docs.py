"""The documentation builds without a warning, from the code, and asks nothing of the internet."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

LIGHT = ["roboalign", "evaluation"]
"""Packages whose help needs no torch; `make docs` asks all of them."""


def build(repository: Path, folder: Path, **changes: object) -> subprocess.CompletedProcess[str]:
    """`mkdocs build --strict` into `folder`/site with a configuration that differs by `changes`."""
    config = {
        "INHERIT": str(repository / "mkdocs.yml"),
        "docs_dir": str(repository / "docs"),
        "site_dir": str(folder / "site"),
        "hooks": [str(repository / "docs/hooks/reference.py")],
        "extra": {"commands_of": LIGHT},
        **changes,
    }
    path = folder / "mkdocs.yml"
    path.write_text(yaml.safe_dump(config))
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(path)],
        cwd=repository,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    done = build(Path(__file__).resolve().parents[2], folder)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder / "site"


def test_every_page_of_the_navigation_is_there(repository: Path, site: Path) -> None:
    text = (repository / "mkdocs.yml").read_text()
    pages = re.findall(r"- ([\w/-]+)\.md$", text, re.MULTILINE)
    assert len(pages) > 20
    assert not [page for page in pages if not (site / f"{page}.html").is_file()]


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("commands", ["python -m roboalign.preflight", "--control-loop", "python -m evaluation"]),
        ("configurations", ["RecorderLimits", "before_s", "GraphArguments"]),
        ("graph", ["roboalign.arm_node", "serial_no=1234"]),
        ("nodes", ["flight_recorder_node", "picture_rate", "~/record"]),
        ("messages", ["msg/ArmStatus", "queue_remaining_s", "action/ExecuteTask"]),
        ("http", ["POST /infer", "QUEUE_FULL", "503"]),
        ("metrics", ["policy_requests_total", "histogram"]),
    ],
)
def test_the_reference_comes_from_the_code(site: Path, page: str, words: list[str]) -> None:
    text = (site / f"reference/{page}.html").read_text()
    assert not [word for word in words if word not in text]


def test_the_reference_names_no_machines_paths(repository: Path, site: Path) -> None:
    for page in (site / "reference").glob("*.html"):
        assert str(repository) not in page.read_text(), page.name


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(r'(?:src|srcset|<link[^>]*href)="?(https?:[^" >]+)', page.read_text())
        assert not loaded, page.name


def test_a_broken_link_fails_the_build(repository: Path, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text("# Page\n\n[nowhere](nowhere.md)\n")
    done = build(repository, tmp_path, docs_dir=str(docs), nav=["index.md"], hooks=[])
    assert done.returncode != 0
    assert "nowhere.md" in done.stderr


def test_make_docs_builds_strictly(repository: Path) -> None:
    said = subprocess.run(
        ["make", "-n", "docs"], cwd=repository, capture_output=True, text=True, check=True
    )
    assert "mkdocs --quiet build --strict" in said.stdout
    assert "docs" in re.search(r"setup\.py (.*)", said.stdout).group(1).split()
