"""Whole processes; what the policy server's own tests start them with serves here, too."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "policy_server"))
