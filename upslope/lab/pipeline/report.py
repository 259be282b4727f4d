"""What a pipeline came to: a table of its stages, and one picture over all of them. Reads the stages' folders only."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from upslope.errors import UserError
from upslope.files import write_whole
from upslope.inspect.picture import draw_stages
from upslope.inspect.words import duration, percent, visible
from upslope.record.journal import JOURNAL, Journal, number, read_journal
from upslope.training.pipeline.performing import PIPELINE

REPORT, PICTURE = "report.md", "report.png"
TOKENIZER = "tokenizer"
"""A kind of stage that keeps no journal."""


@dataclass(frozen=True)
class StageFacts:
    """One stage that was done, or begun. NaN where something was not measured."""

    name: str
    folder: Path
    what: str
    """The recipe, or the kind of a stage that has none."""
    journal: Journal

    @property
    def steps(self) -> int:
        return len(self.journal.steps)

    @property
    def tokens(self) -> int:
        """Generated or imitated."""
        return round(_sum(number(row, "num_tokens") for row in self.journal.steps))

    @property
    def seconds(self) -> float:
        """Of computing, evaluations too."""
        of_steps = [number(row, "seconds", phase) for row in self.journal.steps for phase in row.get("seconds") or {}]
        return _sum([*of_steps, *(number(row, "seconds") for row in self.journal.evals)])

    def ends(self, *keys: str) -> tuple[float, float]:
        """A number of the evaluations, in the first of them that has it and in the last."""
        known = [value for row in self.journal.evals if math.isfinite(value := number(row, *keys))]
        return (known[0], known[-1]) if known else (math.nan, math.nan)


def facts_of(folder: Path) -> list[StageFacts]:
    """Every stage of a pipeline's folder that has a journal, and every tokenizer, which has none, in order. Raises
    UserError for another folder."""
    file = folder / PIPELINE
    try:
        rows = tomllib.loads(file.read_text(encoding="utf-8"))["stage"]
        named = [(str(row["name"]), _what(row)) for row in rows]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    found = []
    for name, what in named:
        place = folder / name
        if (place / JOURNAL).exists():
            found.append(StageFacts(name, place, what, read_journal(place)))
        elif what == TOKENIZER and place.is_dir():
            found.append(StageFacts(name, place, what, Journal((), ())))
    return found


def _what(row: dict[str, Any]) -> str:
    kind, recipe = row.get("kind", "train"), row.get("recipe", {})
    named = recipe.get("name", kind) if isinstance(recipe, dict) else recipe  # a text is short for a table
    return str(named if kind == "train" else kind)


Column = tuple[str, Callable[[StageFacts], str]]


def columns_of(facts: Sequence[StageFacts]) -> list[Column]:
    """What the table says: losses on held-out text only where some stage has measured them."""
    found: list[Column] = [
        ("stage", lambda f: visible(f.name)),
        ("recipe", lambda f: visible(f.what)),
        ("steps", lambda f: f"{f.steps:,}" if f.steps else ""),
        ("tokens", lambda f: f"{f.tokens:,}" if f.tokens else ""),
        ("time", lambda f: duration(f.seconds) if f.seconds else ""),
    ]
    shown: list[tuple[str, tuple[str, ...], Callable[[float], str]]] = [
        ("held-out accuracy", ("greedy", "value"), percent),
        ("held-out loss", ("held_out_loss",), "{:.4g}".format),
        ("bits per byte", ("bits_per_byte",), "{:.4g}".format),
    ]
    for title, keys, spell in shown:
        if any(math.isfinite(f.ends(*keys)[1]) for f in facts):
            found.append((title, lambda f, keys=keys, spell=spell: _change(f, keys, spell)))  # type: ignore[misc]
    return found


def _change(facts: StageFacts, keys: tuple[str, ...], spell: Callable[[float], str]) -> str:
    """``59.6 % → 94.7 %``; a single value where it was measured once; nothing where never."""
    before, after = facts.ends(*keys)
    if not math.isfinite(after):
        return ""
    return spell(after) if len(facts.journal.evals) == 1 else f"{spell(before)} → {spell(after)}"


def table_of(facts: Sequence[StageFacts]) -> Table:
    """The stages for a terminal."""
    columns = columns_of(facts)
    table = Table(*(title for title, _ in columns), box=None, padding=(0, 2, 0, 0))
    for each in facts:
        table.add_row(*(Text(spell(each)) for _, spell in columns))
    return table


def write_pipeline_report(folder: Path) -> Path:
    """Write report.md (the table) and report.png (all stages that train, one after another) into a pipeline's folder;
    returns the path of report.md. Raises UserError where no stage has recorded anything."""
    facts = facts_of(folder)
    drawn = [(each.name, each.journal) for each in facts if each.what != TOKENIZER]
    if not facts:
        raise UserError(f"{folder}: no stage has recorded anything yet, so there is nothing to report")
    columns = columns_of(facts)
    lines = [" | ".join(title for title, _ in columns), "|".join("---" for _ in columns)]
    lines += [" | ".join(spell(each).replace("|", "\\|") for _, spell in columns) for each in facts]
    name = visible(folder.resolve().name)
    rows = "\n".join(f"| {line} |" if "---" not in line else f"|{line}|" for line in lines)
    page = f"# {name}\n\n{rows}\n\nTime is of computing, evaluations included; accuracy is greedy.\n"
    if drawn:
        aside = folder / f".{PICTURE}.part"
        draw_stages(drawn, name).savefig(aside, format="png")
        aside.replace(folder / PICTURE)
        page += f"\n![all stages]({PICTURE})\n"
    write_whole(folder / REPORT, page.encode())
    return folder / REPORT


def is_pipeline(folder: Path) -> bool:
    """Whether a folder is a pipeline's, and no single run's."""
    return (folder / PIPELINE).exists()


def _sum(values: Any) -> float:
    return math.fsum(value for value in values if math.isfinite(value))
