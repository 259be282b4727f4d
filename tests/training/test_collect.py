"""Who acts, who scores, what is kept; and the numbers a step is summed up in."""

import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from tiny import TOKENIZER, drawn, learner, policy, problems, random_groups

from upslope.algo.family import GRPO, REINFORCE_BASELINE
from upslope.algo.learnable import Learnable
from upslope.algo.objective import Objective
from upslope.algo.reuse import Reuse
from upslope.algo.sample import Attempts, Demonstrations, Documents, mixed, rewarded
from upslope.errors import UserError
from upslope.learn.prepare import judge, passes, to_batch, weigh
from upslope.learn.probe import Probe
from upslope.record import attempts
from upslope.rollout.address import Address
from upslope.rollout.local import LocalSampler
from upslope.tasks.base import Task
from upslope.training import metrics
from upslope.training.checks import check_run
from upslope.training.collect import Collector
from upslope.training.evaluate import evaluate
from upslope.training.settings import EvalSettings, RunSettings
from upslope.training.short_of import why_short
from upslope.types import Group, Problem, Sampling, Score

SAMPLING = Sampling(max_tokens=6)


class Toy(Task):
    """Rewards by (problem, response), so that a mix-up of either shows."""

    name = "toy"

    def __init__(self, reward=lambda p, r: float(len(r.split()) % 2)):
        self.reward, self.asked = reward, []

    def problems(self, split):
        return problems(5)

    def demonstrations(self):
        return [Problem(p.id, p.messages, demonstration=f"#### {i}") for i, p in enumerate(problems(5))]

    def documents(self):
        return ["Tom has 3 apples.", "Eva has 5 pens.", "Sam has 9 eggs."]

    def score(self, asked, responses):
        self.asked.append([p.id for p in asked])
        return [Score(self.reward(p, r)) for p, r in zip(asked, responses, strict=True)]

    def fingerprint(self):
        return "toy"


def collector(task=None, subject=None, per_step=3):
    subject = subject or policy()
    return Collector(task or Toy(), LocalSampler(subject), subject.renderer, SAMPLING, seed=0, per_step=per_step)


def test_attempts_come_scored_each_with_its_own_problem():
    """Pitfalls 13 and 15: prompts, completions and rewards stay aligned, and no reward is broadcast."""
    task = Toy(reward=lambda p, r: float(int(p.id[4:]) * 1000 + len(r)))
    got = collector(task)(Attempts(group_size=4), step=0)
    assert len(got.kept) == 3
    for group in got.kept:
        assert len(group.rollouts) == 4
        for rollout in group.rollouts:
            assert rollout.problem_id == group.problem.id
            assert rollout.prompt == policy().renderer.prompt_ids(group.problem.messages)
            assert rollout.reward == int(group.problem.id[4:]) * 1000 + len(rollout.text)


def test_a_step_is_a_function_of_its_number():
    first = [collector()(Attempts(2), step) for step in (0, 1)]
    again = collector()(Attempts(2), 1)
    assert first[1] == again
    assert [g.problem.id for g in first[0].kept] != [g.problem.id for g in first[1].kept]


def test_rejected_attempts_are_remembered_but_not_learnt_from():
    got = collector()(Attempts(4, keep=rewarded), 0)
    assert sum(len(g.rollouts) for g in got.attempted) == 12
    assert all(r.reward > 0 for g in got.kept for r in g.rollouts)
    assert sum(len(g.rollouts) for g in got.kept) == sum(r.reward > 0 for g in got.attempted for r in g.rollouts) > 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_reward_that_is_no_number_stops_the_run(bad):
    """Pitfall 16."""
    with pytest.raises(UserError, match=r"the reward of sample 0 of problem toy/\d is (nan|inf)"):
        collector(Toy(reward=lambda p, r: bad))(Attempts(2), 0)


def test_a_list_of_scores_of_the_wrong_length_stops_the_run():
    class Short(Toy):
        def score(self, asked, responses):
            return super().score(asked, responses)[:1]

    with pytest.raises(UserError, match=r"1 scores for [246] attempts"):
        collector(Short())(Attempts(2), 0)


def test_groups_stand_in_the_order_of_problems_whenever_they_were_complete():
    task, subject = Toy(), policy()
    subject.renderer = replace(subject.renderer, end_ids=tuple(range(1, 180, 5)))
    collect = Collector(task, LocalSampler(subject), subject.renderer, Sampling(max_tokens=30), 0, 5)
    collect.overlaps = True
    taken = collect._attempt(problems(5), Attempts(3), 1, None)
    assert [g.problem.id for g in taken] == [p.id for p in problems(5)]
    assert all([r.problem_id for r in g.rollouts] == [g.problem.id] * 3 for g in taken)
    asked = [id for call in task.asked for id in call]
    assert sorted(asked) == sorted([p.id for p in problems(5)] * 3)
    assert asked != sorted(asked), "they were complete in order, so nothing was tested"


def test_demonstrations_end_with_the_end_token_and_count_only_the_response():
    got = collector()(Demonstrations(), 0)
    for group in got.kept:
        (r,) = group.rollouts
        assert TOKENIZER.decode(r.response[:-1]) == group.problem.demonstration
        assert r.response[-1] == TOKENIZER.eos_token_id
        assert all(r.mask)
        assert r.logp is None
        assert r.reward == 1


def test_documents_count_every_token():
    got = collector()(Documents(), 0)
    (r,) = got.kept[0].rollouts
    assert TOKENIZER.decode(r.response, skip_special_tokens=True) == r.text
    assert len(r.prompt) == 1


def test_replay_fills_its_share_with_documents():
    got = collector(per_step=4)(Demonstrations(replay=0.25), 0)
    assert [g.problem.id.startswith("document/") for g in got.kept] == [False, False, False, True]


def test_a_task_without_what_the_recipe_imitates_says_so():
    class Bare(Toy):
        def demonstrations(self):
            return []

        def documents(self):
            return []

    with pytest.raises(UserError, match="has no demonstrations"):
        collector(Bare())(Demonstrations(), 0)
    with pytest.raises(UserError, match="has no documents"):
        collector(Bare())(Documents(), 0)


# -- evaluation -----------------------------------------------------------------------------------------------------


def test_evaluation_counts_full_marks_and_does_not_depend_on_batching():
    task = Toy(reward=lambda p, r: 1.0 if p.id in ("toy/0", "toy/3") else 0.5)
    subject = policy()
    found = [
        evaluate(
            task, LocalSampler(subject, max_rows=rows), subject.renderer, problems(4), SAMPLING, samples=4, seed=1
        ).row
        for rows in (64, 3)
    ]
    assert found[0] == found[1]
    row = found[0]
    assert row["greedy"]["value"] == 0.5
    assert row["greedy"]["num_problems"] == 4
    assert row["reward"] == 0.75
    assert {k: v["value"] for k, v in row["pass_at"].items()} == {"1": 0.5, "2": 0.5, "4": 0.5}


def test_accuracy_is_told_apart_by_a_column():
    levels = [replace(p, columns={"level": place // 3}) for place, p in enumerate(problems(4))]
    task, subject = Toy(reward=lambda p, r: float(p.id in ("toy/0", "toy/3"))), policy()

    def told(by):
        return evaluate(task, LocalSampler(subject), subject.renderer, levels, SAMPLING, by=by)

    found = told("level")
    # of the first three problems one is right; the fourth, alone on its level, is right
    assert {k: (v["value"], v["num_problems"]) for k, v in found.row["by"].items()} == {"0": (1 / 3, 3), "1": (1.0, 1)}
    assert found.measures["greedy, 1"] == found.row["by"]["1"] and "by" not in told("").row
    with pytest.raises(UserError, match="problem toy/0 has nothing in a column 'levle'; did you mean 'level'"):
        told("levle")


def test_a_column_that_names_every_problem_is_refused_before_a_run():
    class Many(Toy):
        def problems(self, split):
            return [replace(p, columns={"name": p.id}) for p in problems(101)]

    def check(num):
        check_run(RunSettings(eval=EvalSettings(problems=num, by="name")), REINFORCE_BASELINE, Many())

    with pytest.raises(UserError, match="'name' has 101 values"):
        check(101)
    check(100)


def test_greedy_evaluation_is_greedy():
    subject = policy()
    groups = evaluate(
        Toy(), LocalSampler(subject), subject.renderer, problems(3), Sampling(2.0, max_tokens=6), seed=5
    ).greedy
    for group in groups:
        ids = list(group.rollouts[0].prompt)
        for token in group.rollouts[0].response:
            fresh = drawn(subject, [group.problem], 1, Sampling(0, max_tokens=6), Address(9, "x"))[0][0]
            assert fresh.response == group.rollouts[0].response
            ids.append(token)


# -- the journal's numbers ------------------------------------------------------------------------------------------


def test_numbers_of_attempts_by_hand():
    groups = random_groups(3, 4)
    row = metrics.of_attempts(groups, imitates=False)
    flat = [r for g in groups for r in g.rollouts]
    assert row["reward"] == sum(r.reward for r in flat) / 12
    assert row["accuracy"] == sum(r.reward >= 1 for r in flat) / 12
    assert row["num_tokens"] == sum(len(r.response) for r in flat)
    assert row["equal_groups"] == sum(len({r.reward for r in g.rollouts}) == 1 for g in groups) / 3


def stepped(recipe, **settings):
    subject = learner(recipe, **settings)
    groups = random_groups(4, 3)
    batch = subject.prepare(groups)
    address = Address(0, "reuse")
    outcomes = [recipe.update(subject, Objective(recipe), m) for m in passes(batch, recipe, address)]
    return groups, batch, outcomes


@pytest.mark.parametrize("size", [0, 1, 5])
def test_numbers_of_updates_do_not_depend_on_micro_batches(size):
    """Pitfall 29: a mean over tokens is divided once, whatever the batch was cut into."""
    _, same, expected = stepped(GRPO)
    _, batch, outcomes = stepped(GRPO, micro_batch=size)
    assert metrics.of_updates(batch, outcomes) == pytest.approx(metrics.of_updates(same, expected), abs=1e-9)


def test_entropy_and_gap_are_means_over_the_tokens_that_were_scored():
    _, batch, (outcome,) = stepped(REINFORCE_BASELINE)
    row = metrics.of_updates(batch, [outcome])
    mask = outcome.minibatch.mask_NT
    num = int(mask.sum())
    assert row["entropy"] == pytest.approx(float(outcome.trace.entropy_NT.sum()) / num)
    gap = [
        abs(a - b)
        for logp, rollout in zip(outcome.trace.logp_NT.tolist(), outcome.minibatch.rollouts, strict=True)
        for a, b in zip(logp, rollout.logp, strict=False)
    ]
    assert len(gap) == num
    assert row["logp_gap_mean"] == pytest.approx(sum(gap) / num)
    assert row["logp_gap_max"] == pytest.approx(max(gap))


def test_no_gradient_anywhere_leaves_the_other_numbers_standing():
    batch = stepped(GRPO)[1]
    assert metrics.of_updates(batch, []) == {
        "num_updates": 0,
        "num_learned": 0,
        "loss": 0.0,
        "grad_norm": 0.0,
        "lr": 0.0,
    }
    json.dumps(metrics.of_updates(*stepped(GRPO)[1:]))


def test_a_rollout_file_holds_every_attempt_and_what_the_update_did(tmp_path):
    recipe = GRPO.patch(reuse=Reuse(epochs=3))
    groups, batch, outcomes = stepped(recipe)
    dropped = Group(Problem("dropped", ({"role": "user", "content": "?"},)), random_groups(1, 1, seed=5)[0].rollouts)
    dropped = Group(
        dropped.problem, tuple(r.__class__(**{**vars(r), "problem_id": "dropped"}) for r in dropped.rollouts)
    )
    spelled = lambda ids: [f"<{i}>" for i in ids]  # noqa: E731
    attempts.write(tmp_path / "step-000000.parquet", attempts.of_step([*groups, dropped], batch, outcomes, spelled))
    rows = {(r["problem"], r["sample"]): r for r in pq.read_table(tmp_path / "step-000000.parquet").to_pylist()}
    assert len(rows) == 13
    assert not rows["dropped", 0]["kept"]
    assert rows["dropped", 0]["learner_logp"] is None
    last, scored = outcomes[-1], 0
    for i, rollout in enumerate(last.minibatch.rollouts):
        row = rows[rollout.problem_id, rollout.sample]
        num = len(rollout.response)
        assert row["kept"]
        assert tuple(row["response"]) == rollout.response
        assert row["ratio"] == pytest.approx(last.trace.ratio_NT[i, :num].tolist(), rel=1e-6)
        assert row["learner_logp"] == pytest.approx(outcomes[0].trace.logp_NT[i, :num].tolist(), rel=1e-6)
        assert len(row["advantage"]) == len(row["clipped"]) == num
        assert row["push"] == pytest.approx(last.trace.push_NT[i, :num].tolist(), rel=1e-6)
        assert row["reference_logp"] == pytest.approx(batch.reference_logp_NT[i, :num].tolist(), rel=1e-6)
        assert row["response_pieces"] == [f"<{token}>" for token in rollout.response]
        assert row["prompt_pieces"] == [f"<{token}>" for token in rollout.prompt]
        assert row["top_tokens"] is None
        assert row["weight"] == pytest.approx(last.minibatch.weight_NT[i, :num].tolist(), rel=1e-6)
        assert row["after_logp"] == pytest.approx(last.trace.logp_NT[i, :num].tolist(), rel=1e-6)
        assert row["after_logp"] != row["learner_logp"]
        scored += 1
    assert scored == last.minibatch.num_rollouts > 0
    assert pq.read_schema(tmp_path / "step-000000.parquet").metadata[b"upslope.attempts"] == b"3"
    assert isinstance(batch.advantage_NT, torch.Tensor)


def test_what_became_of_a_token_is_not_told_where_nobody_scored_it_again():
    groups, batch, outcomes = stepped(GRPO)
    rows = attempts.of_step(groups, batch, outcomes).to_pylist()
    assert all(row["after_logp"] is None for row in rows)
    subject = learner(GRPO)
    batch = subject.prepare(groups)
    probe = Probe(subject.learner, GRPO, batch)
    assert probe.after() is None
    outcomes = [GRPO.update(subject, Objective(GRPO), m) for m in passes(batch, GRPO, Address(0, "reuse"))]
    probe.row()
    now_NT = subject.learner.scorer.score(batch).logp_NT.detach()
    rows = attempts.of_step(groups, batch, outcomes, None, probe.after()).to_pylist()
    found = {(row["problem"], row["sample"]): row for row in rows}
    for i, rollout in enumerate(batch.rollouts):
        row = found[rollout.problem_id, rollout.sample]
        assert row["after_logp"] == pytest.approx(now_NT[i, : len(rollout.response)].tolist(), abs=1e-6)
        assert row["learner_logp"] is None or row["after_logp"] != row["learner_logp"]


# -- rewards on the way ---------------------------------------------------------------------------------------------


class Steps(Toy):
    """Half a point for the first character, a quarter for the third, and 1 at the end."""

    def score(self, problems, responses):
        return [Score(1.0, steps=((1, 0.5), (3, 0.25), (10**6, 0.125))) for _ in responses]


def test_rewards_on_the_way_stand_at_the_tokens_that_reached_them():
    subject = policy()
    groups = collector(task=Steps(), subject=subject)(Attempts(2), step=0).attempted
    for rollout in (r for g in groups for r in g.rollouts):
        by_token, text = rollout.score.by_token, subject.renderer.text
        assert len(by_token) == len(rollout.response) and sum(by_token) == 0.875
        assert rollout.reward == 1.0
        expected = [0.0] * len(by_token)
        for place, reward in ((1, 0.5), (3, 0.25), (10**6, 0.125)):
            lengths = [len(text(rollout.response[: t + 1])) for t in range(len(by_token))]
            expected[next((t for t, n in enumerate(lengths) if n >= place), len(by_token) - 1)] += reward
        assert list(by_token) == expected
    batch = to_batch(groups, torch.device("cpu"), torch.float64)
    last = [len(r.response) - 1 for r in batch.rollouts]
    assert batch.reward_N.tolist() == [1.875] * len(last)
    assert all(batch.reward_NT[n, t] >= 1.0 for n, t in enumerate(last))


@pytest.mark.parametrize("step", [(-1, 0.5), (3, float("nan"))])
def test_a_step_that_is_none_stops_the_run(step):
    class Wrong(Toy):
        def score(self, problems, responses):
            return [Score(1.0, steps=(step,)) for _ in responses]

    with pytest.raises(UserError, match="a step is a number of characters and a reward"):
        collector(task=Wrong())(Attempts(2), step=0)


def test_where_all_problems_were_tried_nobody_is_told_to_try_more():
    slot = Attempts(keep=mixed, refill=10.0)
    assert "raise recipe.sample.refill (now 10) or recipe.sample.group_size" in why_short([], [], 4, slot, 0, 5)
    said = why_short([], [], 4, slot, 0, 0)
    assert "these are all the problems there are: raise recipe.sample.group_size, or lower problems" in said


def test_draws_that_are_weighed_weigh_their_groups_in_the_update():
    """Of n problems one is known, with chance 1 and weight 2 / n; the others share the other place, 2 (n - 1) / n."""
    task, slot = Toy(), Learnable(group_size=2, fresh=0.5, weighted=True)
    subject = collector(task, per_step=2)
    known = subject.knowing(slot)
    known.load({p.id: [1.0, 1.0, 0] for p in task.problems("train")[:1]})
    got = subject(slot, 1)
    weights = {g.problem.id: g.weight for g in got.kept}
    first = task.problems("train")[0].id
    num = len(task.problems("train"))
    assert weights[first] == pytest.approx(2 / num)
    (other,) = weights.keys() - {first}
    assert weights[other] == pytest.approx(2 / (num * 1 / (num - 1)))
    assert got.told["num_known"] == 1 and known.state().keys() == {first, other}
    plain = to_batch([replace(g, weight=1.0) for g in got.kept], torch.device("cpu"), torch.float64)
    batch = to_batch(got.kept, torch.device("cpu"), torch.float64)
    assert plain.draw_weight_N is None
    weighed, even = (weigh(judge(b, REINFORCE_BASELINE), REINFORCE_BASELINE).weight_NT for b in (batch, plain))
    factor_N = torch.tensor([weights[r.problem_id] for r in batch.rollouts], dtype=torch.float64)
    torch.testing.assert_close(weighed, even * factor_N[:, None])
