"""Environments of OpenEnv behind a server of its own package: our tokens, its sessions, its rewards."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import templated
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import upslope as up
from upslope.config import load_settings
from upslope.errors import UserError
from upslope.model.chat_renderer import ChatRenderer
from upslope.rollout.address import Address
from upslope.rollout.base import Request
from upslope.rollout.groups import sample_groups
from upslope.rollout.scripted import ScriptedSampler
from upslope.tasks import openenv_client
from upslope.tasks.registry import open_task
from upslope.types import Rollout, Sampling

openenv = pytest.importorskip("openenv.core", reason="needs openenv-core (pip install openenv-core)")
pytestmark = pytest.mark.filterwarnings("ignore")  # the library's own
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'


def app_of(kind: str, live: set[int]) -> Any:
    """A server's application. ``live`` holds the environments that are not closed."""
    import fastmcp
    import pydantic
    from openenv.core.env_server import Action, Environment, Observation, State, create_app
    from openenv.core.env_server.mcp_environment import MCPEnvironment
    from openenv.core.env_server.mcp_types import CallToolAction, CallToolObservation

    class Guess(Action):  # type: ignore[misc]
        number: str = pydantic.Field(max_length=12)

    class Seen(Observation):  # type: ignore[misc]
        hint: str

    class Guessing(Environment):  # type: ignore[misc]
        SUPPORTS_CONCURRENT_SESSIONS = True

        def __init__(self) -> None:
            super().__init__()
            self._turns = 0
            live.add(id(self))

        def reset(self, seed: int = 0, **more: Any) -> Any:
            self._wanted = str(seed % 10)
            return Seen(hint=f"Guess, {seed}.")

        def step(self, action: Any, **more: Any) -> Any:
            self._turns += 1
            if action.number == "crash":
                raise KeyError("broken")
            right = action.number == self._wanted
            return Seen(hint=f"Not {action.number}.", reward=1.0 if right else -0.25, done=right)

        @property
        def state(self) -> Any:
            return State(step_count=self._turns)

        def close(self) -> None:
            live.discard(id(self))

    class Lending(MCPEnvironment):  # type: ignore[misc]
        SUPPORTS_CONCURRENT_SESSIONS = True

        def __init__(self) -> None:
            mcp = fastmcp.FastMCP("sums")

            @mcp.tool
            def add(a: int, b: int) -> int:
                """Add two numbers."""
                return a + b

            super().__init__(mcp)
            live.add(id(self))

        def reset(self, seed: int = 0, **more: Any) -> Any:
            return Observation()

        def step(self, action: Any, **more: Any) -> Any:
            return super().step(action, **more)

        async def step_async(self, action: Any, **more: Any) -> Any:
            found = await super().step_async(action, **more)
            if isinstance(found, CallToolObservation) and found.error is None:
                found.reward = 0.5
            return found

        def _step_impl(self, action: Any, **more: Any) -> Any:
            return Observation()

        @property
        def state(self) -> Any:
            return State()

        def close(self) -> None:
            super().close()
            live.discard(id(self))

    if kind == "tools":
        return create_app(Lending, CallToolAction, CallToolObservation, env_name="sums", max_concurrent_envs=8)
    most = 1 if kind == "narrow" else 8
    return create_app(Guessing, Guess, Seen, env_name="guessing", max_concurrent_envs=most)


class Served:
    def __init__(self, kind: str) -> None:
        import uvicorn

        self.live: set[int] = set()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        config = uvicorn.Config(app_of(kind, self.live), port=port, log_level="critical", timeout_graceful_shutdown=1)
        self.server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self.server.run, daemon=True)
        self._thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def task(self, **given: Any) -> Any:
        return open_task(f"openenv:{self.url}", **given)

    def left(self) -> int:
        """Sessions that are open still, once the server has had time to end those that are over."""
        until = time.monotonic() + 5
        while self.live and time.monotonic() < until:
            time.sleep(0.01)
        return len(self.live)

    def stop(self) -> None:
        self.server.should_exit = True
        self._thread.join(5)


@contextlib.contextmanager
def served(kind: str) -> Iterator[Served]:
    server = Served(kind)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def guessing() -> Iterator[Served]:
    with served("guessing") as server:
        yield server


def attempt(task: Any, *turns: str, seed: int = 3, most: int = 900, num: int = 1) -> list[Rollout]:
    """Attempts with these turns, character by character, each sampled token checked."""
    subject = ChatRenderer.of(templated.tokenizer("qwen2.5"))
    written = [(*(i for c in turn for i in subject.ids(c)), subject.turn_end_id) for turn in turns]
    left = {n: list(written) for n in range(num)}
    sampling = Sampling(max_tokens=most)

    def write(request: Request) -> tuple[tuple[int, ...], list[float]]:
        ids = left[request.sample].pop(0)[: request.turn(sampling).max_tokens]
        return ids, [-0.5] * len(ids)

    sampler = ScriptedSampler(write, end_ids=subject.end_ids)
    problem = next(p for s in ("train", "test") for p in sides(task, s) if p.columns["reset"].get("seed", seed) == seed)
    (found,) = sample_groups(sampler, subject, [problem], num, sampling, Address(0, "sample"), episode=task.episode)
    for rollout in found:
        begins, ends = (0, *rollout.turns), (*rollout.turns, len(rollout.response))
        for begin, end, ids in zip(begins, ends, written, strict=False):
            own = rollout.response[begin : begin + len(ids)]
            assert own == ids[: len(own)] and all(rollout.mask[begin : begin + len(own)])
            assert not any(rollout.mask[begin + len(own) : end])
    return found


def sides(task: Any, split: str) -> Any:
    try:
        return task.problems(split)
    except UserError:
        return ()


def test_turns_are_actions_and_observations_are_said(guessing: Served) -> None:
    task = guessing.task(options={"size": 20})
    assert len(task.problems("train")) + len(task.problems("test")) == 20
    subject = ChatRenderer.of(templated.tokenizer("qwen2.5"))
    for found in attempt(task, "5", "3", num=3):
        assert "Guess, 3." in subject.spelled(found.prompt) and "first observation" not in subject.spelled(found.prompt)
        assert [(m["role"], m["content"]) for m in found.chat] == [
            ("assistant", "5"),
            ("user", "Not 5."),
            ("assistant", "3"),
        ]
        assert (found.ended, found.num_turns, found.earned.reward) == ("stop", 2, 0.75)  # type: ignore[union-attr]
        assert found.earned is not None and not found.earned.is_right
    (found,) = attempt(guessing.task(options={"size": 20}, right=0.75), "5", "3")
    assert found.earned is not None and found.earned.is_right
    assert guessing.left() == 0


def test_the_last_reward_the_limit_of_turns_and_json(guessing: Served) -> None:
    task = guessing.task(options={"size": 20, "reward": "last"}, max_turns=2)
    (found,) = attempt(task, "5", "6")
    assert (found.ended, found.num_turns, found.earned.reward) == ("turns", 2, -0.25)  # type: ignore[union-attr]
    (found,) = attempt(task, "5" * 40, most=30)
    assert (found.ended, found.earned.reward) == ("length", 0.0)  # type: ignore[union-attr]
    assert [s.reward for s in task.score(task.problems("train")[:1] * 2, ["x", "crush"])] == [-0.25, -0.25]
    assert guessing.left() == 0


def test_rows_give_the_prompt_and_the_reset(guessing: Served, tmp_path: Path) -> None:
    rows = [{"prompt": "Play.", "reset": {"seed": 7}}, {"prompt": "Play well.", "reset": '{"seed": 3}'}]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = guessing.task(data=str(tmp_path / "train.jsonl"))
    (found,) = attempt(task, "3")
    assert found.earned is not None and found.earned.reward == 1.0
    subject = ChatRenderer.of(templated.tokenizer("qwen2.5"))
    assert "Play well.\n\nGuess, 3." in subject.spelled(found.prompt)
    (tmp_path / "train.jsonl").write_text(json.dumps({"prompt": "Play.", "reset": [3]}))
    with pytest.raises(UserError, match=r"train.jsonl row 1: reset must be an object of keywords"):
        sides_of = guessing.task(data=str(tmp_path / "train.jsonl"))
        sides_of.problems("train")


def test_an_action_that_is_none_is_told_and_counted_and_a_crash_stops(guessing: Served) -> None:
    task = guessing.task(options={"size": 20})
    (found,) = attempt(task, "5" * 20, "3")
    assert "error" in json.loads(found.chat[1]["content"]) and found.earned is not None
    assert found.earned.parts == {"reward": 1.0, "steps": 1.0, "refused": 1.0}
    with pytest.raises(UserError, match=rf"problem openenv/.*{guessing.url}.*broken.*EXECUTION_ERROR.*on_error=tell"):
        attempt(task, "crash")
    assert guessing.left() == 0
    (found,) = attempt(guessing.task(options={"size": 20, "on_error": "tell"}), "crash", "3")
    assert "broken" in found.chat[1]["content"] and found.earned is not None and found.earned.reward == 1.0
    assert guessing.left() == 0


def test_tools_are_lent_and_called_at_the_server(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(json.dumps({"prompt": "What is 1 + 2?"}))
    with served("tools") as server:
        task = server.task(data=str(tmp_path / "train.jsonl"), whole=True)
        wrong = CALL.replace('"add"', '"sub"')
        (found,) = attempt(task, CALL, wrong, CALL.replace("1", '"x"'), "It is 3.")
        subject = ChatRenderer.of(templated.tokenizer("qwen2.5"))
        assert "Add two numbers." in subject.spelled(found.prompt)
        assert [m["role"] for m in found.chat] == ["assistant", "tool"] * 3 + ["assistant"]
        assert found.chat[1]["content"] == "3" and "there is no tool 'sub'" in found.chat[3]["content"]
        assert "error" in found.chat[5]["content"]
        assert (found.calls, found.wrong_calls, found.ended) == (3, 2, "stop")
        assert found.earned is not None and found.earned.reward == 0.5
        assert server.left() == 0


def test_a_server_without_room_says_so_and_one_that_has_some_soon_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with served("narrow") as server:
        task = server.task(options={"size": 20})
        for _ in range(4):
            (found,) = attempt(task, "3")
            assert found.earned is not None and found.earned.reward == 1.0
        monkeypatch.setattr(openenv_client, "ROOM", 0.2)
        with pytest.raises(UserError, match=r"no room for another session .*max_concurrent_envs"):
            attempt(task, "3", num=2)
        assert server.left() == 0


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"action": "numbr"}, r"option 'action' of task openenv:.*did you mean 'number'\?"),
        ({"observation": "hnt"}, r"option 'observation' of task .*did you mean 'hint'\?"),
        ({"reward": "mean"}, r"option 'reward' of task openenv:.*known: last, sum"),
        ({"on_error": "go"}, "option 'on_error'"),
        ({"seconds": 0.0}, "option 'seconds'"),
        ({"size": 0}, "option 'size'"),
        ({"sise": 3}, r"has no option 'sise'; did you mean 'size'\?"),
    ],
)
def test_options_are_looked_at(guessing: Served, options: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=why) as error:
        guessing.task(options=options)
    assert "\n" not in str(error.value)


def tiny() -> tuple[Any, Any]:
    tokenizer = templated.tokenizer("qwen2.5")
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, bos_token_id=None, **shape)
    return LlamaForCausalLM(config), tokenizer


def guesses(policy: Any, every: Callable[[], object] = int) -> ScriptedSampler:
    """The right answer at last, or never, by turns. ``every`` is called with each."""
    subject: ChatRenderer = policy.renderer

    def write(request: Request) -> tuple[list[int], list[float]]:
        every()
        wanted = subject.spelled(request.prompt).partition("Guess, ")[2].partition(".")[0][-1]
        said = "x" if request.begin == 0 else wanted if request.sample % 2 else "y"
        ids = [*subject.ids(said), subject.turn_end_id]
        return ids, [-3.0] * len(ids)

    return ScriptedSampler(write, end_ids=subject.end_ids)


def test_a_run_learns_at_the_server_and_stops_with_a_checkpoint_where_that_goes_away(tmp_path: Path) -> None:
    with served("guessing") as server:
        given: dict[str, Any] = {
            "task": server.task(options={"size": 20, "seconds": 5.0}, max_turns=2, right=0.75),
            "recipe": {"name": "grpo", "regulariser": "no_penalty", "sample": {"group_size": 2}},
            "problems": 2,
            "progress": False,
            "eval": {"problems": 2},
            "sample": {"max_tokens": 200},
        }
        run = up.train(tiny(), steps=2, sampler=guesses, folder=tmp_path / "run", **given)
        assert [row["reward"] for row in run.rows("step")] == [(0.75 - 0.5) / 2] * 2
        assert all(row["grad_norm"] > 0 and row["turns"] == 2.0 for row in run.rows("step"))
        subject = ChatRenderer.of(tiny()[1])
        for attempt in pq.read_table(tmp_path / "run" / "rollouts" / "step-000001.parquet").to_pylist():
            own = [token for token, mine in zip(attempt["response"], attempt["mask"], strict=True) if mine]
            world = [token for token, mine in zip(attempt["response"], attempt["mask"], strict=True) if not mine]
            assert subject.spelled(own).startswith("x<|im_end|>") and "Not x." in subject.spelled(world)
            assert attempt["reward"] == (0.75 if attempt["sample"] % 2 else -0.5)
        assert server.left() == 0

        turns = iter(range(100))

        def stops() -> None:
            if next(turns) == 4 + 8 + 2:  # an evaluation, a step, and amid the second
                server.stop()

        with pytest.raises(UserError, match=f"problem openenv/train/.*: {server.url} (ended|cannot)"):
            up.train(tiny(), steps=3, sampler=lambda p: guesses(p, stops), folder=tmp_path / "away", **given)
        assert (tmp_path / "away" / "checkpoints" / "step-000001" / "manifest.json").is_file()


def test_a_limit_of_turns_is_a_setting_of_such_a_task() -> None:
    given = ["task.name=openenv:http://127.0.0.1:1", "task.max_turns=2", "task.max_seconds=9"]
    assert load_settings(None, given).task.max_turns == 2
    with pytest.raises(UserError, match="tool_seconds is for tools or an environment"):
        load_settings(None, [*given, "task.tool_seconds=3"])
