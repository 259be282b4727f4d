"""``upslope prove``: every claim, checked and shown."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from upslope.errors import UserError, nearest
from upslope.prove.catalogue import CLAIMS
from upslope.prove.claim import Claim, Verdict, judged


def prove_command(only: Sequence[str] | None, as_json: bool) -> bool:
    """Check the claims (all, or those given by number or name), print a table or one JSON list, and say whether all
    of them hold. Raises UserError for a claim that does not exist."""
    verdicts = [judged(claim) for claim in picked(only)]
    if as_json:
        print(json.dumps([as_object(v) for v in verdicts], indent=2, allow_nan=False))
    else:
        print_verdicts(verdicts, Console())
    return all(v.holds for v in verdicts)


def picked(only: Sequence[str] | None) -> list[Claim]:
    """The claims of these numbers and names, in the order of the catalogue; all of them for None or nothing."""
    by_key = {claim.name: claim for claim in CLAIMS} | {str(claim.number): claim for claim in CLAIMS}
    for key in only or ():
        if key not in by_key:
            known = [claim.name for claim in CLAIMS] if not key.isdigit() else [str(c.number) for c in CLAIMS]
            raise UserError(f"prove: there is no claim {key!r}{nearest(key, known)}")
    wanted = {by_key[key].number for key in only or by_key}
    return [claim for claim in CLAIMS if claim.number in wanted]


def print_verdicts(verdicts: Sequence[Verdict], console: Console) -> None:
    """A row a claim; under it, across the page, what did not hold and what was measured."""
    console.print(columns("", "claim", "source", "what is compared", "error", "verdict", style="bold"))
    for verdict in verdicts:
        of = verdict.claim
        told = Text.assemble((of.name, "bold"), "\n", of.statement)
        compared = f"{of.compares} ({len(verdict.checks)} checks)"
        word = Text("holds", style="green") if verdict.holds else Text("FAILS", style="bold red")
        console.print(Rule(style="dim"))
        console.print(columns(str(of.number), told, of.source, compared, spelt(verdict.error), word))
        console.print(beneath(verdict))
    console.print(Rule(style="dim"))
    num_held, num_checks = sum(v.holds for v in verdicts), sum(len(v.checks) for v in verdicts)
    seconds = sum(v.seconds for v in verdicts)
    console.print(f"{num_held} of {len(verdicts)} claims hold ({num_checks} checks, {seconds:.1f} s)", highlight=False)


def columns(*cells: str | Text, style: str = "") -> Table:
    """One row; all rows share their column widths, since these depend on the terminal alone."""
    row = Table.grid(expand=True, padding=(0, 1))
    row.add_column(width=3, justify="right")
    for ratio in (4, 3, 4):
        row.add_column(ratio=ratio)
    row.add_column(width=6, justify="right")
    row.add_column(width=7)
    row.add_row(*cells, style=style)
    return row


def beneath(verdict: Verdict) -> Table:
    """What did not hold (red) or not to 1e-9, then what was measured, across the page."""
    rows = Table.grid(padding=(0, 2, 0, 0))
    rows.add_column(justify="right", min_width=14)
    rows.add_column()
    for check in verdict.checks:
        if check.holds and check.why:
            rows.add_row(spelt(check.error), Text(f"{check.label}, within {check.tolerance:.0e}: {check.why}"))
        if not check.holds:
            told = f"{check.label}: {check.left:.6g} {check.relation} {check.right:.6g} does not hold"
            rows.add_row(spelt(check.error), Text(told), style="red")
    if verdict.failure:
        rows.add_row("", Text(verdict.failure), style="red")
    for fact in verdict.facts:
        rows.add_row(f"{fact.value:.4g}", Text(fact.label), style="dim")
    return rows


def spelt(value: float) -> str:
    return f"{value:.0e}" if math.isfinite(value) else str(value)


def as_object(verdict: Verdict) -> dict[str, Any]:
    """A verdict for machines; what is not finite is null."""
    of = verdict.claim
    return {
        "number": of.number,
        "name": of.name,
        "statement": of.statement,
        "source": of.source,
        "compares": of.compares,
        "holds": verdict.holds,
        "error": or_null(verdict.error),
        "seconds": round(verdict.seconds, 3),
        "failure": verdict.failure or None,
        "facts": {fact.label: or_null(fact.value) for fact in verdict.facts},
        "checks": [{k: or_null(v) for k, v in asdict(c).items()} | {"holds": c.holds} for c in verdict.checks],
    }


def or_null(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
