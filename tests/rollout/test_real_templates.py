"""Conversations with tools through the chat templates that models are shipped with: every family calls in its own way,
hears its tools as its template tells them, and is scored by the tokens it wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import templated
from real_templates import real_template

from upslope.errors import UserError
from upslope.model.chat_renderer import ChatRenderer
from upslope.rollout.address import Address
from upslope.rollout.base import Request
from upslope.rollout.converse import Attempted, converse
from upslope.rollout.scripted import ScriptedSampler
from upslope.tasks.episode import ConversationLimits, Episode, Reply
from upslope.tasks.tools.toolbox import named
from upslope.tasks.tools.worlds import ToolWorld
from upslope.types import Problem, Rollout, Sampling, Score


def answer(a: int, b: int) -> int:
    """
    Add two numbers.

    Args:
        a: The first.
        b: The second.
    """
    return a + b


TOOLS = named([answer])
ASKED = Problem("toy/0", ({"role": "user", "content": "What is 1 + 2?"},), template={"tools": TOOLS})
QWEN = '<tool_call>\n{"name": "answer", "arguments": {"a": 1, "b": 2}}\n</tool_call>'
XML = (
    "Add.\n</think>\n\n<tool_call>\n<function=answer>\n<parameter=a>\n1\n</parameter>\n<parameter=b>\n2\n</parameter>\n"
    "</function>\n</tool_call>"
)
LLAMA = '{"name": "answer", "parameters": {"a": 1, "b": 2}}'
MISTRAL = '[TOOL_CALLS] [{"name": "answer", "arguments": {"b": 2, "a": 1}}]'
LLAMA_TOKENS = ("<|python_tag|>", "<|eom_id|>")
MISTRAL_TOKENS = (
    *("[TOOL_CALLS]", "[ARGS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
)
TAGGED = "<|im_start|>user\n<tool_response>\n3\n</tool_response><|im_end|>"
IPYTHON = '<|start_header_id|>ipython<|end_header_id|>\n\n"3"<|eot_id|>'
RESULTS = '[TOOL_RESULTS] {"content": 3, "call_id": "call00000"}[/TOOL_RESULTS]'
FENCED = "<start_of_turn>user\n```tool_output\n3\n```<end_of_turn>"
IN_TAGS = "<start_of_turn>user\n<tool_response>\n3</tool_response><end_of_turn>"
"""How an answer of 3 is heard."""


class Family(NamedTuple):
    template: str
    tokens_of: str
    """Whose special tokens it has, and which more."""
    more: tuple[str, ...]
    told: str
    """How it hears a 3 of the first call."""
    calls: tuple[str, str]
    """Two turns that call."""
    end: str = "It is 3."
    forks: int = 0

    @property
    def turns(self) -> tuple[str, str, str]:
        return (*self.calls, self.end)


FAMILIES = (
    Family("qwen2_5", "qwen2.5", (), TAGGED, (QWEN, f"I add. {QWEN}")),
    Family("qwen3", "qwen3", (), TAGGED, (f"<think>\nTwo.\n</think>\n\n{QWEN}", QWEN)),
    Family("qwen3_5_think", "qwen3", (), TAGGED, (XML, XML), "So.\n</think>\n\nIt is 3."),
    Family("llama3_1", "llama3", LLAMA_TOKENS, IPYTHON, (LLAMA, f"<|python_tag|>{LLAMA}")),
    Family(
        *("llama3_2", "llama3", LLAMA_TOKENS, IPYTHON),
        (f"<|python_tag|>{LLAMA}<|eom_id|>", "<|python_tag|>answer.call(a=1, b=2)<|eom_id|>"),
    ),
    Family("mistral", "mistral", MISTRAL_TOKENS, RESULTS, (MISTRAL, '[TOOL_CALLS]answer[ARGS]{"a": 1, "b": 2}')),
    # Its system speaks before the last question, as long as nothing follows that.
    Family("mistral_parallel", "mistral", MISTRAL_TOKENS, RESULTS, (MISTRAL, MISTRAL), forks=1),
    Family(
        *("gemma", "gemma", (), FENCED),
        ("```tool_code\nprint(answer(a=1, b=2))\n```", 'call: answer {"a": 1, "b": 2}'),
    ),
    Family(
        *("gemma3", "gemma", (), FENCED),
        ("I add.\n```tool_code\nanswer(1, b=2)\n```", "```tool_code\nx = answer(1, 2)\n```"),
    ),
    Family("gemma3_pythonic", "gemma", (), IN_TAGS, ("[answer(a=1, b=2)]", "[answer(1,2)]")),
    Family(
        "smollm2", "smollm2", (), "<|im_start|>tool\n3<|im_end|>", (f"<tool_call>[{QWEN[12:-13]}]</tool_call>", QWEN)
    ),
)


class Asking(Episode):
    """Says these one after the other, and then nothing more."""

    stops: Sequence[str] = ()

    def __init__(self, *replies: str) -> None:
        self._left = list(replies)

    def reply(self, text: str) -> Reply:
        return self._left.pop(0) if self._left else None


def renderer(family: Family) -> ChatRenderer:
    template = real_template(family.template)
    if template is None:
        pytest.skip(f"no template {family.template}: UPSLOPE_TEMPLATES=FOLDER names one with {family.template}.jinja")
    made = ChatRenderer.of(templated.tokenizer(family.tokens_of, template, family.more))
    more = made.ids("<|eom_id|>") if "<|eom_id|>" in family.more else ()
    return replace(made, end_ids=(*made.end_ids, *more))  # as the model's generation config has it


def written(subject: ChatRenderer, turn: str) -> tuple[int, ...]:
    """Character by character, but for special tokens: as no tokenizer would split the text."""
    whole = subject.ids(turn)
    ids = [i for token in whole for i in ([token] if token in subject.special_ids else letters(subject, token))]
    return (*ids,) if ids[-1] in subject.end_ids else (*ids, subject.turn_end_id)


def letters(subject: ChatRenderer, token: int) -> list[int]:
    return [i for c in subject.spelled([token]) for i in subject.ids(c)]


class Writing(ScriptedSampler):
    def __init__(self, subject: ChatRenderer, turns: Sequence[str], *, naive: bool = False) -> None:
        left = [written(subject, turn) for turn in turns]

        def write(request: Request) -> tuple[Sequence[int], list[float]]:
            tokens = left.pop(0)
            return tokens, [-0.5] * len(tokens)

        super().__init__(write, end_ids=subject.end_ids)
        self._subject, self._naive = subject, naive

    def generate(self, requests: Any, *how: Any, **more: Any) -> list[Rollout]:
        if self._naive:  # everything so far is read back as text, and tokenised again
            again = [replace(r, prompt=self._subject.ids(self._subject.spelled(r.prompt))) for r in requests]
            return super().generate(again, *how, **more)
        return super().generate(requests, *how, **more)


def attempt(
    subject: ChatRenderer, turns: Sequence[str], world: Episode, problem: Problem = ASKED, *, naive: bool = False
) -> Rollout:
    asked = [Attempted(problem, 0, world)]
    sampling = Sampling(max_tokens=6000)
    (found,) = converse(Writing(subject, turns, naive=naive), subject, asked, sampling, Address(0, "sample"))
    return found


def tools() -> ToolWorld:
    return ToolWorld(TOOLS, ConversationLimits(), 0, lambda chat, environment: Score(1.0))


def require_sampled(subject: ChatRenderer, found: Rollout, turns: Sequence[str]) -> None:
    own = [written(subject, turn) for turn in turns]
    begins = (0, *found.turns)
    assert [found.response[b : b + len(t)] for b, t in zip(begins, own, strict=True)] == own
    inside = {b + i for b, t in zip(begins, own, strict=True) for i in range(len(t))}
    assert [i in inside for i in range(len(found.response))] == list(found.mask)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.template)
def test_tools_are_called_and_heard_as_the_family_does_and_the_tokens_are_those_that_were_sampled(
    family: Family,
) -> None:
    subject, world = renderer(family), tools()
    found = attempt(subject, family.turns, world)
    require_sampled(subject, found, family.turns)
    assert (found.calls, found.wrong_calls, found.num_turns, len(found.forks)) == (2, 0, 3, family.forks)
    assert '"answer"' in subject.spelled(found.prompt), "it is told of its tool"
    read = [*(found.forks[0].prompt if found.forks else ()), *found.response]
    assert family.told in subject.spelled(read)
    # The naive way tokenises all of it again: other tokens than those that were drawn.
    naive = subject.prompt_ids([*ASKED.messages, *found.chat[:-1]], ASKED.template)
    behind = found.forks[-1] if found.forks else None
    so_far = (*(behind.prompt if behind else found.prompt), *found.response[behind.begin if behind else 0 :])
    assert naive != so_far[: len(so_far) - len(written(subject, family.turns[-1]))]
    with pytest.raises(UserError, match=r"problem toy/0: .* must not be tokenised again"):
        attempt(subject, family.turns, tools(), naive=True)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.template)
def test_a_user_who_speaks_between_turns_forks_only_what_the_template_writes_otherwise(family: Family) -> None:
    subject, plain = renderer(family), replace(ASKED, template={})
    thinks = family.template.startswith("qwen3")
    opened = "" if family.template == "qwen3_5_think" else "<think>\n"
    thought = f"{opened}Two.\n</think>\n\n" if thinks else ""
    turns = [f"{thought}Is it  3 ?", f"{thought}It is 3.", f"{thought}Bye."]
    found = attempt(subject, turns, Asking("Is it?", "Good."), plain)
    require_sampled(subject, found, turns)
    assert [fork.begin for fork in found.forks] == (list(found.turns) if thinks or family.forks else [])
    for fork in found.forks if thinks else ():
        assert "Two." not in subject.spelled(fork.prompt) and "Is it  3 ?" in subject.spelled(fork.prompt)


def test_tools_that_move_to_the_last_question_fork_the_attempt() -> None:
    family = next(f for f in FAMILIES if f.template == "mistral")
    subject = renderer(family)
    found = attempt(subject, ["Is it 3?", "It is 3.", "Bye."], Asking("Is it?", "Good."))
    assert [fork.begin for fork in found.forks] == list(found.turns)
    assert subject.spelled(found.forks[1].prompt).count("[AVAILABLE_TOOLS]") == 1
