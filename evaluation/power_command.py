"""`python -m evaluation power`: what a number of matched starts can show, fixed or sequential."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from evaluation.plan import PlanError
from evaluation.statistics.design_check import check_design
from evaluation.statistics.power import detectable_difference, interval_half_width
from evaluation.statistics.sequential import SequentialDesign

LINKED = {0.5: ", half alike", -1.0: ", never alike"}
"""How two equal policies' outcomes on one start hang together."""
MOST_STARTS = 4000
"""More would only take long: the sequential design's exact error rate is quadratic in them."""


def power(options: argparse.Namespace, console: Console) -> None:
    """Power of the fixed design, and the sequential design's measured error rate and savings."""
    if not 1 <= options.starts <= MOST_STARTS:
        raise PlanError(f"--starts must be 1 to {MOST_STARTS}, got {options.starts}")
    if options.experiments < 1:
        raise PlanError(f"--experiments must be at least 1, got {options.experiments}")
    if not 0.0 < options.alpha < 1.0:
        raise PlanError(f"--alpha is an error rate between 0 and 1, got {options.alpha}")
    design = SequentialDesign(options.starts, options.alpha)
    found = check_design(design, options.experiments, options.seed)
    found |= {
        "half_width": interval_half_width(options.starts),
        "detectable_difference": {
            str(rate): detectable_difference(options.starts, rate, alpha=options.alpha)
            for rate in (0.5, 0.7, 0.9)
        },
    }
    if not options.json:
        _show(found, console)
    print(json.dumps(found), flush=True)


def _show(found: Mapping[str, Any], console: Console) -> None:
    console.print(
        f"{found['design']['starts']} matched starts: a rate is known to ± "
        f"{100 * found['half_width']:.1f} points"
    )
    table = Table("true rates", "found, fixed", "found, sequential", "starts", "saved")
    for row in found["different"]:
        table.add_row(
            f"{100 * row['rate1']:.0f} and {100 * row['rate2']:.0f} %",
            f"{100 * row['fixed_power']:.1f} %",
            f"{100 * row['decided']:.1f} %",
            f"{row['mean_starts']:.0f}",
            f"{100 * row['saved']:.0f} %",
        )
    for row in found["equal"]:
        table.add_row(
            f"both {100 * row['rate1']:.0f} %{LINKED.get(row['linked'], '')}",
            "",
            f"{100 * row['decided']:.2f} % wrong",
            f"{row['mean_starts']:.0f}",
            f"{100 * row['saved']:.0f} %",
        )
    console.print(table)
    low, high = (100 * bound for bound in found["measured_worst_error_interval"])
    console.print(
        f"wrong decisions between equal policies: at most "
        f"{100 * found['measured_worst_error']:.2f} % ({low:.2f} to {high:.2f}) of "
        f"{found['experiments']} experiments, nominal {100 * found['design']['alpha']:.1f} %, "
        f"exact bound {100 * found['exact_worst_error']:.2f} %"
    )
