"""Numbers from small hand-written run folders."""

import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from upslope.lab.ladder.facts import read_facts, read_run
from upslope.lab.ladder.plan import Arm

ARM = Arm("ppo-0", "ppo", 0, 300, (), passes=2)


def step(number, **row):
    seconds = {"sample": 1.0, "prepare": 0.5, "measure": 7.0, "update": 2.0, "record": 0.1}
    plain = {"num_tokens": 100, "num_rollouts": 8, "num_kept": 8, "num_learned": 8, "num_updates": 2, "accuracy": 0.5}
    return {"kind": "step", "step": number, "seconds": seconds, "lr": 0.1, "memory_gb": 1.0 + number} | plain | row


def evaluated(at, value, **more):
    return {"kind": "eval", "step": at, "greedy": {"value": value, "num_problems": 40}} | more


def write(folder, *rows):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "journal.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


ROWS = (
    evaluated(0, 0.4, pass_at={"1": {"value": 0.3}, "4": {"value": 0.6}}),
    step(0, lr=0.0, kl_step=0.0, accuracy=0.25, equal_groups=0.1, truncated=0.2),
    step(1, kl_step=0.3, ratio_max=2.0, effective_share=0.9, clip_low=0.1, clip_high=0.2, num_kept=4),
    evaluated(2, 0.6),
    step(2, kl_step=0.1, ratio_max=5.0, effective_share=0.7, equal_groups=0.5, truncated=0.0, explained_variance=0.3),
    evaluated(3, 0.9, pass_at={"1": {"value": 0.8}, "4": {"value": 0.95}}),
)


def test_a_run_is_read_as_it_is_written(tmp_path):
    found = read_run(write(tmp_path / "ppo-0", *ROWS), ARM)
    # Three steps of 100 tokens; a step costs 1 + 0.5 + 2 seconds: measuring and recording are not its own doing.
    assert [(p.step, p.tokens, p.seconds, p.accuracy) for p in found.curve] == [
        (0, 0.0, 0.0, 0.4), (2, 200.0, 7.0, 0.6), (3, 300.0, 10.5, 0.9),
    ]  # fmt: skip
    assert (found.before, found.after, found.tokens, found.cost) == (0.4, 0.9, 300.0, 10.5)
    assert (found.num_updates, found.num_steps, found.memory_gb, found.num_problems) == (6, 3, 3.0, 40)
    assert found.update_seconds == pytest.approx((1.5 + 6.0) / 6)
    assert found.right_share == pytest.approx((0.25 + 0.5 + 0.5) / 3)
    assert found.taught_share == pytest.approx(24 / 2 / 24)  # 8 rows a step in two passes: 4 of 8 attempts
    assert found.tried == pytest.approx(24 / 20)
    assert (found.equal_groups, found.truncated) == (0.5, (0.2, 0.0))
    assert found.clipped == pytest.approx(0.3)
    assert (found.kl, found.kl_update) == ((0.0, 0.3, 0.1), ())
    assert (found.ratio_max, found.effective_share, found.explained_variance) == (5.0, 0.7, 0.3)
    assert found.idle_tokens == 100.0  # the rate was 0 in the first step
    assert found.pass_at == ({1: 0.3, 4: 0.6}, {1: 0.8, 4: 0.95})


def test_entropy_is_that_of_all_attempts_from_their_files(tmp_path):
    folder = write(tmp_path / "ppo-0", *ROWS)
    (folder / "rollouts").mkdir()
    for number, rows in ((0, [[-1.0, -3.0], [-2.0]]), (2, [[-0.5], None])):
        pq.write_table(pa.table({"sampler_logp": rows}), folder / "rollouts" / f"step-{number:06d}.parquet")
    assert read_run(folder, ARM).entropy == ((0.0, 2.0), (200.0, 0.5))


def test_the_kl_of_several_updates_is_not_taken_for_that_of_a_step(tmp_path):
    """Without kl_update, kl_step is the mean over the updates of a recipe that keeps a budget."""
    ball = {"kl_budget": 0.01, "kl_step": 0.008}
    once = read_run(write(tmp_path / "a", evaluated(0, 0.4), step(0, num_updates=1, **ball)), ARM)
    assert (once.kl, once.kl_update, once.kl_budget) == ((0.008,), (0.008,), 0.01)
    twice = read_run(write(tmp_path / "b", evaluated(0, 0.4), step(0, **ball)), ARM)
    assert (twice.kl, twice.kl_update) == ((), (0.008,))
    told = read_run(write(tmp_path / "c", evaluated(0, 0.4), step(0, kl_update=0.007, **ball)), ARM)
    assert (told.kl, told.kl_update) == ((0.008,), (0.007,))


def test_imitation_has_no_attempts_and_a_run_without_steps_no_numbers(tmp_path):
    row = {k: v for k, v in step(0).items() if k != "accuracy"}
    found = read_run(write(tmp_path / "sft-0", evaluated(0, 0.4), row, evaluated(1, 0.5)), ARM)
    assert math.isnan(found.right_share) and found.after == 0.5
    empty = read_run(write(tmp_path / "none", evaluated(0, 0.4)), ARM)
    assert (empty.after, empty.tokens, empty.num_updates) == (0.4, 0.0, 0) and math.isnan(empty.update_seconds)


def test_arms_are_told_apart_and_those_not_run_are_left_out(tmp_path):
    arms = [
        ARM,
        Arm("ppo-1", "ppo", 1, 300, ()),
        Arm("ppo-x4-0", "ppo", 0, 100, (), epochs=4),
        Arm("x", "sft", 0, 1, ()),
    ]
    for name in ("ppo-0", "ppo-1", "ppo-x4-0"):
        write(tmp_path / name, *ROWS)
    facts = read_facts(tmp_path, arms)
    assert ([r.seed for r in facts.main["ppo"]], list(facts.main), list(facts.reuse)) == ([0, 1], ["ppo"], [("ppo", 4)])
