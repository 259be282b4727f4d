"""A run on a device with little memory: it goes on in smaller pieces, says so once, and a resumed one knows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from gauges import StandInGauge
from tiny import model

from upslope.config import load_settings
from upslope.errors import UserError
from upslope.model.adapter import add_adapter
from upslope.model.policy import Policy
from upslope.training.assemble import onto
from upslope.training.start import launch
from upslope.training.view import NullView


class Told(NullView):
    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    def message(self, text: str) -> None:
        self.lines.append(text)


def run(steps: int, *, resume: bool = False) -> list[str]:
    lines: list[str] = []
    settings = [
        *("model=pocket:blank", "task.data=data.jsonl", "problems=4", "recipe.sample.group_size=4", "eval.problems=0"),
        *("sample.max_tokens=5", "learn.lr=0.01", "learn.warmup=0", "device=cpu", "save.every=1"),
        *("recipe=reinforce-baseline", "learn.measure_every=0"),
    ]
    options = {"task.rewards": ["mine.py:odd"], "name": "run", "steps": steps}
    launch(load_settings(None, settings, options), lambda: Told(lines), resume=resume)
    return [line for line in lines if "out of memory" in line]


def test_a_run_remembers_what_was_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("def odd(completions, **columns):\n    return [len(text) % 2 for text in completions]\n")
    Path("data.jsonl").write_text("".join(json.dumps({"prompt": f"Tom has {i} apples."}) + "\n" for i in range(8)))
    rows: list[int] = []
    states = Policy.states

    def limited(self: Policy, rollouts: list[object]) -> object:
        rows.append(len(rollouts))
        if len(rollouts) > 9:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return states(self, rollouts)

    monkeypatch.setattr(Policy, "states", limited)
    monkeypatch.setattr("upslope.model.policy.gauge_of", lambda device: StandInGauge(10**9))
    lines = run(2)
    assert len(lines) == 1
    assert "from now on at most half as many" in lines[0]
    (state,) = (json.loads(f.read_text()) for f in Path("runs/run/checkpoints").glob("step-000002/run_state.json"))
    assert state["caps"]["micro_tokens"] > 0
    rows.clear()
    assert run(3, resume=True) == []
    assert rows and max(rows) <= 9


def test_a_share_of_memory_is_refused_where_nothing_is_known_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["model=pocket:blank", "device=cpu", "steps=1", "learn.activations_share=0.25"]
    with pytest.raises(UserError, match=r"^learn.activations_share = 0.25 is a share of a GPU's memory, and this is"):
        launch(load_settings(None, given), NullView)


@pytest.mark.parametrize("key", ["learn.activations_share", "learn.logits_share", "sample.cache_share"])
def test_a_share_is_at_most_all_of_it(key: str) -> None:
    assert load_settings(None, [f"{key}=1"])
    with pytest.raises(UserError, match=r"is a share of free memory, in \[0, 1\], not 1.5"):
        load_settings(None, [f"{key}=1.5"])


def test_a_frozen_base_arrives_on_a_device_in_what_it_computes_in() -> None:
    """On the device of no memory at all (meta), which stands in for a GPU; on a CPU nothing changes before the learner
    is built."""
    made = add_adapter(model(dtype=torch.float32), rank=2, alpha=4, targets="all-linear", seed=0)
    assert {p.dtype for p in onto(made, torch.device("cpu"), torch.bfloat16).parameters()} == {torch.float32}
    there = onto(made, torch.device("meta"), torch.bfloat16)
    assert {p.device.type for p in there.parameters()} == {"meta"}
    assert {(p.requires_grad, p.dtype) for p in there.parameters()} == {(False, torch.bfloat16), (True, torch.float32)}
