"""Runs at a server of OpenEnv's own package: what is learnt from, and what is left when the server goes away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import templated
import torch
from openenv_served import served
from transformers import LlamaConfig, LlamaForCausalLM

import upslope as up
from upslope.config import load_settings
from upslope.errors import UserError
from upslope.model.chat_renderer import ChatRenderer
from upslope.rollout.base import Request
from upslope.rollout.scripted import ScriptedSampler

pytest.importorskip("openenv.core", reason="needs openenv-core (pip install openenv-core)")
pytestmark = pytest.mark.filterwarnings("ignore")  # the library's own


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
