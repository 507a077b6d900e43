"""A comparison of two policies from matched starts that may stop early, with an exact error rate.

Only starts on which the two policies differ say which is better; where they are equally good, each
such start is won by either with chance 1/2, whatever the success rates are. After every start the
evidence against that is a Bayes factor with a symmetric Beta prior on the chance of winning,

    2^d B(w + c, d - w + c) / B(c, c),        w wins of d starts that differ.

The first policy whose lead brings it to the design's threshold is better, and the trials stop. Such
factors are martingales, so that the threshold 1 / alpha would do for any number of looks (Ville's
inequality); here it is lower: the smallest whose chance of ever being reached within the planned
number of starts, summed exactly over all paths of a fair walk, is at most SPENT * alpha. Starts
that do not differ only shorten the walk, so the error rate holds for every pair of equal rates.

The trials also stop when the lead that is needed is out of reach (`futility`). That can only lose
power, never raise the error rate, so it may be ignored without harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln, ndtr

STARTS_PER_CONCENTRATION: Final = 48
"""The prior expects differences of the size that the planned starts can show, no larger ones."""
SPENT: Final = 0.9
"""Share of alpha that the threshold uses up, so that simulated error rates stay below alpha too."""
LEAST_SHARE: Final = 0.25
"""Of the planned starts, before the trials may stop for futility."""
BISECTIONS: Final = 40

Decision = Literal["first", "second", "futile", "no difference"]
"""`first` or `second` is better; `futile`: given up early; `no difference`: none to the end."""


@dataclass(frozen=True)
class Stop:
    """Where a sequential comparison ends: after `starts` starts, with this decision."""

    starts: int
    decision: Decision


@dataclass(frozen=True)
class SequentialDesign:
    """At most `starts` matched starts; the two-sided error rate is at most `alpha`.

    futility: chance of still deciding below which the trials are given up; 0 never gives up.
    """

    starts: int
    alpha: float = 0.05
    futility: float = 0.02

    def __post_init__(self) -> None:
        if self.starts < 1:
            raise ValueError(f"a sequential design needs at least 1 start, got {self.starts}")
        if not 0.0 < self.alpha < 1.0 or not 0.0 <= self.futility < 1.0:
            raise ValueError(f"alpha {self.alpha} or futility {self.futility} is not a probability")

    @cached_property
    def needed_lead(self) -> NDArray[np.int64]:
        """Lead (starts + 1,) that decides, by number of differing starts; over `starts`: none."""
        low, high = 0.0, float(np.log(1 / self.alpha))
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            if crossing_probability(_leads(self.starts, middle)) <= SPENT * self.alpha:
                high = middle
            else:
                low = middle
        return _leads(self.starts, high)

    @property
    def worst_error(self) -> float:
        """Exact chance of a wrong decision between equal policies that differ on every start."""
        return crossing_probability(self.needed_lead)

    def stops(self, outcomes: NDArray[np.int8]) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
        """Where experiments end: starts (n,), and 1 first better, -1 second better, 0 neither.

        outcomes: (n, m <= starts), 1 where only the first policy succeeded, -1 only the second, 0
        where the start does not tell. An experiment that has not ended gets m + 1 and 0.
        """
        lead = np.cumsum(outcomes, axis=1, dtype=np.int64)
        differing = np.cumsum(outcomes != 0, axis=1)
        decided = np.abs(lead) >= self.needed_lead[differing]
        done = np.arange(1, outcomes.shape[1] + 1)
        futile = np.abs(lead) < self._hopeful_lead[done, differing]
        ended = decided | futile
        if outcomes.shape[1] == self.starts:
            ended[:, -1] = True
        first = ended.argmax(axis=1)
        rows = np.arange(len(outcomes))
        verdict = np.where(decided[rows, first], np.sign(lead[rows, first]), 0).astype(np.int8)
        none = ~ended.any(axis=1)
        return np.where(none, outcomes.shape[1] + 1, first + 1), np.where(none, 0, verdict)

    def decide(self, outcomes: Sequence[int]) -> Stop | None:
        """The end of one experiment, or None while it goes on; `outcomes` as a row of `stops`."""
        if not outcomes:
            return None
        row = np.asarray(outcomes[: self.starts], np.int8)[None]
        starts, verdict = (int(v[0]) for v in self.stops(row))
        if starts > row.shape[1]:
            return None
        if verdict:
            return Stop(starts, "first" if verdict > 0 else "second")
        return Stop(starts, "no difference" if starts == self.starts else "futile")

    @cached_property
    def _hopeful_lead(self) -> NDArray[np.int64]:
        """Least lead (starts + 1, starts + 1) with which to go on, by starts done and differing.

        What is to come has the rates of what has been, as uncertain as those are; the lead at the
        end is taken as normal, and the lead that is then needed as the one for the number of
        differing starts to be expected, a standard deviation added.
        """
        done = np.arange(self.starts + 1)[:, None]
        differing = np.minimum(np.arange(self.starts + 1)[None], done)
        low, high = np.zeros_like(done + differing), differing + 1
        for _ in range(int(self.starts).bit_length() + 1):
            middle = (low + high) // 2
            hopeless = self._chance(middle, differing, done) < self.futility
            low, high = np.where(hopeless, middle + 1, low), np.where(hopeless, high, middle)
            low = np.minimum(low, high)
        return np.where(done >= LEAST_SHARE * self.starts, high, 0)

    def _chance(
        self, lead: NDArray[np.int64], differing: NDArray[np.int64], done: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Chance that the trials end with a decision, from here."""
        left = self.starts - done
        differ = (differing + 1) / (done + 1)
        drift = lead / (done + 1)
        spread = np.sqrt(np.maximum(left * differ * (1 + left / np.maximum(done, 1)), 1e-9))
        more = left * differ + np.sqrt(left * differ * (1 - np.minimum(differ, 1)))
        at_end = np.clip(np.rint(differing + more).astype(int), 0, self.starts)
        needed, expected = self.needed_lead[at_end], lead + left * drift
        return np.asarray(ndtr((expected - needed) / spread) + ndtr((-expected - needed) / spread))


def crossing_probability(needed_lead: NDArray[np.int64], win: float = 0.5) -> float:
    """Exact chance that the lead of a walk ever reaches `needed_lead[d]` after its step d.

    needed_lead: (steps + 1,), both ways. win: chance of a step up.
    """
    steps = len(needed_lead) - 1
    chances = np.zeros(2 * steps + 3)
    leads = np.arange(-steps - 1, steps + 2)
    chances[steps + 1] = 1.0
    crossed = 0.0
    for step in range(1, steps + 1):
        moved = np.zeros_like(chances)
        moved[1:] += win * chances[:-1]
        moved[:-1] += (1 - win) * chances[1:]
        out = np.abs(leads) >= needed_lead[step]
        crossed += float(moved[out].sum())
        moved[out] = 0.0
        chances = moved
    return crossed


def _leads(starts: int, log_threshold: float) -> NDArray[np.int64]:
    """Smallest lead whose Bayes factor reaches the threshold, by number of differing starts."""
    d = np.arange(starts + 1)[:, None]
    wins = np.arange(starts + 1)[None]
    c = starts / STARTS_PER_CONCENTRATION
    with np.errstate(invalid="ignore"):
        factor = d * np.log(2) + betaln(wins + c, np.maximum(d - wins, 0) + c) - betaln(c, c)
    reached = (factor >= log_threshold) & (wins <= d) & (2 * wins > d)
    least = np.where(reached.any(axis=1), reached.argmax(axis=1), starts + 1)
    return np.where(reached.any(axis=1), 2 * least - d[:, 0], starts + 1)
