"""Normalisation statistics of a federation: how states and actions are spread, pooled from its stations.

A policy sees states and actions as (x - mean) / std. Stations that did so with statistics of their own would
train in different spaces and poison the average of their updates. So each reports three numbers per joint
once, before training begins: how many frames, their mean, and M2, the sum of squared deviations from it. The
coordinator combines them into what one data set of all recordings would have given, and freezes that.

    pool = pooled([measured(state_a, action_a), measured(state_b, action_b)])
    pool.state.std                                              # (6,) float64, units

These are the only statistics of recordings that ever leave a workstation.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

JOINTS = 6
MIN_FRAMES = 100
"""Fewer frames are never told: of a handful the mean comes close to being one of them. Three
seconds at 30 Hz."""
MOST_FRAMES = 10**9
"""A year of recording at 30 Hz. How much one station counts for in a pool is the coordinator's to limit."""
LARGEST = 1000.0
"""Bound of a mean, units: joints turn through at most 360 degrees, the gripper's range is 0 to 100."""
DIGITS = 6
"""Significant digits of every number. At 100 degrees that is 0.0005, a 170th of a servo's encoder step (360 /
4096): nothing a policy could notice. Written out it has seven characters, point included, so that it can't be
told for a recorded value, which the search for leaks knows by its first eight (`cli.demo.leak`)."""
MIN_STD = 1.0
"""Floor of standard deviations, units. A joint that never moved still reads a few encoder steps of 0.09
degrees; divided by its own deviation that noise would count as much as another joint's whole travel."""


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


_Mean = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False), AfterValidator(_short)]
_M2 = Annotated[float, Field(ge=0, le=MOST_FRAMES * LARGEST**2), AfterValidator(_short)]
_PerJoint = Field(min_length=JOINTS, max_length=JOINTS)


class Moments(BaseModel):
    """Of states or of actions; whatever it is made of, its numbers have `DIGITS` digits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    count: int = Field(ge=MIN_FRAMES, le=MOST_FRAMES)
    """Frames."""
    mean: Annotated[tuple[_Mean, ...], _PerJoint]
    """Units: degrees, gripper 0..100."""
    m2: Annotated[tuple[_M2, ...], _PerJoint]
    """Sum of squared deviations from the mean, units squared."""

    @property
    def std(self) -> np.ndarray:
        """(6,) float64, units: of all frames (divisor count, as LeRobot's), at least `MIN_STD`."""
        return np.maximum(np.sqrt(np.array(self.m2) / self.count), MIN_STD)

    @property
    def believable(self) -> bool:
        """Whether values within `LARGEST` can have these moments: m2 / count + mean^2 is the mean of their
        squares."""
        squares = np.array(self.m2) / self.count + np.array(self.mean) ** 2
        return bool((squares <= LARGEST**2).all())

    def of_at_most(self, count: int) -> "Moments":
        """The same mean and deviation, but no more than `count` frames."""
        if self.count <= count:
            return self
        m2 = tuple((np.array(self.m2) * (count / self.count)).tolist())
        return Moments(count=count, mean=self.mean, m2=m2)


class Statistics(BaseModel):
    """Of a station's recordings, or of all stations'."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    state: Moments
    action: Moments

    @cached_property
    def digest(self) -> str:
        """SHA-256 over canonical JSON: sorted keys, no spaces, shortest decimals."""
        fields = self.model_dump(mode="json")
        return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def measured(state: np.ndarray, action: np.ndarray) -> Statistics:
    """Statistics of recorded frames.

    Args:
        state, action: (frames, 6) in units.

    Raises:
        ValidationError: fewer than `MIN_FRAMES` frames, or values that no arm has.
    """
    return Statistics(state=_moments(state), action=_moments(action))


def pooled(parts: Sequence[Statistics]) -> Statistics:
    """What `measured` gives for the frames of all `parts` together, up to rounding; combined in the order
    given, in float64.

    Raises:
        ValidationError: no parts, more than `MOST_FRAMES` frames, or values that no arm has.
    """
    return Statistics(
        state=_combined([part.state for part in parts]), action=_combined([part.action for part in parts])
    )


def awaited(stations: int) -> str:
    """Why no training begins, in the same words on both sides."""
    return f"waiting for normalisation statistics of {stations} more station{'s' * (stations != 1)}"


def _moments(values: np.ndarray) -> Moments:
    wide = np.asarray(values, np.float64)
    mean = wide.mean(axis=0)
    m2 = ((wide - mean) ** 2).sum(axis=0)
    return Moments(count=len(wide), mean=tuple(mean.tolist()), m2=tuple(m2.tolist()))


def _combined(parts: Sequence[Moments]) -> Moments:
    """Chan, Golub, LeVeque, Updating formulae and a pairwise algorithm for computing sample variances,
    Stanford STAN-CS-79-773 (1979), eq. 2.1."""
    count = 0
    mean: np.ndarray = np.zeros(JOINTS)
    m2: np.ndarray = np.zeros(JOINTS)
    for part in parts:
        total = count + part.count
        apart = np.array(part.mean) - mean
        m2 = m2 + np.array(part.m2) + apart**2 * (count * part.count / total)
        mean = mean + apart * (part.count / total)
        count = total
    mean = np.clip(mean, -LARGEST, LARGEST)  # rounding may leave it a hair outside
    return Moments(count=count, mean=tuple(mean.tolist()), m2=tuple(m2.tolist()))
