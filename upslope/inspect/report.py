"""What a run came to: a picture, closing lines, and the same problems before and after. Reads the run folder only."""

from __future__ import annotations

import math
import tomllib
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow
import pyarrow.parquet
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from upslope.errors import UserError
from upslope.inspect.picture import draw_journal
from upslope.inspect.reward_words import reward_lines
from upslope.inspect.words import duration, percent, shorten, visible
from upslope.record.journal import JOURNAL, Journal, attempted, number, read_journal, sample_of, told_problems
from upslope.record.names import ROLLOUTS

_SHORT = {"held_out_loss": "loss", "bits_per_byte": "text"}
Change = Literal["better", "worse", "same"]


@dataclass(frozen=True)
class GreedyAttempt:
    """What the policy wrote, greedily decoded, in one evaluation.

    >>> GreedyAttempt("#### 72", reward=1.0, ended="stop").reward
    1.0
    """

    text: str
    reward: float
    ended: str


@dataclass(frozen=True)
class BeforeAfter:
    """One held-out problem in the first and in the last evaluation.

    >>> BeforeAfter("toy/0", "1 + 1 = ?", GreedyAttempt("3", 0.0, "stop"), GreedyAttempt("2", 1.0, "stop")).change
    'better'
    """

    problem: str
    prompt_text: str
    before: GreedyAttempt
    after: GreedyAttempt

    @property
    def change(self) -> Change:
        gain = self.after.reward - self.before.reward
        return "better" if gain > 0 else "worse" if gain < 0 else "same"


def write_report(folder: Path) -> Path:
    """Draw the run's journal into ``folder/report.png`` and return that path. UserError where nothing is recorded."""
    journal = read_journal(folder)
    if not journal.steps and not journal.evals:
        raise UserError(f"{folder}: the journal holds no step and no evaluation yet, so there is nothing to draw")
    title = " · ".join(part for part in (Path(folder).resolve().name, _recipe(Path(folder))) if part)
    path, aside = Path(folder) / "report.png", Path(folder) / ".report.png.part"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a box in a title harms nobody
        draw_journal(journal, shorten(title, 100)).savefig(aside, format="png")
    aside.replace(path)  # whoever looks meanwhile sees the old picture or the new one, never half of it
    return path


def summary_lines(folder: Path) -> list[str]:
    """The closing lines, in ASCII: accuracy and held-out losses before and after, steps, time, tokens, and where things
    lie."""
    folder = Path(folder)
    journal = read_journal(folder)
    lines = []
    tried = [row for row in journal.evals if attempted(row)]
    if tried:
        first, last = tried[0], tried[-1]
        ends = [first] if first is last else [first, last]
        shares = " -> ".join(
            f"{percent(number(row, 'greedy', 'value'))} "
            f"[{percent(number(row, 'greedy', 'low'))}, {percent(number(row, 'greedy', 'high'))}]"
            for row in ends
        )
        of = f"{told_problems(last)} held-out problems, " if told_problems(last) else ""
        lines.append(f"accuracy    {shares} ({of}95 % intervals)")
    judged = [row for row in journal.evals if not attempted(row) and "reward" in row]
    if judged:
        means = " -> ".join(f"{number(row, 'reward'):.3f}" for row in judged[:1] + judged[1:][-1:])
        lines.append(
            f"mean reward {means} ({told_problems(judged[-1])} held-out problems; no accuracy, since nothing says what "
            "is right: task.right)"
        )
    lines += reward_lines(journal.steps or journal.evals)
    lines += [f"{name:<11} {_ends(journal, key)}" for key, name in _SHORT.items() if _ends(journal, key)]
    seconds = [*(number(row, "seconds") for row in journal.evals)]
    seconds += [number(row, "seconds", phase) for row in journal.steps for phase in row.get("seconds") or {}]
    num_tokens = _sum(journal.column("num_tokens")[1])
    spent = f"{len(journal.steps)} steps, {num_tokens:,.0f} tokens, {duration(_sum(seconds))} of computing"
    lines.append(f"spent       {spent}")
    if (folder / "report.png").exists():
        lines.append(f"picture     {visible(str(folder / 'report.png'))}")
    # step-000010, written aside and renamed: what does not end in digits is not finished.
    done = [path for path in folder.glob("checkpoints/step-*") if path.name.removeprefix("step-").isdigit()]
    if done:
        lines.append(f"checkpoint  {visible(str(max(done, key=_number)))}")
    return lines


def _ends(journal: Journal, key: str) -> str:
    """``3.412 -> 1.204 nats a token (held out)``; empty where no evaluation has it."""
    values = [number(row, key) for row in journal.evals if key in row]
    ends = values[:1] + values[1:][-1:]
    unit = "nats a token" if key == "held_out_loss" else "bits per byte"
    return f"{' -> '.join(f'{value:.4f}' for value in ends)} {unit} (held out)" if ends else ""


def _number(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def print_before_after(console: Console, folder: Path, num: int = 3) -> None:
    """``num`` telling problems side by side. The heading counts all of them, since a choice can mislead. Of a run that
    reads text, a sample from before and one from after."""
    print_samples(console, folder)
    pairs = before_after(folder)
    if not pairs:
        return
    counts: Counter[Change] = Counter(pair.change for pair in pairs)
    words = f"{counts['better']} better, {counts['worse']} worse, {counts['same']} with the same reward"
    console.print(Text(f"Of {len(pairs)} held-out problems: {words}.", "bold"))
    for pair in telling(pairs, num):
        table = Table.grid(padding=(0, 2), expand=True)
        for _ in range(2):
            table.add_column(ratio=1, overflow="fold")
        table.add_row(*(_heading(name, it) for name, it in (("before", pair.before), ("after", pair.after))))
        table.add_row(*(Text(visible(shorten(it.text.strip(), 800))) for it in (pair.before, pair.after)))
        prompt = Text(visible(shorten(pair.prompt_text.strip(), 600)), "bright_black")
        console.print(Panel(prompt, title=Text(visible(pair.problem)), title_align="left", border_style="bright_black"))
        console.print(table)


def print_samples(console: Console, folder: Path) -> None:
    """How the policy went on with a text in the first and in the last evaluation; nothing where none was recorded."""
    rows = read_journal(folder).evals if (folder / JOURNAL).exists() else ()
    found = [sample for row in rows if (sample := sample_of(row)) is not None]
    for name, (begun, text) in zip(("before", "after"), found[:1] + found[1:][-1:], strict=False):
        words = Text(visible(shorten(begun, 300)), "bright_black") + Text(visible(shorten(text, 800)))
        console.print(Panel(words, title=Text(f"text {name}"), title_align="left", border_style="bright_black"))


def _heading(name: str, attempt: GreedyAttempt) -> Text:
    cut = ", cut off" if attempt.ended == "length" else ""
    return Text(f"{name}: reward {attempt.reward:.3g}{cut}", "bold green" if attempt.reward > 0 else "bold red")


def telling(pairs: list[BeforeAfter], num: int) -> list[BeforeAfter]:
    """``num`` of them: those that got better first, then worse, then same.

    Among equals the shortest come first, for they can be read at a glance.
    """
    order: tuple[Change, ...] = ("better", "worse", "same")

    def rank(pair: BeforeAfter) -> tuple[int, bool, int]:
        unchanged = pair.before.text == pair.after.text
        return order.index(pair.change), unchanged, len(pair.prompt_text + pair.before.text + pair.after.text)

    return sorted(pairs, key=rank)[:num]


def before_after(folder: Path) -> list[BeforeAfter]:
    """Every problem that both the first and the last evaluation hold, in the first one's order. Empty where there are
    not two evaluations."""
    found = [path for path in Path(folder).glob("rollouts/eval-*.parquet") if ROLLOUTS.fullmatch(path.name)]
    files = sorted(found, key=lambda path: (len(path.name), path.name))
    if len(files) < 2:
        return []
    before, after = _attempts(files[0]), _attempts(files[-1])
    return [BeforeAfter(key, *before[key], after[key][1]) for key in before if key in after]


def _attempts(path: Path) -> dict[str, tuple[str, GreedyAttempt]]:
    """By problem: its prompt and the first attempt at it."""
    try:
        table = pyarrow.parquet.read_table(path, columns=["problem", "prompt_text", "response_text", "reward", "ended"])
        rows: list[dict[str, Any]] = table.to_pylist()
        found: dict[str, tuple[str, GreedyAttempt]] = {}
        for row in rows:
            if not all(isinstance(row[name], str) for name in ("problem", "prompt_text", "response_text")):
                raise ValueError("a problem, its prompt or a response is no text")
            attempt = GreedyAttempt(row["response_text"], float(row["reward"]), row["ended"])
            found.setdefault(row["problem"], (row["prompt_text"], attempt))
    except (OSError, pyarrow.ArrowException, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: cannot read the evaluation's attempts: {error}") from error
    return found


def _recipe(folder: Path) -> str:
    """The recipe's name in ``run.toml``: a string, or a table with a name; empty where there is none."""
    path = folder / "run.toml"
    if not path.exists():
        return ""
    try:
        recipe = tomllib.loads(path.read_text(encoding="utf-8")).get("recipe", "")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: {error}") from error
    name = recipe.get("name", "") if isinstance(recipe, dict) else recipe
    return name if isinstance(name, str) else ""


def _sum(values: list[float]) -> float:
    return math.fsum(value for value in values if math.isfinite(value))
