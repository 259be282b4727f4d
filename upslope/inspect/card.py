"""The card of a model that a run made: what it is, how and on what it was trained, and what came of it."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from upslope.errors import UserError
from upslope.inspect.words import percent, visible
from upslope.model.names import folder_and_best, is_new, is_pocket
from upslope.record.journal import LOSSES, JournalRow, number, read_journal
from upslope.record.names import RUN
from upslope.training.tables import dotted

TOLD = (
    "steps",
    "problems",
    "seed",
    "learn.lr",
    "learn.lora_rank",
    "learn.dtype",
    "sample.max_tokens",
    "sample.temperature",
)
"""Settings that the card lists; run.toml has them all."""


def model_card(folder: Path, step: int, *, adapter: bool) -> str:
    """Markdown with a head that the hub reads. Paths are told by their last part: a card is for others to read. Raises
    UserError if the run's own files cannot be read."""
    try:
        document = tomllib.loads((folder / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / RUN} cannot be read: {error}") from None
    recipe, task = document.get("recipe", {}), document.get("task", {})
    name, base = _last(recipe.get("name", "")), str(document.get("model", ""))
    what = "This is a LoRA adapter; it needs its base model." if adapter else "This directory holds the whole model."
    lines = [
        *_head(name, base, adapter=adapter),
        f"# {visible(folder.resolve().name)}",
        "",
        f"`{_last(base)}` trained with upslope, recipe `{name}`, {step} steps. {what}",
        "",
        "## Recipe",
        "",
        *_table([("recipe", name), *_slots(recipe), *_settings(document)]),
        "## Data",
        "",
        *_table(_data(task)),
        "## Figures",
        "",
        *_figures(folder, step),
        "## Made with",
        "",
        *_table([(of, version) for of, version in document.get("versions", {}).items()]),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _head(recipe: str, base: str, *, adapter: bool) -> list[str]:
    hub = [] if _is_path(base) or is_pocket(base) or is_new(base) else [f"base_model: {json.dumps(base)}"]
    tags = ["upslope", recipe.partition(":")[0], *(["lora"] if adapter else [])]
    library = "peft" if adapter else "transformers"
    listed = [f"- {json.dumps(tag)}" for tag in tags]
    return ["---", *hub, f"library_name: {library}", "pipeline_tag: text-generation", "tags:", *listed, "---", ""]


def _slots(recipe: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """A slot a row: what stands in it, with its parameters."""
    found = []
    for slot, value in recipe.items():
        if slot != "name":
            table = value if isinstance(value, Mapping) else {"kind": value}
            more = ", ".join(f"{key}={inner}" for key, inner in table.items() if key != "kind")
            found.append((slot, f"{_last(table.get('kind', ''))}{f' ({more})' if more else ''}"))
    return found


def _settings(document: Mapping[str, Any]) -> list[tuple[str, Any]]:
    known = dict(dotted(document))
    return [(key, known[key]) for key in TOLD if known.get(key) not in (None, "", 0)]


def _data(task: Mapping[str, Any]) -> list[tuple[str, Any]]:
    rows = [("task", _last(task.get("name") or ("user" if task.get("data") else "pocket")))]
    for key in ("data", "eval_data", "also", "where", "text", "rewards"):
        value = task.get(key)
        if value:
            rows.append((key, ", ".join(map(_last, value)) if isinstance(value, list) else _last(value)))
    return rows


def _figures(folder: Path, step: int) -> list[str]:
    """The first evaluation beside that of this checkpoint, and the steps' rewards."""
    journal = read_journal(folder)
    evals = [row for row in journal.evals if row["step"] <= step]
    lines: list[str] = []
    if evals:
        first, last = evals[0], evals[-1]
        lines += [f"Held out, after {first['step']} and after {last['step']} steps:", ""]
        rows = [
            (key, (_measured(first, key), _measured(last, key))) for key in ("greedy", "lenient", *LOSSES, "reward")
        ]
        kept = [(key, *pair) for key, pair in rows if any(pair)]
        lines += ["| | before | after |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in kept), ""]
    steps = [row for row in journal.steps if row["step"] < step]
    if steps:
        rewards = [number(row, "reward") for row in steps if "reward" in row]
        told = f", mean reward {rewards[0]:.4g} in the first step and {rewards[-1]:.4g} in the last" if rewards else ""
        tokens = sum(number(row, "num_tokens") for row in steps if "num_tokens" in row)
        lines += [f"{len(steps)} steps, {tokens:,.0f} tokens, {number(steps[-1], 'spent'):.0f} s{told}.", ""]
    return lines or ["Nothing was measured.", ""]


def _measured(row: JournalRow, key: str) -> str:
    value = row.get(key)
    if isinstance(value, Mapping):
        share = f"{percent(value['value'])} [{percent(value['low'])}, {percent(value['high'])}]"
        return share + (f" of {value['num_problems']}" if "num_problems" in value else "")
    return "" if value is None else f"{value:.4g}"


def _table(rows: list[tuple[str, Any]]) -> list[str]:
    told = [f"| {key} | {_cell(value)} |" for key, value in rows]
    return ["| | |", "|---|---|", *told, ""]


def _cell(value: Any) -> str:
    return visible(str(value)).replace("|", "\\|").replace("\n", " ")


def _is_path(name: str) -> bool:
    return name.startswith(("/", ".", "~")) or folder_and_best(name)[0].exists()


def _last(name: Any) -> str:
    """A path, or FILE.py:NAME, by its last part; another name whole."""
    return Path(str(name)).name if _is_path(str(name)) else str(name)
