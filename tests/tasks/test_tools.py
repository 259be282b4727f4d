"""Tools as people write them: read from what a policy writes, called within limits, and told to the model."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import templated

from upslope.errors import UserError
from upslope.model.chat_renderer import ChatRenderer
from upslope.rollout.address import Address
from upslope.rollout.base import Request
from upslope.rollout.groups import sample_groups
from upslope.rollout.scripted import ScriptedSampler
from upslope.tasks.episode import ConversationLimits
from upslope.tasks.registry import open_task
from upslope.tasks.response import Standing
from upslope.tasks.tools.call import Call
from upslope.tasks.tools.toolbox import Tool, Toolbox, named
from upslope.tasks.tools.worlds import EnvironmentWorld
from upslope.training.scored import score
from upslope.types import Group, Problem, Sampling

HERE = Address(0, "sample")
TRL_FILE = '''
def add(a: int, b: int) -> int:
    """
    Add two numbers.

    Args:
        a: The first.
        b: The second.

    Returns:
        The sum.
    """
    return a + b


async def later(text: str) -> str:
    """
    Say it later.

    Args:
        text: What to say.
    """
    return text + "!"


class Counter:
    def __init__(self):
        self.count = 0

    def reset(self, start=0, **kwargs):
        self.count = start
        return f" It stands at {start}."

    def raise_by(self, step: int) -> str:
        """
        Raise the counter.

        Args:
            step: By how much.
        """
        self.count += step
        return f"It stands at {self.count}."

    def get_reward(self) -> float:
        return float(self.count == 5)

    def _hidden(self):
        raise AssertionError

    @property
    def never(self):
        raise AssertionError


class Silent(Counter):
    def reset(self, start=0):
        self.count = start


def seen(completions, environments=None, **kwargs):
    counts = [e.count for e in environments] if environments else [0] * len(completions)
    return [float(len(c)) + count for c, count in zip(completions, counts)]
'''


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("trl_file.py").write_text(TRL_FILE)
    rows = [{"id": f"r/{i}", "prompt": [{"role": "user", "content": "Count to 5."}], "start": i} for i in range(2)]
    for side in ("train", "test"):
        Path(f"{side}.jsonl").write_text("".join(json.dumps({**r, "id": f"{side}/{r['id']}"}) + "\n" for r in rows))
    return tmp_path


def test_a_tool_that_raises_or_takes_too_long_answers_with_that() -> None:
    hang = threading.Event()

    def broken(x: float) -> float:
        return 1 / x

    def slow() -> None:
        hang.wait(30)

    box = Toolbox(named([broken, slow]), seconds=0.05)
    assert json.loads(box.answer(Call("broken", {"x": 0})).text)["error"] == "ZeroDivisionError: division by zero"
    assert json.loads(box.answer(Call("slow")).text)["error"] == "it took longer than 0.05 s"
    hang.set()
    assert box.answer(Call("broken", {"x": 2})).text == "0.5"


def saying(subject: ChatRenderer, turns: Callable[[Request], Sequence[str]]) -> ScriptedSampler:
    asked: dict[tuple[str, int], int] = {}

    def write(request: Request) -> tuple[list[int], list[float]]:
        number = asked[request.problem_id, request.sample] = asked.get((request.problem_id, request.sample), -1) + 1
        tokens = [*subject.ids(turns(request)[number]), subject.turn_end_id]
        return tokens, [-0.5] * len(tokens)

    return ScriptedSampler(write, end_ids=subject.end_ids)


def renderer(family: str) -> ChatRenderer:
    if family != "mistral_tools":
        return ChatRenderer.of(templated.tokenizer(family))
    template = (templated.FOLDER / "mistral_tools.jinja").read_text(encoding="utf-8")
    return ChatRenderer.of(templated.tokenizer("mistral", template, ("[TOOL_CALLS]", "[TOOL_RESULTS]")))


def attempted(task: Any, family: str, *turns: str, num: int = 1, **more: Any) -> list[Group]:
    subject = renderer(family)
    problems = task.problems("train")[:num]
    sampler = saying(subject, lambda _: turns)
    attempts = sample_groups(
        sampler, subject, problems, 1, Sampling(max_tokens=900), HERE, episode=task.episode, **more
    )
    return score(task, subject, problems, attempts)


def call_in(family: str, name: str, **arguments: Any) -> str:
    written = json.dumps({"name": name, "parameters" if family == "llama3" else "arguments": arguments})
    if family == "mistral_tools":
        return f"[TOOL_CALLS] [{written}]"
    if family in ("qwen2.5", "qwen3"):
        return f"<tool_call>\n{written}\n</tool_call>"
    return written if family == "llama3" else f"call: {name} {json.dumps(arguments)}"


@pytest.mark.parametrize("family", ["qwen2.5", "qwen3", "llama3", "mistral", "mistral_tools", "gemma", "smollm2"])
def test_a_file_written_for_trl_works_unchanged_with_every_template(files: Path, family: str) -> None:
    task = open_task("user", data=".", tools=("trl_file.py:add,later",), rewards=("trl_file.py:seen",))
    call = call_in(family, "add", a=2, b=3)
    turns = (call, call_in(family, "later", text="five"), "It is 5.")
    ((rollout,),) = [g.rollouts for g in attempted(task, family, *turns)]
    assert (rollout.calls, rollout.wrong_calls, rollout.ended, rollout.num_turns) == (2, 0, "stop", 3)
    call = call.removeprefix("[TOOL_CALLS]")  # rewards read no special token
    assert [m["content"] for m in rollout.chat] == [call, "5", rollout.chat[2]["content"], "five!", "It is 5."]
    assert rollout.reward == 5 and rollout.answer == "It is 5."
    subject = renderer(family)
    told, heard = subject.spelled(rollout.prompt), subject.spelled(rollout.response)
    assert "The first." in told or family in ("qwen3", "llama3"), "the schema has the docstring's words"
    assert "add" in told and "five!" in heard
    chosen = [i for i, mine in zip(rollout.response, rollout.mask, strict=True) if mine]
    assert subject.text(chosen) == call + rollout.chat[2]["content"] + "It is 5."


def test_an_environment_written_for_trl_works_unchanged(files: Path) -> None:
    """One of its own for each attempt, which begins as its row says, has its methods for tools, and judges."""
    task = open_task("user", data=".", environment="trl_file.py:Counter")
    turns = [call_in("qwen2.5", "raise_by", step=2), call_in("qwen2.5", "raise_by", step=3), "Done."]
    first, second = (group.rollouts[0] for group in attempted(task, "qwen2.5", *turns, num=2))
    assert [r.reward for r in (first, second)] == [1.0, 0.0]
    assert [m["content"] for m in second.chat if m["role"] == "tool"] == ["It stands at 3.", "It stands at 6."]
    subject = ChatRenderer.of(templated.tokenizer("qwen2.5"))
    told = subject.spelled(second.prompt)
    assert "Count to 5. It stands at 1." in told and '"raise_by"' in told
    assert not any(name in told for name in ("reset", "get_reward", "_hidden", "never"))
    task.check_rewards()


@pytest.mark.parametrize("family", ["qwen2.5", "llama3", "smollm2"])
def test_a_call_that_the_prompt_begins_is_read_from_its_beginning_on(files: Path, family: str) -> None:
    """Once: what the policy writes next is a turn of its own. Rewards and gradients are of its own words alone."""
    whole = call_in(family, "raise_by", step=2)
    begun, rest = whole[: whole.index("2")], whole[whole.index("2") :]
    rows = [{"prompt": [{"role": "user", "content": "Count."}, {"role": "assistant", "content": begun}], "start": 1}]
    Path("train.jsonl").write_text(json.dumps(rows[0]) + "\n")
    task = open_task("user", data="train.jsonl", tools=("trl_file.py:add",), environment="trl_file.py:Silent")
    ((rollout,),) = [g.rollouts for g in attempted(task, family, rest, call_in(family, "raise_by", step=2), "Done.")]
    assert (rollout.calls, rollout.wrong_calls, rollout.num_turns, rollout.forks) == (2, 0, 3, ())
    assert [m["content"] for m in rollout.chat if m["role"] == "tool"] == ["It stands at 3.", "It stands at 5."]
    assert rollout.chat[0]["content"] == rest and rollout.reward == 1.0
    subject = ChatRenderer.of(templated.tokenizer(family))
    assert subject.spelled(rollout.prompt).endswith(begun)
    chosen = [i for i, mine in zip(rollout.response, rollout.mask, strict=True) if mine]
    assert subject.text(chosen) == rest + rollout.chat[2]["content"] + "Done."


def test_rewards_see_the_environment_and_are_added_to_its_own(files: Path) -> None:
    task = open_task("user", data=".", environment="trl_file.py:Counter", rewards=("trl_file.py:seen",))
    ((rollout,),) = [g.rollouts for g in attempted(task, "qwen2.5", call_in("qwen2.5", "raise_by", step=5), "Done.")]
    assert rollout.score.parts == {"seen": 3.0 + 5.0, "Counter": 1.0} and rollout.reward == 9.0


def test_what_an_environment_pays_is_right_from_task_right_on(files: Path) -> None:
    """With no reward function beside it; where nothing pays, there is still nothing that could be right."""
    for least, right in ((0.5, [True, False]), (1.5, [False, False])):
        task = open_task("user", data=".", environment="trl_file.py:Counter", right=least)
        found = attempted(task, "qwen2.5", call_in("qwen2.5", "raise_by", step=5), "Done.", num=2)
        assert [group.rollouts[0].score.right for group in found] == right and task.says_right
    with pytest.raises(UserError, match=r"task.right = 2: the task has no reward that could reach it"):
        open_task("user", data=".", tools=("trl_file.py:add",), right=2.0)


def test_rewards_are_given_all_tokens_that_were_chosen_and_how_far_the_run_is(files: Path) -> None:
    Path("asks.py").write_text(
        "def asks(completions, completion_ids, trainer_state, **kwargs):\n"
        "    assert type(completions[0][-1]['content']) is str\n"
        "    return [1000.0 * trainer_state.global_step + trainer_state.max_steps + len(ids) + ids[0] / 1000\n"
        "            for ids in completion_ids]\n"
    )
    task = open_task("user", data=".", tools=("trl_file.py:add",), rewards=("asks.py:asks",))
    turns = (call_in("qwen2.5", "add", a=2, b=3), "It is 5.")
    ((rollout,),) = [g.rollouts for g in attempted(task, "qwen2.5", *turns, standing=Standing(7, 90))]
    chosen = [i for i, own in zip(rollout.response, rollout.mask, strict=True) if own]
    assert len(chosen) < len(rollout.response)
    assert rollout.reward == pytest.approx(7090 + len(chosen) + chosen[0] / 1000)
    assert all(type(message["content"]) is str for message in rollout.chat)


def test_wrong_calls_are_counted_and_the_conversation_goes_on_to_its_last_turn_whose_calls_are_not_made(
    files: Path,
) -> None:
    task = open_task("user", data=".", environment="trl_file.py:Counter", max_turns=2)
    raised = call_in("qwen2.5", "raise_by", step=5)
    ((rollout,),) = [g.rollouts for g in attempted(task, "qwen2.5", f"<tool_call>add</tool_call>{raised}", raised)]
    assert (rollout.calls, rollout.wrong_calls, rollout.ended) == (2, 1, "turns")
    assert rollout.reward == 1.0 and [m["role"] for m in rollout.chat][-1] == "assistant"


def test_the_same_files_make_the_same_task_and_others_another(files: Path) -> None:
    specs = ("trl_file.py:add", "trl_file.py:add", "trl_file.py:later")
    made = [open_task("user", data=".", tools=(each,)).fingerprint() for each in specs]
    assert made[0] == made[1] != made[2]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"tools": ("trl_file.py:ad",)}, "trl_file.py has no 'ad'.*add"),
        ({"tools": ("trl_file.py:add", "trl_file.py:add")}, "two tools are called 'add'"),
        ({"tools": ("trl_file.py:TRL",)}, "has no 'TRL'"),
        ({"environment": "trl_file.py:add"}, "environment add cannot be made: TypeError"),
        ({"tools": ("trl_file.py:add",), "rewards": ("trl_file.py:seen",), "reward_workers": 1}, "leave task.reward_w"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(files: Path, settings: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=why):
        open_task("user", data=".", **settings)


def test_a_tool_without_hints_is_refused_by_name(files: Path) -> None:
    Path("bare.py").write_text("def bare(x):\n    return x\n")
    task = open_task("user", data=".", tools=("bare.py:bare",), rewards=("trl_file.py:seen",))
    with pytest.raises(UserError, match=r"tool 'bare' cannot be described: .*type hint"):
        attempted(task, "qwen2.5", "Done.")


def test_a_tool_is_named_as_its_function() -> None:
    assert repr(named([max])) == "(Tool('max'),)" and Tool("a", max) != Tool("b", max)


def test_an_environment_of_a_notebook_has_no_file_and_its_crash_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)

    def reset(self: Any) -> None:
        raise ValueError("no")

    made = type("Here", (), {"__module__": "__main__", "reset": reset})
    world = EnvironmentWorld(made, Problem("a", ()), (), ConversationLimits(), 0.0, lambda chat, environment: None)
    with pytest.raises(UserError, match=r"Here\.reset\(\) crashed: ValueError: no"):
        world.opening(())
