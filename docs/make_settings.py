"""Write what is made from the code, docs/settings.md among it, so that it cannot fall behind it.

python docs/make_settings.py
"""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from upslope.algo.codec import SLOTS as KINDS, to_dict
from upslope.algo.family import FAMILY
from upslope.algo.recipe import Recipe, diff, show
from upslope.plugins import is_own
from upslope.training.settings import RunSettings
from upslope.types import Sampling

HERE = Path(__file__).resolve().parent
HEADER = "<!-- Written by docs/make_settings.py (make docs). Do not edit. -->\n"


def settings_page() -> str:
    """Every key a run file or KEY=VALUE may set."""
    parts = [
        HEADER,
        "# Settings\n",
        "In a run file these are TOML tables; on the command line a dotted key: `upslope train learn.lr=1e-4`.\n"
        "An unknown key is an error that names the nearest known one. A run's `run.toml` holds what the run was told,\n"
        "with every default written out. The slots under `recipe` are in [recipes.md](recipes.md).\n",
    ]
    shared = field_notes(Sampling)
    hints = get_type_hints(RunSettings)
    inner = [f.name for f in fields(RunSettings) if is_dataclass(hints[f.name])]
    for name, kind in [("", RunSettings), *((name, hints[name]) for name in inner)]:
        parts += [f"## {name or 'The run itself'}\n", first_line(kind) + "\n"]
        notes = shared | field_notes(kind) if name == "sample" else field_notes(kind)
        rows = [
            (f"`{name}.{f.name}`" if name else f"`{f.name}`", f"`{f.type}`", default_of(f), notes.get(f.name, ""))
            for f in fields(kind)
            if f.name not in inner or name
        ]
        parts.append(markdown_table(("key", "type", "default", "meaning"), rows))
    return "\n".join(parts)


DIFFERENCES = """## Where projects differ

Names are shared, details are not. Here is what ours are, and what others do (TRL 1.16 by test,
`benchmarks/compare_trl_losses.py`):

- **z-score**: the deviation is the sample's (divided by G - 1) with 1e-4 added, as in TRL. verl adds 1e-6. Others take
  the population's: `recipe.advantage.std=population`.
- **penalty of `grpo`**: 0.04 as in the paper. TRL's default is none: `recipe.regulariser=no_penalty`.
- **token mean**: over all tokens of an update, as in TRL's `dapo`. TRL's `bnpo` is a mean of micro-batch means under
  gradient accumulation.
- **dual clip**: off, as in the paper of PPO. It is always on, at 3, in verl's plain loss. TRL's `delta` is the same
  bound where it lies above 1 + high.
- **`cispo`**: the bound here is 1 + high = 5 with no lower one; TRL's `epsilon_high` is the bound itself.
- **`cispo`** refills and punishes long answers as `dapo` does (MiniMax-M1, section 3.1). Projects that offer its loss
  alone leave that out: `recipe.sample.keep=everything recipe.sample.refill=0 recipe.shape=identity`.
- **`dr-grpo`** has no penalty, as in its paper. TRL's `dr_grpo` takes whatever `beta` says.
- **overlong punishment**: at most half of the difference between right and wrong. DAPO's 1 is that for its rewards of
  +1 and -1. For 1 and 0 it is 0.5 here; set `recipe.shape.factor=1` for rewards of +1 and -1. verl takes its
  `penalty_factor`, 1, whatever the rewards are.
- **mini-batches** of unequal numbers of groups count in proportion to them, so every group counts the same in a step.
  Elsewhere each is a mean of its own, and the groups of a small last one weigh more.
- **a penalty in the reward** compares the learner's log-probabilities with the reference's, never the sampler's. At the
  start both are the same model, and it costs exactly nothing.
- **rewards are equal** if they differ by no more than four float32 roundings. This holds for dynamic sampling, every
  comparison and the journal alike. A comparison of equal rewards gives exact zeros.
- **a critic's targets** have a lambda of their own, 1 (the outcome), as in VC-PPO and VAPO. Elsewhere they are the
  advantage's estimate plus the value, so they take its lambda.
- **`gspo`** under advantages that differ from token to token (a critic, a penalty in the reward) would average them, so
  that is refused; `recipe.surrogate.level=token` is GSPO-token.
- **GAE** treats an attempt that was cut as ended: the limit is a rule of the task.
"""


def recipes_page() -> str:
    """The family tree, and every value of every slot."""
    parts = [
        HEADER,
        "# Recipes\n",
        "Every algorithm is its parent plus a patch that cures one specific pain. `upslope diff A B` shows the slots\n"
        "in which any two differ.\n",
    ]
    rows = []
    for name, branch in FAMILY.items():
        changed = diff(FAMILY[branch.parent].recipe, branch.recipe) if branch.parent else {}
        patch = "<br>".join(f"{slot}: `{old}` → `{new}`" for slot, (old, new) in changed.items())
        rows.append((f"`{name}`", f"`{branch.parent}`" if branch.parent else "", patch or "the defaults", branch.cures))
    parts.append(markdown_table(("recipe", "patch of", "changes", "cures"), rows))
    parts += [
        "## Slots\n",
        "A slot is set by its kind, `recipe.advantage=group_mean`, and its fields, `recipe.surrogate.high=0.28`.\n",
    ]
    parts.insert(-2, DIFFERENCES)
    defaults, notes = Recipe(), field_notes(Recipe)
    for slot, kinds in KINDS.items():
        parts += [f"### {slot}\n", f"{notes[slot]} Default: `{show(getattr(defaults, slot))}`.\n"]
        own = [slot_row(kind, value) for kind, value in sorted(kinds.items()) if is_own(value)]
        parts.append(markdown_table(("kind", "fields", "meaning"), own))
    return "\n".join(parts)


def slot_row(kind: str, value: Any) -> tuple[str, str, str]:
    inside = fields(value) if isinstance(value, type) and is_dataclass(value) else ()
    given = ", ".join(f"`{f.name} = {show(f.default)}`" for f in inside)
    return f"`{kind}`", given, first_line(value)


def first_line(thing: Any) -> str:
    """The first paragraph of a docstring, as one line."""
    paragraph = (inspect.getdoc(thing) or "").partition("\n\n")[0]
    return one_line(paragraph)


def field_notes(kind: type) -> dict[str, str]:
    """The docstring under each field of a dataclass; Python itself throws these away."""
    module = inspect.getmodule(kind)
    assert isinstance(module, ModuleType)
    tree = ast.parse(inspect.getsource(module))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind.__name__)
    notes: dict[str, str] = {}
    for field, note in pairwise(body):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if isinstance(note, ast.Expr) and isinstance(note.value, ast.Constant):
            notes[field.target.id] = one_line(str(note.value.value))
    return notes


def one_line(text: str) -> str:
    """A docstring's text as Markdown: no line breaks, code in single backticks."""
    return " ".join(text.split()).replace("``", "`")


def default_of(field: Any) -> str:
    value = field.default_factory() if field.default is MISSING else field.default
    return "" if value is None else f"`{toml(value)}`"


def toml(value: Any) -> str:
    """A value as a run file spells it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(map(toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def markdown_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(head), "|" + " --- |" * len(head), *map(line, rows), ""])


def family_file() -> str:
    """The family as run.toml spells it, for whoever reads runs without torch (upslope/inspect/reading/family.py)."""
    told = {name: {"parent": branch.parent, "slots": to_dict(branch.recipe)} for name, branch in FAMILY.items()}
    return json.dumps(told, indent=1) + "\n"


PAGES = {
    "settings.md": settings_page,
    "recipes.md": recipes_page,
    "../upslope/inspect/reading/family.json": family_file,
}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (HERE / name).write_text(page(), encoding="utf-8")
