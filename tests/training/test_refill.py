"""Dynamic sampling: a step is filled with mixed groups, within a budget, the same on every run; or the run ends and
says why (pitfall 25: sampling on for ever where no group is mixed)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import TOKENIZER, group, problems

from upslope.algo.sample import Attempts, mixed, rewarded
from upslope.config import load_settings
from upslope.errors import Exhausted, UserError
from upslope.model.chat_renderer import ChatRenderer
from upslope.rollout.scripted import ScriptedSampler
from upslope.tasks.base import Task
from upslope.training.collect import Collector
from upslope.training.start import launch
from upslope.training.view import NullView
from upslope.types import Sampling, Score

NUM = 24


class Coin(Task):
    """Problems whose number is divisible by ``every`` get rewards that differ within a group; others are all equal."""

    name = "coin"

    def __init__(self, every):
        self.every, self.asked = every, []

    def problems(self, split):
        return problems(NUM)

    def demonstrations(self):
        return []

    def documents(self):
        return []

    def score(self, asked, responses):
        self.asked += sorted({p.id for p in asked})
        seen: dict[str, int] = {}
        scores = []
        for p in asked:
            seen[p.id] = seen.get(p.id, 0) + 1
            lucky = self.every and int(p.id[4:]) % self.every == 0
            scores.append(Score(float(lucky and seen[p.id] == 1)))
        return scores


def collector(every, per_step=4):
    """Every attempt writes the end at once: the coin does not read it."""
    renderer = ChatRenderer.of(TOKENIZER)
    sampler = ScriptedSampler(lambda request: (renderer.end_ids[:1], (-1.0,)), end_ids=renderer.end_ids)
    return Collector(Coin(every), sampler, renderer, Sampling(max_tokens=2), seed=0, per_step=per_step)


@pytest.mark.parametrize("every", [1, 2, 3, 5])
def test_the_step_is_full_of_mixed_groups_and_no_problem_is_tried_twice(every):
    found = collector(every)(Attempts(3, keep=mixed, refill=6.0), step=1)
    assert len(found.kept) == 4
    assert all(len({r.reward for r in g.rollouts}) > 1 for g in found.kept)
    tried = [g.problem.id for g in found.attempted]
    assert len(tried) == len(set(tried)) <= 24
    assert {g.problem.id for g in found.kept} <= set(tried)


def test_the_first_mixed_groups_are_kept_in_the_order_they_were_tried():
    """Taking later ones would let how long a group took, or anything else about the end of a step, choose."""
    for every, step in ((2, 0), (3, 1), (5, 2)):
        found = collector(every)(Attempts(3, keep=mixed, refill=6.0), step=step)
        assert found.kept == [g for g in found.attempted if mixed(g) is not None][:4]


@pytest.mark.parametrize(
    ("rewards", "kept"),
    [((-1.0, 0.0), True), ((-1.0, -0.5), True), ((0.5, 1.0), True), ((-1.0, -1.0), False), ((1.0, 1.0), False)],
)
def test_mixed_groups_are_those_whose_rewards_differ_whatever_their_sign(rewards, kept):
    made = group("p", [1], [[5], [6]], rewards)
    assert mixed(made) is (made if kept else None)


def test_a_refill_is_a_function_of_the_step_and_follows_what_the_step_took():
    sample = Attempts(3, keep=mixed, refill=6.0)
    again = [collector(3)(sample, step=2) for _ in range(2)]
    assert again[0] == again[1]
    plain = collector(3)(Attempts(3), step=2)
    assert again[0].attempted[:4] == plain.attempted  # the first share of the step is what it would have been
    other = collector(3)(sample, step=3)
    assert [g.problem.id for g in other.attempted] != [g.problem.id for g in again[0].attempted]


def test_enough_at_once_tries_no_further():
    subject = collector(1)
    subject(Attempts(3, keep=mixed, refill=6.0), step=0)
    assert len(subject._task.asked) == 4


def test_the_budget_ends_it_with_the_cause():
    """8 problems may be tried for a step of 4; none of them is mixed, all rewards being 0."""
    subject = collector(0)
    with pytest.raises(Exhausted) as cause:
        subject(Attempts(3, keep=mixed, refill=2.0), step=5)
    told = str(cause.value)
    assert told.startswith("step 5: of 8 problems tried, 0 gave a group that mixed keeps, and 4 were wanted")
    assert "(0 problems had all attempts rewarded alike above 0, 8 at 0 or below)" in told
    assert "recipe.sample.refill (now 2)" in told
    assert len(subject._task.asked) == 8


def test_the_task_itself_may_run_out_of_problems():
    with pytest.raises(Exhausted, match=f"of {NUM} problems tried, 2 gave"):
        collector(12)(Attempts(3, keep=mixed, refill=1000.0), step=0)


def test_a_refill_of_rewarded_attempts_counts_groups():
    found = collector(3)(Attempts(3, keep=rewarded, refill=6.0), step=0)
    assert len(found.kept) == 4
    assert all(r.reward > 0 for g in found.kept for r in g.rollouts)


REWARDS = """
seen = 0

def fading(completions, **columns):
    '''Mixed rewards for the four groups of two steps, then none.'''
    global seen
    first, seen = seen, seen + len(completions)
    return [float(i < 8 and i % 2 == 0) for i in range(first, seen)]

def never(completions, **columns):
    return [0.0] * len(completions)
"""


def launched(reward):
    rows = [{"prompt": f"{name} has apples."} for name in ("Tom", "Sam", "Eva", "Leo")]
    Path("data.jsonl").write_text("".join(json.dumps({**row, "split": "train"}) + "\n" for row in rows))
    Path("mine.py").write_text(REWARDS)
    overrides = [
        "model=pocket:blank",
        "recipe=dapo",
        "recipe.reuse.minibatches=1",
        "recipe.sample.group_size=2",
        "eval.problems=0",
        "steps=9",
    ]
    overrides += ["task.data=data.jsonl", "problems=2", "sample.max_tokens=3", "device=cpu", "name=run"]
    return launch(load_settings(None, overrides, {"task.rewards": [f"mine.py:{reward}"]}), NullView)


def test_a_run_with_nothing_left_to_learn_from_ends_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = launched("fading")
    rows = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    assert [r["kind"] for r in rows] == ["step", "step", "end"]
    assert rows[-1]["step"] == 2 and rows[-1]["cause"].startswith("step 2: of 4 problems tried, 0 gave a group")
    assert (run / "checkpoints" / "step-000002" / "manifest.json").is_file()


def test_a_run_that_never_had_anything_to_learn_from_is_a_mistake_to_mend(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"all the problems there are: raise recipe\.sample\.group_size"):
        launched("never")
