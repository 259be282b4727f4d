"""``upslope compare``: which of two is better on the same problems, and on which."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from upslope.errors import UserError
from upslope.inspect.compare.paired import Paired, paired
from upslope.inspect.compare.sides import CompareSide, open_side
from upslope.inspect.words import percent, shorten, visible
from upslope.training.statistics import Interval

MOST_NAMED = 12
"""Problems of each kind that are named."""


def compare_command(first: str, second: str, num_shown: int, *, as_json: bool) -> None:
    """Print it. Raises UserError where a side has no evaluation, or they have no problem in common."""
    sides = open_side(first), open_side(second)
    shared = [problem for problem in sides[0].answers if problem in sides[1].answers]
    common = [problem for problem in shared if sides[0].answers[problem].prompt == sides[1].answers[problem].prompt]
    if shared and not common:
        raise UserError(
            f"{sides[0].name} and {sides[1].name} have {len(shared)} problems of the same names, and none of the same "
            "words: they were evaluated on different data"
        )
    if not common:
        raise UserError(
            f"{sides[0].name} and {sides[1].name} have no problem in common, so there is nothing to compare"
        )
    rights = [[side.answers[problem].right for problem in common] for side in sides]
    told = paired(*rights)
    won = [problem for problem, (one, two) in zip(common, zip(*rights, strict=True), strict=True) if two > one]
    lost = [problem for problem, (one, two) in zip(common, zip(*rights, strict=True), strict=True) if one > two]
    if as_json:
        print(json.dumps(_as_json(sides, told, won, lost), indent=1))
        return
    console = Console()
    for line in _lines(sides, told, won, lost):
        console.print(Text(line), soft_wrap=True)
    for problem in (won + lost)[:num_shown]:
        console.print(_side_by_side(problem, sides))


def _lines(sides: tuple[CompareSide, CompareSide], told: Paired, won: list[str], lost: list[str]) -> list[str]:
    accuracies, difference = told.accuracies, told.difference
    apart = difference.low > 0 or difference.high < 0
    lines = [f"{visible(side.name)}  {_told(found)}" for side, found in zip(sides, accuracies, strict=True)]
    lines.append(f"difference  {_signed(difference)} on the same {told.num} problems, McNemar p = {told.p_value:.3g}")
    verdict = "the second is better" if difference.low > 0 else "the first is better"
    lines.append(verdict if apart else "too close to call: the interval of the difference holds 0")
    left = [len(side.answers) - told.num for side in sides]
    if any(left):
        lines.append(f"left out: {left[0]} problems of the first and {left[1]} of the second, which the other lacks")
    lines.append(f"won {told.second}: {_named(won)}")
    lines.append(f"lost {told.first}: {_named(lost)}")
    return lines


def _side_by_side(problem: str, sides: tuple[CompareSide, CompareSide]) -> Table:
    table = Table(title=Text(visible(problem)), title_justify="left", expand=True)
    for side in sides:
        answer = side.answers[problem]
        style = "green" if answer.right else "red"
        table.add_column(Text(f"{visible(side.name)}: reward {answer.reward:.3g}", style), ratio=1, overflow="fold")
    prompt = sides[0].answers[problem].prompt
    table.caption = Text(visible(shorten(prompt.strip(), 400)))
    table.add_row(*(Text(visible(shorten(side.answers[problem].text.strip(), 1000))) for side in sides))
    return table


def _as_json(sides: tuple[CompareSide, CompareSide], told: Paired, won: list[str], lost: list[str]) -> dict[str, Any]:
    def plain(found: Interval) -> dict[str, float]:
        return {"value": found.value, "low": found.low, "high": found.high}

    return {
        "sides": [side.name for side in sides],
        "num_problems": told.num,
        "accuracy": [plain(found) for found in told.accuracies],
        "difference": plain(told.difference),
        "p_value": told.p_value,
        "won": won,
        "lost": lost,
    }


def _named(problems: list[str]) -> str:
    more = len(problems) - MOST_NAMED
    return ", ".join(map(visible, problems[:MOST_NAMED])) + (f" and {more} more" if more > 0 else "") or "none"


def _told(found: Interval) -> str:
    return f"{percent(found.value)} [{percent(found.low)}, {percent(found.high)}]"


def _signed(found: Interval) -> str:
    value, low, high = (f"{100 * share:+.1f}" for share in (found.value, found.low, found.high))
    return f"{value} points [{low}, {high}]"
