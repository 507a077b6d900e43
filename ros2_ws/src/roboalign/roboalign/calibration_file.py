"""The measured latencies of this set-up, from its calibration file.

Only delays that the policy's demonstrations did not have themselves are to be compensated: a policy
that has learned from commanded poses already leads the arm by the arm's own delay.
"""

from __future__ import annotations

from pathlib import Path

from contracts.calibration import Latencies
from roboalign.calibration_messages import load_calibration
from roboalign.chunk_executor import NO_LATENCIES


def latencies_from_file(path: str) -> Latencies:
    """Latencies [s] of the calibration file `path`; all 0 without one, or while none is measured.

    Raises:
        ValueError: the file cannot be read or is not a calibration; the text says where and why.
    """
    return (load_calibration(Path(path)).latencies if path else None) or NO_LATENCIES
