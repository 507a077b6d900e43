"""The page of measured intrinsics: against the factory's, what was covered, how each view fits."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from calibration import files
from calibration.coverage import draw
from calibration.report_drawings import picture_uri

if TYPE_CHECKING:
    from calibration.intrinsics import MeasuredIntrinsics

TEMPLATE: Final = "intrinsics_page.html.j2"
NAMES: Final = ("fx", "fy", "cx", "cy")


def write_page(path: Path, measured: MeasuredIntrinsics) -> None:
    """Write the page atomically."""
    files.write_atomically(path, render(measured, datetime.now()).encode())


def render(measured: MeasuredIntrinsics, written: datetime) -> str:
    """The page as HTML, whole in itself."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    k, factory = measured.intrinsics, measured.views.factory
    errors = dict(zip(NAMES, measured.standard_errors.tolist(), strict=True))
    rows = [
        (name, getattr(k, name), errors[name], None if factory is None else getattr(factory, name))
        for name in NAMES
    ]
    rows += [
        (name, value, None, None if factory is None else factory.distortion[i])
        for i, (name, value) in enumerate(zip(("k1", "k2"), k.distortion, strict=False))
    ]
    largest = max(measured.view_px.values())
    width, height = measured.views.size
    corners = np.concatenate([view.detection.corners for view in measured.views.views])
    empty = np.full((height, width, 3), 128, np.uint8)
    return environment.get_template(TEMPLATE).render(
        measured=measured,
        views=measured.views,
        rows=rows,
        bars={n: (px, 100 * px / largest) for n, px in measured.view_px.items()},
        size=(width, height),
        covered=picture_uri(draw(empty, None, measured.coverage)),
        corners=corners.round(1).tolist(),
        written=written.strftime("%-d %B %Y, %H:%M"),
    )
