"""Runs whose attempts are conversations: what is recorded, learnt from, paid by turn, and brought back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow.parquet as pq
import pytest
import templated
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import upslope as up
from upslope.errors import UserError
from upslope.model.chat_renderer import ChatRenderer
from upslope.rollout.base import Request
from upslope.rollout.scripted import ScriptedSampler
from upslope.training.scored import tokens_of_turns
from upslope.types import Rollout, Score

THINKING = ("<think>\nTwo.\n</think>\n\nIs it 4?", "Bye.")


class Asks(up.Episode):
    stops = ()

    def __init__(self, number: int) -> None:
        self._number, self._asked = number, False

    def reply(self, text: str) -> str | None:
        if self._asked:
            return None
        self._asked = True
        return "Why?"

    def score(self, chat: Sequence[Any]) -> Score:
        return Score(float(self._number % 2), by_turn=(0.25, 0.5))


class Asking:
    name, reads_answers, max_tokens = "asking", False, 200

    def __init__(self) -> None:
        self._made = 0

    def problems(self, split: str) -> list[up.Problem]:
        return [up.Problem(f"{split}/0", ({"role": "user", "content": "2 + 2?"},))]

    def episode(self, problem: up.Problem) -> Asks:
        self._made += 1
        return Asks(self._made)

    def score(self, problems: Any, responses: Any) -> list[Score]:
        raise AssertionError("the world says what was earned")


def tiny() -> tuple[Any, Any]:
    tokenizer = templated.tokenizer("qwen3")
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, bos_token_id=None, **shape)
    return LlamaForCausalLM(config), tokenizer


def thinks(policy: Any) -> ScriptedSampler:
    subject: ChatRenderer = policy.renderer
    turns: dict[tuple[str, int], int] = {}

    def write(request: Request) -> tuple[list[int], list[float]]:
        number = turns[request.problem_id, request.sample] = turns.get((request.problem_id, request.sample), -1) + 1
        tokens = [*subject.ids(THINKING[number % 2]), subject.turn_end_id]
        return tokens, [-3.0] * len(tokens)

    return ScriptedSampler(write, end_ids=subject.end_ids)


def test_a_run_learns_from_forked_conversations_and_says_so(tmp_path: Any) -> None:
    recipe = {"name": "grpo", "regulariser": "no_penalty"}
    run = up.train(
        tiny(),
        task=Asking(),
        recipe=recipe,
        steps=1,
        problems=1,
        sampler=thinks,
        folder=tmp_path / "run",
        progress=False,
        eval={"problems": 0},
        save={"every": 0},
    )
    (row,) = run.rows("step")
    assert (row["turns"], row["forks"], row["calls"], row["unfinished"]) == (2.0, 8, 0.0, 0.0)
    assert row["reward"] == 0.5 and row["grad_norm"] > 0  # rewards on the way are not counted in it
    table = pq.read_table(tmp_path / "run" / "rollouts" / "step-000000.parquet").to_pylist()
    for attempt in table:
        assert attempt["turns"] == attempt["forks"] and len(attempt["turns"]) == 1
        assert len(attempt["learner_logp"]) == len(attempt["response"]) and all(x < 0 for x in attempt["learner_logp"])


def test_rewards_by_turn_are_paid_at_the_turn_s_last_choice() -> None:
    mask = (True, True, False, True, True, False)
    rollout = Rollout("a", 0, (1,), (2, 3, 4, 5, 6, 7), mask, None, 0, "length", "", turns=(3,))
    assert tokens_of_turns(rollout, Score(1.0, by_turn=(0.5, 2.0)), "") == (0.0, 0.5, 0.0, 0.0, 2.0, 0.0)
    assert tokens_of_turns(rollout, Score(1.0, by_turn=(0.5,)), "") == (0.0, 0.5, 0.0, 0.0, 0.0, 0.0)
    with pytest.raises(UserError, match=r"the reward has the rewards .* at most one for each of the 2 turns"):
        tokens_of_turns(rollout, Score(1.0, by_turn=(0.5, 1.0, 2.0)), "the reward")
