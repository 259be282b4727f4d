"""What is odd about how prompts are put to a model, a line each: for whoever watches, before attempts are made."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from upslope.algo.recipe import Recipe
from upslope.algo.sample import Documents
from upslope.model.chat_renderer import ChatRenderer
from upslope.model.chat_template import DEVELOPER
from upslope.model.rendered import foreign_mark
from upslope.model.renderer import Renderer, is_raw
from upslope.tasks.at_work import WATCH
from upslope.tasks.base import Task
from upslope.types import Group, Problem

MOST_NAMED = 3


def notes_of_run(recipe: Recipe, task: Task, renderer: Renderer) -> list[str]:
    """Of what a run with this recipe puts to its model."""
    if isinstance(recipe.sample, Documents):
        return []
    return prompt_notes(task.problems("train") if recipe.acts else task.demonstrations(), renderer)


def prompt_notes(problems: Sequence[Problem], renderer: Renderer) -> list[str]:
    """Strings that hold a chat template already, roles that are written as another, arguments that the template never
    reads, answers that are begun."""
    if not isinstance(renderer, ChatRenderer) or not problems:
        return []
    raw: list[Problem] = []
    framed: list[Problem] = []
    for problem in problems:
        (raw if is_raw(renderer, problem) else framed).append(problem)
    raw = [problem for problem in raw if problem.form == "auto"]
    held = [any(renderer.holds_template(message["content"]) for message in p.messages) for p in framed]
    twice = [p for p, holds in zip(framed, held, strict=True) if holds]
    others = [p for p, holds in zip(framed, held, strict=True) if p.plain and not holds]
    foreign = [p for p in others if foreign_mark(p.messages[0]["content"])]
    begun = [p for p in framed if p.messages and p.messages[-1]["role"] == "assistant"]
    taken, around, raw_mend = "and are taken as they are", "and get the model's around it", "takes strings as they are"
    lines = [
        _line(raw, of=problems, what=lambda p: f"hold the model's chat template already, {taken}; task.template=chat "
              "puts it around them"),
        _line(twice, of=problems, what=lambda p: f"hold the model's chat template already, and get it once more; "
              f"task.template=raw {raw_mend}"),
        _line(foreign, of=problems, what=lambda p: f"hold {foreign_mark(p.messages[0]['content'])!r}, as if a chat "
              f"template had written them, {around}; task.template=raw {raw_mend}"),
        _line(begun, of=problems, what=lambda p: f"end with the beginning of an answer "
              f"({p.messages[-1]['content'][-20:]!r}), which attempts go on with"),
    ]  # fmt: skip
    if any(m["role"] == DEVELOPER for p in framed for m in p.messages) and renderer.template.developer != DEVELOPER:
        lines.append(
            f"the chat template has no role {DEVELOPER}; its messages are written as {renderer.template.developer}'s"
        )
    source = renderer.template.source
    names = dict.fromkeys(name for problem in framed for name in problem.template if name != "tools")
    lines += [
        f"the chat template never reads {name!r} (chat_template_kwargs)"
        for name in names
        if source is not None and not re.search(rf"\b{re.escape(name)}\b", source)
    ]
    pinned = "date_string" in (source or "")  # what Llama's template calls it
    if framed and "strftime_now" in (source or "") and not (pinned and "date_string" in names):
        pin = '; task.chat_template_kwargs.date_string="26 Jul 2024" keeps one' if pinned else ""
        lines.append(f"the chat template writes today's date, so that another day has other prompts{pin}")
    return [line for line in lines if line]


class SpecialWatch:
    """Says ``special_note`` once."""

    def __init__(self) -> None:
        self._said = False

    def __call__(self, groups: Sequence[Group], renderer: Renderer) -> None:
        if not self._said and (note := special_note(groups, renderer)):
            self._said = True
            WATCH.say(note)


def special_note(groups: Sequence[Group], renderer: Renderer) -> str:
    """That attempts hold special tokens which rewards do not read, though neither the chat template nor the end of a
    text has them there; empty if none does."""
    if not isinstance(renderer, ChatRenderer) or renderer.keeps_special:
        return ""
    taken = renderer.template.apart | {*renderer.marks.tokens}
    names = {i: renderer.spelled([i]) for i in renderer.special_ids - {*renderer.end_ids}}
    names = {i: name for i, name in names.items() if name not in taken}
    attempts = [rollout for group in groups for rollout in group.rollouts]
    found = [names.keys() & {*rollout.response} for rollout in attempts]
    held = dict.fromkeys(names[token] for tokens in found for token in sorted(tokens))
    if not held:
        return ""
    told = ", ".join(list(held)[:MOST_NAMED]) + (" ..." if len(held) > MOST_NAMED else "")
    return (
        f"{sum(map(bool, found))} of {len(attempts)} attempts hold special tokens ({told}), which are left out of the "
        "text that rewards read; task.keep_special=true keeps them"
    )


def _line(found: Sequence[Problem], of: Sequence[Problem], what: Callable[[Problem], str]) -> str:
    return f"{len(found)} of {len(of)} prompts (such as {found[0].id}) {what(found[0])}" if found else ""
