"""What a ladder runs: same start, same budget, same rate, and nothing that cannot work gets as far as a process."""

from dataclasses import replace
from pathlib import Path

import pytest

from upslope.algo.family import FAMILY
from upslope.errors import UserError
from upslope.lab.ladder.options import RECIPES, Ladder
from upslope.lab.ladder.plan import cost, main_arms, reuse_arms, start_of, tokens_a_step

LADDER = Ladder(Path("out"), task="pocket", tokens=70_000, reuse_tokens=7_000, seeds=2, lr=1e-3)
LENGTHS = {0: 14.0, 1: 14.0, 2: 14.0}


def word(words, key):
    return next(w.partition("=")[2] for w in reversed(words) if w.startswith(f"{key}="))


def option(words, key):
    return words[words.index(key) + 1]


def test_every_recipe_runs_for_every_seed_in_the_order_of_the_tree():
    arms = main_arms(LADDER, LENGTHS)
    assert [(a.seed, a.recipe) for a in arms] == [(s, r) for s in (0, 1) for r in RECIPES]
    assert len({a.name for a in [*arms, *reuse_arms(LADDER, LENGTHS)]}) == 2 * 9 + 9


def test_arms_of_a_seed_share_start_budget_rate_and_seed():
    for arm in main_arms(LADDER, LENGTHS):
        assert option(arm.words, "--model") == f"out/runs/start-{arm.seed}"
        assert option(arm.words, "--seed") == str(arm.seed)
        assert (word(arm.words, "tokens"), word(arm.words, "learn.lr")) == ("70000", "0.001")
        assert (word(arm.words, "learn.measure_every"), word(arm.words, "save.keep")) == ("1", "1")


def test_a_curve_has_about_ten_points():
    """64 problems x 8 attempts x 14 tokens = 7,168 a step: 70,000 tokens are 10 steps; 700,000 are 98."""
    assert word(main_arms(LADDER, LENGTHS)[2].words, "eval.every") == "1"
    longer = main_arms(replace(LADDER, tokens=700_000), LENGTHS)
    assert word(longer[2].words, "eval.every") == "10"
    assert word(longer[8].words, "eval.every") == "5"  # dapo: as many tokens again for the problems tried in vain


def test_pocket_has_a_start_for_every_seed_and_a_directory_one_for_all(tmp_path):
    assert [start_of(LADDER, seed).name for seed in (0, 1)] == ["start-0", "start-1"]
    assert "steps=0" in start_of(LADDER, 1).words
    shared = replace(LADDER, model=str(tmp_path))
    assert start_of(shared, 1) == start_of(shared, 0)
    assert option(main_arms(shared, LENGTHS)[9].words, "--model") == "out/runs/start-0"


def test_imitation_goes_on_as_the_start_was_made():
    assert word(main_arms(LADDER, LENGTHS)[0].words, "recipe.sample.replay") == "0.2"
    own = replace(LADDER, task="user", data="x.jsonl")
    assert not [w for w in main_arms(own, LENGTHS)[0].words if w.startswith("recipe.sample")]


def test_reuse_changes_the_passes_and_nothing_else_but_the_warm_ups():
    arms = reuse_arms(LADDER, LENGTHS)
    assert [(a.recipe, a.epochs) for a in arms] == [(r, e) for r in ("importance", "trpo", "ppo") for e in (1, 4, 16)]
    assert all(word(a.words, "recipe.reuse.epochs") == str(a.epochs) and a.passes == a.epochs for a in arms)
    assert all(word(a.words, "learn.warmup") == "0" and word(a.words, "tokens") == "7000" for a in arms)
    assert [a.recipe for a in arms if "recipe.critic.warmup=0" in a.words] == ["ppo"] * 3
    assert reuse_arms(replace(LADDER, reuse_tokens=0), LENGTHS) == []
    assert {a.recipe for a in reuse_arms(replace(LADDER, recipes=("sft", "trpo")), LENGTHS)} == {"trpo"}


def test_overrides_of_slots_go_to_those_who_act():
    arms = main_arms(replace(LADDER, overrides=("problems=4", "recipe.sample.group_size=2")), LENGTHS)
    assert all(word(a.words, "problems") == "4" for a in arms)
    assert [a.recipe for a in arms if "recipe.sample.group_size=2" not in a.words] == ["sft", "sft"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipes": ("grop",)}, "recipe 'grop' is not known; did you mean 'grpo'"),
        ({"recipes": ("pretrain",)}, "no ladder can compare it"),
        ({"recipes": ("grpo", "grpo")}, "each once"),
        ({"seeds": 0}, "--seeds = 0 must be at least 1"),
        ({"tokens": 0}, "--tokens = 0 must be at least 1"),
        ({"noise_batches": 3}, "at least 4"),
        ({"overrides": ("eval.problems=0",)}, "eval.problems = 0"),
        ({"overrides": ("stps=3",)}, "there is no setting stps"),
    ],
)
def test_what_cannot_work_is_one_line_before_anything_runs(changes, message):
    with pytest.raises(UserError, match=message):
        main_arms(replace(LADDER, **changes), LENGTHS)


def test_costs_are_ordered_as_the_updates_are():
    names = ("sft", "reinforce", "importance", "ppo")
    costs = [cost(FAMILY[name].recipe) for name in names]
    assert costs == sorted(costs)
    assert tokens_a_step(FAMILY["sft"].recipe, 64, 14.0) == 64 * 14
