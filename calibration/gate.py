"""Whether a camera's calibration is good enough to be put into force."""

from __future__ import annotations

from dataclasses import dataclass

from contracts.calibration import CameraCalibration


@dataclass(frozen=True)
class GateLimits:
    """Limits on held-out views: RMS of the corners [px], of the board [mm]."""

    px: float = 1.0
    mm: float = 2.0


def gate_problems(camera: CameraCalibration, limits: GateLimits | None = None) -> list[str]:
    """What keeps `camera` out of force, a sentence each; empty if it is good."""
    limits = limits or GateLimits()
    problems = []
    if not camera.residual_px <= limits.px:
        problems.append(
            f"camera {camera.name}: held-out corners are {camera.residual_px:.2f} px off (RMS), "
            f"allowed are {limits.px:g} px"
        )
    if camera.residual_mm is not None and not camera.residual_mm <= limits.mm:
        problems.append(
            f"camera {camera.name}: the held-out board is {camera.residual_mm:.2f} mm off (RMS), "
            f"allowed are {limits.mm:g} mm"
        )
    return problems
