"""kill -9 at fifty random moments: no scored trial is lost, and the summary is the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("killed_run.py")
KILLS = 50


def test_no_scored_trial_is_lost(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path), str(KILLS)],
        capture_output=True, text=True, timeout=280, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["kills"] == KILLS
    assert found["lost"] == []
    assert found["different"] == []
    # The kills hit runs that were under way, not only ones that had ended.
    assert found["under_way"] > KILLS // 2
