"""Environments of OpenEnv behind a server of its own package: our tokens, its sessions, its rewards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import templated
from openenv_served import Served, attempt, served

from upslope.errors import UserError
from upslope.model.chat_renderer import ChatRenderer
from upslope.tasks import openenv_client

pytest.importorskip("openenv.core", reason="needs openenv-core (pip install openenv-core)")
pytestmark = pytest.mark.filterwarnings("ignore")  # the library's own
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'


@pytest.fixture(scope="module")
def guessing() -> Iterator[Served]:
    with served("guessing") as server:
        yield server


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
    assert found.earned.parts == {"steps": 1.0, "refused": 1.0}
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
