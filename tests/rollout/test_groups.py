"""From problems to groups: prompts from messages, text from responses, in the order of problems and samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from tiny import TOKENIZER, policy, problems

from upslope.errors import UserError
from upslope.model.chat_renderer import ChatRenderer
from upslope.rollout.address import Address
from upslope.rollout.base import Finished, Progress, Request
from upslope.rollout.groups import sample_groups
from upslope.rollout.local import LocalSampler
from upslope.rollout.scripted import ScriptedSampler
from upslope.tasks.calculator import Calculator
from upslope.types import Rollout, Sampling

HERE, SAMPLING = Address(0, "sample", 3), Sampling(max_tokens=5)
CHAT = ChatRenderer.of(TOKENIZER)
WORDS = [TOKENIZER.convert_tokens_to_ids(word) for word in ("3", "4", "7")]


def by_number(request: Request) -> tuple[list[int], list[float]]:
    """Problem 1, sample 2: the word of the problem, then that of the sample, then the end."""
    tokens = [WORDS[int(request.problem_id[4:])], WORDS[request.sample], CHAT.end_ids[0]]
    return tokens, [-1.0, -2.0, -3.0]


class Backwards(ScriptedSampler):
    """Ends the requests from the last to the first."""

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        address: Address,
        progress: Progress | None = None,
        finished: Finished | None = None,
    ) -> list[Rollout]:
        def turned(place: int, rollout: Rollout) -> None:
            assert finished is not None
            finished(len(requests) - 1 - place, rollout)

        return super().generate(requests[::-1], sampling, address, progress, turned)[::-1]


@pytest.mark.parametrize("kind", [ScriptedSampler, Backwards])
def test_groups_follow_the_problems_and_samples_whoever_ends_first(kind: type[ScriptedSampler]) -> None:
    told = []
    sampler = kind(by_number, end_ids=CHAT.end_ids)
    groups = sample_groups(
        sampler, CHAT, problems(3), 2, SAMPLING, HERE, finished=lambda index, group: told.append((index, group))
    )
    assert [[(r.problem_id, r.sample) for r in g] for g in groups] == [
        [(f"toy/{i}", s) for s in (0, 1)] for i in (0, 1, 2)
    ]
    assert sorted(told, key=lambda t: t[0]) == list(enumerate(groups))
    assert [index for index, _ in told] == ([0, 1, 2] if kind is ScriptedSampler else [2, 1, 0])


def test_prompts_and_text_are_the_renderers() -> None:
    sampler = ScriptedSampler(by_number, end_ids=CHAT.end_ids)
    groups = sample_groups(sampler, CHAT, problems(3), 3, SAMPLING, HERE)
    for problem, group in zip(problems(3), groups, strict=True):
        assert {r.prompt for r in group} == {CHAT.prompt_ids(problem.messages)}
    assert [[r.text for r in g] for g in groups] == [[f"{a} {b}" for b in "347"] for a in "347"]
    assert all(r.response[-1] == CHAT.end_ids[0] and r.logp == (-1.0, -2.0, -3.0) for g in groups for r in g)


def test_a_group_is_complete_before_it_is_told_of() -> None:
    subject, sizes = policy(), []
    subject.renderer = replace(subject.renderer, end_ids=tuple(range(1, 180, 5)))  # attempts end at different times
    groups = sample_groups(
        LocalSampler(subject, max_rows=3),
        subject.renderer,
        problems(4),
        3,
        Sampling(max_tokens=12),
        HERE,
        finished=lambda index, group: sizes.append((index, [r.sample for r in group])),
    )
    assert sorted(sizes) == [(index, [0, 1, 2]) for index in range(4)]
    assert len({len(r.response) for g in groups for r in g}) > 2


def test_a_renderer_sees_every_prompt_once_and_every_response_once() -> None:
    seen: list[object] = []

    class Noting(ChatRenderer):
        def prompt_ids(self, messages):  # type: ignore[no-untyped-def]
            seen.append("prompt")
            return super().prompt_ids(messages)

        def text(self, response):  # type: ignore[no-untyped-def]
            seen.append("text")
            return super().text(response)

    sampler = ScriptedSampler(by_number, end_ids=CHAT.end_ids)
    sample_groups(sampler, Noting(TOKENIZER, CHAT.end_ids), problems(2), 3, SAMPLING, HERE, finished=lambda *_: None)
    assert seen == ["prompt"] * 2 + ["text"] * 6


class Quiet(ScriptedSampler):
    """Tells of nothing before it is through, as the signature allows."""

    def generate(self, requests, sampling, address, progress=None, finished=None):  # type: ignore[no-untyped-def]
        return super().generate(requests, sampling, address)[: self.most]

    most: int | None = None


def test_a_sampler_may_tell_of_nothing_before_it_is_through() -> None:
    asked, told = problems(2), []
    made = sample_groups(
        Quiet(by_number, end_ids=CHAT.end_ids), CHAT, asked, 2, SAMPLING, HERE, None, lambda i, _: told.append(i)
    )
    assert [[r.text.split() for r in g] for g in made] == [[["3", "3"], ["3", "4"]], [["4", "3"], ["4", "4"]]]
    assert told == [0, 1]


def test_a_sampler_that_loses_a_request_is_named() -> None:
    lossy = Quiet(by_number, end_ids=CHAT.end_ids)
    lossy.most = 3
    with pytest.raises(UserError, match="the sampler Quiet returned 3 rollouts for 4 requests"):
        sample_groups(lossy, CHAT, problems(2), 2, SAMPLING, HERE)


def test_a_sampler_that_does_not_pause_is_not_given_a_world() -> None:
    deaf = Quiet(by_number, end_ids=CHAT.end_ids)
    deaf.listens = False
    with pytest.raises(UserError, match="the sampler Quiet does not pause for the task's world"):
        sample_groups(deaf, CHAT, problems(1), 1, SAMPLING, HERE, episode=lambda problem: Calculator())
    assert deaf.asked == []
