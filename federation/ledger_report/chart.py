"""Where the lines of a step chart run. The template draws them: no library, no script, no number as text in here."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import accumulate

from federation.ledger_report.spending import Level

WIDE, HIGH = 1000, 300  # of the drawing; it is stretched to the page's width, its labels are not
_PIXELS = 1  # balances nearer to each other than this on the way across are drawn as the last of them
_TICKS = 4  # spaces between dates
_LEAST = 1e-100  # no axis ends below this epsilon: a policy may have the smallest double, which has no third
Point = tuple[float, float]


@dataclass(frozen=True)
class Tick:
    """A label on an axis, `at` per cent of the way: from the left, or from the top."""

    at: float
    label: str


@dataclass(frozen=True)
class StepChart:
    """A drawing of WIDE by HIGH units: the corners of the lines `spent` and `cap`, and of the surfaces under lines."""

    spent: str
    spent_area: str
    charged_area: str
    cap: str
    cap_y: float  # of the cap at the end
    dates: tuple[Tick, ...]
    epsilons: tuple[Tick, ...]


def step_chart(levels: Sequence[Level], until_utc: str) -> StepChart:
    """A population's balances from its first budget to the ledger's last entry, and the cap above them.

    A clock that was set back does not draw backwards: a step stands no earlier than the one before it.
    """
    start, end = _instant(levels[0].utc), max(_instant(until_utc), _instant(levels[-1].utc))
    span = max((end - start).total_seconds(), 1.0)
    highest = max(_LEAST, *(max(level.cap, level.charged) for level in levels))
    top, step = 1.08 * highest, _round_step(highest)
    across = accumulate((WIDE * (_instant(level.utc) - start).total_seconds() / span for level in levels), max)
    drawn = _thinned(zip(across, levels, strict=True))
    spent = _stairs([(x, _down(level.spent, top)) for x, level in drawn])
    charged = _stairs([(x, _down(level.charged, top)) for x, level in drawn])
    return StepChart(
        spent=_corners(spent),
        spent_area=_corners(_closed(spent)),
        charged_area=_corners(_closed(charged)),
        cap=_corners(_stairs([(x, _down(level.cap, top)) for x, level in drawn])),
        cap_y=_down(levels[-1].cap, top),
        dates=tuple(_dates(start, span)),
        epsilons=tuple(Tick(100 * (1 - i * step / top), f"{i * step:g}") for i in range(math.floor(top / step) + 1)),
    )


def _thinned(points: Iterable[tuple[float, Level]]) -> list[tuple[float, Level]]:
    found: list[tuple[float, Level]] = []
    for x, level in points:
        if len(found) > 1 and x < found[-1][0] + _PIXELS:
            found[-1] = (found[-1][0], level)
        else:
            found.append((x, level))
    return found


def _stairs(points: Sequence[Point]) -> list[Point]:
    """Level until the next point, then straight up or down to it; level to the right edge after the last."""
    corners = [points[0]]
    for x, y in points[1:]:
        corners += [(x, corners[-1][1]), (x, y)]
    return [*corners, (WIDE, corners[-1][1])]


def _closed(line: Sequence[Point]) -> list[Point]:
    """The surface between a line and the axis under it."""
    return [(line[0][0], HIGH), *line, (WIDE, HIGH)]


def _corners(points: Sequence[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _down(epsilon: float, top: float) -> float:
    return HIGH * (1 - epsilon / top)


def _round_step(largest: float) -> float:
    """1, 2 or 5 times a power of ten, so that the largest figure is three to seven of them."""
    third = largest / 3
    power = 10.0 ** math.floor(math.log10(third))
    return power * next((step for step in (5, 2) if step * power <= third), 1)


def _dates(start: datetime, span: float) -> Iterator[Tick]:
    form = "%Y-%m-%d" if span > 4 * 86_400 else "%m-%d %H:%M" if span > 3600 else "%H:%M:%S"
    for i in range(_TICKS + 1):
        yield Tick(100 * i / _TICKS, (start + timedelta(seconds=span * i / _TICKS)).strftime(form))


def _instant(utc: str) -> datetime:
    return datetime.fromisoformat(utc)
