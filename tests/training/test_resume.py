"""A run that was stopped and resumed is the run that was not, bit for bit, with everything a recipe may carry along:
a critic and its optimizer, a frozen reference, an adapter, the count of tokens."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from left_by import journal, tensors
from transformers import AutoModelForCausalLM

from upslope.config import load_settings
from upslope.errors import UserError
from upslope.learn.learner import Learner
from upslope.learn.optimizer import LocalOptimizer
from upslope.model.adapter import load_adapter
from upslope.record.checkpoint import newest
from upslope.training.held_out import HeldOut
from upslope.training.start import launch
from upslope.training.view import NullView

REWARD = """
def odd(completions, **columns):
    return [float(sum(map(ord, text)) % 2) for text in completions]
"""
MUON = ["learn.optimizer=muon", "learn.decay=wsd"]
CARRIED = {
    "a critic on a copy": ["recipe=ppo", "recipe.critic.warmup=3", "recipe.critic.rate=1"],
    "a critic on the trunk": ["recipe=ppo", "recipe.critic=shared_trunk", "recipe.critic.warmup=1"],
    "a trust region": ["recipe=trpo"],
    "matrices by Muon": ["recipe=reinforce", *MUON],
    "a reference": ["recipe=grpo", "recipe.reuse.epochs=2"],
    "an adapter": ["recipe=grpo", "learn.lora_rank=2", "recipe.regulariser.coefficient=0.5"],
    "refills": ["recipe=dapo", "recipe.reuse.minibatches=1"],
    "what is known of problems": ["recipe=reinforce-baseline", "recipe.sample.kind=learnable"],
    "weighed draws": ["recipe=reinforce-baseline", "recipe.sample.kind=learnable", "recipe.sample.weighted=true"],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(REWARD)
    rows = [{"prompt": f"{name} has {i} apples."} for i, name in enumerate(["Tom", "Sam", "Eva", "Leo"] * 4)]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def run(name: str, steps: int, extra: list[str], *, resume: bool = False) -> Path:
    settings = [
        *("model=pocket:blank", "task.data=data.jsonl", "problems=2", "recipe.sample.group_size=4", "eval.problems=0"),
        *("sample.max_tokens=5", "learn.lr=0.01", "learn.warmup=0", "device=cpu", "learn.measure_every=2"),
    ]
    options = {"task.rewards": ["mine.py:odd"], "name": name, "steps": steps}
    return launch(load_settings(None, [*settings, *extra], options), NullView, resume=resume)


def saved_start() -> Path:
    """A directory to start from: an adapter has to name its base."""
    found = newest(run("base", 1, ["recipe=reinforce"]) / "checkpoints")
    assert found is not None
    return found.folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("what", CARRIED)
def test_a_resumed_run_is_the_run_that_was_not_stopped(folder: Path, what: str, dtype: str) -> None:
    if what == "a trust region" and dtype == "bfloat16":
        pytest.skip("refused: bfloat16 carries no curvature")
    changes = [*CARRIED[what], f"learn.dtype={dtype}"]
    changes += [f"model={saved_start()}"] if "adapter" in what else []
    whole = run("whole", 4, changes)
    run("stopped", 2, changes)
    stopped = run("stopped", 4, changes, resume=True)
    assert journal(stopped) == journal(whole)
    first, second = tensors(whole), tensors(stopped)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[n], second[n]) for n in first)
    assert any("critic" in n for n in first) == ("critic" in what)
    assert (whole / "reference").is_dir() == ("critic" in what or "reference" in what)


class Defect(BaseException):
    """Something that nobody foresaw."""


@pytest.mark.parametrize("place", ["prepare", "gradient", "moved"])
@pytest.mark.parametrize("what", CARRIED)
def test_whatever_ends_a_run_saves_the_last_finished_step(
    folder: Path, monkeypatch: pytest.MonkeyPatch, what: str, place: str
) -> None:
    """Three steps, and the third breaks off: before its update, within it but before a weight moved, and after."""
    if (what, place) == ("a trust region", "gradient"):
        pytest.skip("its gradient is another one, and moves nothing either")
    changes = [*CARRIED[what], "save.every=0"]
    changes += [f"model={saved_start()}"] if "adapter" in what else []
    whole = run("whole", 4, changes)
    prepared = 0
    prepare, gradient, moved = Learner.prepare, Learner.gradient, LocalOptimizer.publish

    def counted(self: Learner, *args: Any, **kwargs: Any) -> Any:
        nonlocal prepared
        prepared += 1
        if prepared == 3 and place == "prepare":
            raise Defect
        return prepare(self, *args, **kwargs)

    def broken(self: Learner, *args: Any, **kwargs: Any) -> Any:
        found = gradient(self, *args, **kwargs)
        if prepared == 3 and place == "gradient":
            raise Defect
        return found

    def published(self: LocalOptimizer) -> None:
        moved(self)
        if prepared == 3 and place == "moved":
            raise Defect

    with monkeypatch.context() as patched:
        patched.setattr(Learner, "prepare", counted)
        patched.setattr(Learner, "gradient", broken)
        patched.setattr(LocalOptimizer, "publish", published)
        with pytest.raises(Defect):
            run("broken", 4, changes)
    saved = newest(folder / "runs" / "broken" / "checkpoints")
    assert (saved.step if saved else None) == (None if place == "moved" else 2)
    resumed = run("broken", 4, changes, resume=True)
    assert journal(resumed) == journal(whole)
    first, second = tensors(whole), tensors(resumed)
    assert first.keys() == second.keys() and all(torch.equal(t, second[name]) for name, t in first.items())


@pytest.mark.parametrize("place", ["upslope.record.attempts.write", "upslope.record.journal.append"])
@pytest.mark.parametrize("first", [True, False], ids=["before it", "after it"])
@pytest.mark.parametrize("what", ["a critic on a copy", "what is known of problems"])
def test_a_step_that_lacks_only_its_records_is_not_lost(
    folder: Path, monkeypatch: pytest.MonkeyPatch, what: str, place: str, first: bool
) -> None:
    """The third step's file of attempts, or its row: the disk is full for a moment, before it is there or after."""
    changes = [*CARRIED[what], "save.every=0"]
    whole = run("whole", 4, changes)
    room, name = place.rsplit(".", 1)
    write, calls = getattr(importlib.import_module(room), name), 0

    def full(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls != 3 or not first:
            write(*args)
        if calls == 3:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(place, full)
        with pytest.raises(UserError, match=r"^No space left on device; continue with: upslope train --resume"):
            run("full", 4, changes)
    saved = newest(folder / "runs" / "full" / "checkpoints")
    assert saved is not None and saved.step == 3
    assert saved.state["tokens"] == sum(row["num_tokens"] for row in journal(whole)[:3])
    resumed = run("full", 4, changes, resume=True)
    assert journal(resumed) == journal(whole)
    first_ones, others = tensors(whole), tensors(resumed)
    assert first_ones.keys() == others.keys() and all(torch.equal(t, others[n]) for n, t in first_ones.items())


def test_an_evaluation_that_a_stop_left_out_is_made_up_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("held-out.jsonl").write_text('{"prompt": "Tom has books."}\n')
    changes = ["recipe=reinforce", "eval.problems=1", "eval.every=2", "task.eval_data=held-out.jsonl", "save.every=0"]
    whole = run("whole", 4, changes)
    attempt = HeldOut.attempt

    def broken(self: HeldOut, step: int, samples: int, progress: Any) -> Any:
        if step == 2:
            raise Defect
        return attempt(self, step, samples, progress)

    with monkeypatch.context() as patched:
        patched.setattr(HeldOut, "attempt", broken)
        with pytest.raises(Defect):
            run("stopped", 4, changes)
    assert journal(run("stopped", 4, changes, resume=True)) == journal(whole)
    assert [row["step"] for row in journal(whole) if row["kind"] == "eval"] == [0, 2, 4]


def test_the_adapter_is_a_directory_peft_reads_and_the_base_stays_as_it_was(folder: Path) -> None:
    start = saved_start()
    adapted = run("adapted", 3, ["recipe=reinforce", "model=runs/base", "learn.lora_rank=2"])
    assert load_settings(adapted / "run.toml").model == str(start.resolve())  # whatever that run does later
    found = newest(adapted / "checkpoints")
    assert found is not None
    names = {p.name for p in found.folder.iterdir()}
    assert "adapter_model.safetensors" in names and "model.safetensors" not in names
    plain = AutoModelForCausalLM.from_pretrained(start)
    ids = torch.tensor([[5, 6, 7]])
    before = plain(ids).logits
    after = load_adapter(plain, found.folder)(ids).logits
    assert (before - after).abs().max() > 1e-4  # it learnt something
    evaluated = run("more", 1, ["recipe=reinforce", f"model={adapted}"])  # an adapter is trained on by itself
    assert (newest(evaluated / "checkpoints").folder / "adapter_model.safetensors").is_file()
    with pytest.raises(UserError, match="the model has an adapter already"):
        run("twice", 1, ["recipe=reinforce", f"model={adapted}", "learn.lora_rank=2"])


def test_a_budget_of_tokens_ends_the_run_and_is_remembered(folder: Path) -> None:
    rows = [r for r in journal(run("short", 50, ["recipe=reinforce", "tokens=100"])) if r["kind"] == "step"]
    numbers = [r["num_tokens"] for r in rows]
    assert sum(numbers) >= 100 > sum(numbers[:-1])
    again = journal(run("short", 50, ["recipe=reinforce", "tokens=100"], resume=True))
    assert len([r for r in again if r["kind"] == "step"]) == len(rows)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_the_reference_is_the_policy_as_it_began_to_the_bit(folder: Path, dtype: str) -> None:
    """Rotary frequencies cast along with the weights would put it off by more with every position. The learner scores
    both sides of a reused batch, so nothing but the reference can differ."""
    rows = journal(run("first", 1, ["recipe=grpo", "recipe.reuse.epochs=2", f"learn.dtype={dtype}"]))
    assert rows[0]["kl_reference"] == 0


def test_a_run_that_goes_on_with_an_adapter_is_penalised_to_that_adapter(folder: Path) -> None:
    lora = ["recipe=reinforce", f"model={saved_start()}", "learn.lora_rank=2", "learn.lr=0.1"]
    first = run("first", 3, lora)
    changes = ["recipe=grpo", "recipe.reuse.epochs=2", f"model={first}"]
    rows = journal(run("second", 2, changes))
    assert rows[0]["kl_reference"] == 0
    run("third", 1, changes)
    assert journal(run("third", 2, changes, resume=True)) == rows


def test_an_adapter_on_a_model_without_a_directory_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="lies in no directory"):
        run("nowhere", 1, ["recipe=reinforce", "learn.lora_rank=2"])


def test_a_critic_may_be_a_copy_of_a_model_with_an_adapter(folder: Path) -> None:
    first = run("first", 1, ["recipe=reinforce", f"model={saved_start()}", "learn.lora_rank=2"])
    rows = journal(run("second", 2, ["recipe=ppo", "recipe.critic.warmup=1", f"model={first}"]))
    assert [row["warming"] for row in rows if row["kind"] == "step"] == [0.25, 0.0]


def test_a_warm_up_that_outlasts_the_run_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="40 updates of the critic alone, and the run has 40 in all"):
        run("long", 10, ["recipe=ppo"])


def test_more_mini_batches_than_problems_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"recipe\.reuse\.minibatches = 4, and a step has problems = 2"):
        run("thin", 1, ["recipe=gspo"])


def test_the_decay_reaches_its_end_after_the_critics_warm_up(folder: Path) -> None:
    """4 steps of 2 updates, 2 of them the critic's alone: the policy has 6, and the last has 1/6 of the rate."""
    changes = ["recipe=ppo", "recipe.reuse.epochs=2", "recipe.critic.warmup=2", "learn.decay=linear"]
    rows = journal(run("decay", 4, changes))
    assert rows[-1]["lr"] == pytest.approx(0.01 / 6)
