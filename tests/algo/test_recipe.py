"""Recipes as values: lineage, differences, pickling, writing and reading."""

import ast
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

import upslope
from upslope.algo.aggregate import ConstantLength
from upslope.algo.codec import SLOTS, patched, to_dict
from upslope.algo.family import CISPO, DAPO, DR_GRPO, FAMILY, GRPO, REINFORCE, find
from upslope.algo.learnable import Learnable
from upslope.algo.recipe import Recipe, diff
from upslope.algo.regulariser import K1, no_penalty
from upslope.algo.sample import Attempts, Demonstrations, rewarded
from upslope.errors import UserError


@pytest.mark.parametrize("name", FAMILY)
class TestEveryRecipe:
    def test_survives_pickling(self, name):
        assert pickle.loads(pickle.dumps(FAMILY[name].recipe)) == FAMILY[name].recipe

    def test_survives_writing_and_reading_from_any_start(self, name):
        written = to_dict(FAMILY[name].recipe)
        for start in FAMILY.values():
            assert patched(start.recipe, written) == FAMILY[name].recipe

    def test_is_its_parent_plus_the_printed_patch(self, name):
        branch = FAMILY[name]
        if branch.parent is None:
            assert branch.recipe == Recipe()
            return
        parent = FAMILY[branch.parent].recipe
        changed = diff(parent, branch.recipe)
        assert changed, "a branch that changes nothing is no branch"
        rebuilt = parent.patch(**{slot: getattr(branch.recipe, slot) for slot in changed})
        assert rebuilt == branch.recipe


HOLD_THE_NAMES = ("family.py",)
ROOMS = ("algo", "learn", "model", "native", "rollout", "tasks")


def recipes_named(source: str) -> set[str]:
    """Recipes that code (not a docstring, which is a statement of its own) knows by name."""
    tree = ast.parse(source)
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in said}
    return texts & set(FAMILY)


@pytest.mark.parametrize("room", ROOMS)
def test_nobody_below_the_run_knows_a_recipe_by_name(room):
    """A recipe is its slots: whoever computes asks these, and the family alone says what they are called together."""
    files = [path for path in (Path(upslope.__file__).parent / room).rglob("*.py") if path.name not in HOLD_THE_NAMES]
    assert len(files) > 3
    assert {path.name: found for path in files if (found := recipes_named(path.read_text("utf-8")))} == {}


def test_a_recipe_known_by_name_is_seen():
    assert recipes_named('def f(name):\n    """Like "grpo"."""\n    return name == "grpo"') == {"grpo"}
    assert recipes_named('def f(name):\n    "grpo"\n    return name') == set()


def test_diff_of_reinforce_and_grpo_is_the_four_patches():
    assert diff(REINFORCE, GRPO) == {
        "advantage": ("returns", "GroupZScore(eps=0.0001, std='sample')"),
        "surrogate": ("likelihood", "ClippedRatio(low=0.2, high=0.2, dual=0.0)"),
        "regulariser": ("no_penalty", "K3(coefficient=0.04, place='loss', weighted=False)"),
        "aggregate": ("sequence_sum", "sequence_mean"),
    }


def test_needs_is_the_union_over_slots():
    assert REINFORCE.needs == frozenset()
    assert GRPO.needs == {"old_logp", "reference_logp"}


def test_patching_an_unknown_slot_is_an_error():
    with pytest.raises(UserError, match="surogate is not a slot of a recipe; did you mean 'surrogate'"):
        REINFORCE.patch(surogate=None)


def test_patch_by_field_kind_and_table():
    assert patched(GRPO, {"surrogate": {"high": 0.28}}).surrogate.high == 0.28
    assert patched(GRPO, {"surrogate": {"high": 0.28}}).surrogate.low == 0.2
    assert patched(GRPO, {"aggregate": {"kind": "constant_length", "length": 7}}).aggregate == ConstantLength(7)
    assert patched(GRPO, {"sample": {"kind": "demonstrations", "replay": 0.5}}).sample == Demonstrations(0.5)
    assert patched(GRPO, {"sample": {"keep": "rewarded"}}).sample == Attempts(8, rewarded)


def test_another_sort_of_attempts_keeps_what_the_recipe_had():
    chosen = patched(DAPO, {"sample": {"kind": "learnable", "floor": 0.2}}).sample
    assert chosen == Learnable(**vars(DAPO.sample), floor=0.2)
    assert patched(DAPO.patch(sample=chosen), {"sample": "attempts"}).sample == DAPO.sample
    assert patched(DAPO, {"sample": "demonstrations"}).sample == Demonstrations()
    larger = patched(GRPO, {"regulariser": {"coefficient": 0.3}})
    assert patched(larger, {"regulariser": "k1"}).regulariser == K1(), "another kind, not a sort of it"


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        ({"surogate": "x"}, "did you mean 'surrogate'"),
        ({"surrogate": "cliped_ratio"}, "did you mean 'clipped_ratio'"),
        ({"surrogate": {"lo": 0.1}}, "did you mean 'low'"),
        ({"surrogate": {"low": "wide"}}, "recipe.surrogate.low = 'wide'"),
        ({"surrogate": {"low": 3.0}}, "clip range"),
        ({"sample": {"keep": "rewardd"}}, "did you mean 'rewarded'"),
        ({"sample": {"group_size": 0}}, "group_size"),
        ({"advantage": {"eps": 1.0, "kind": "group_mean"}}, "has no fields"),
        ({"advantage": 3}, "recipe.advantage is 3"),
    ],
)
def test_a_bad_patch_names_the_key_and_the_mend(patch, words):
    with pytest.raises(UserError, match=words.replace("(", r"\(")):
        patched(GRPO, patch)


def test_helpers_are_not_offered_as_values():
    offered = {kind for kinds in SLOTS.values() for kind in kinds}
    assert not offered & {
        "spread",
        "centred",
        "given",
        "lengths",
        "mean_by_group",
        "sum_by_group",
        "everything",
        "rewarded",
    }


def test_unknown_recipe_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'grpo'"):
        find("grop")


# -- what the papers say --------------------------------------------------------------------------------------------


def test_dr_grpo_has_no_penalty():
    """arXiv 2503.20783, section 3.2: no KL term where rewards are checked by rule."""
    assert DR_GRPO.regulariser is no_penalty
    assert diff(GRPO, DR_GRPO).keys() == {"advantage", "aggregate", "regulariser"}


def test_cispo_refills_and_punishes_length_like_dapo():
    """arXiv 2506.13585, section 3.1: dynamic sampling and length penalty of DAPO, no KL; no filter of cut attempts."""
    assert CISPO.sample == replace(DAPO.sample, drop_truncated=False)
    assert (CISPO.shape, CISPO.regulariser, CISPO.aggregate) == (DAPO.shape, no_penalty, DAPO.aggregate)


def test_reinforce_plus_plus_with_a_baseline_centres_by_group_and_has_its_penalty_in_the_loss():
    """arXiv 2501.03262, section 3: the group's mean first, then one scale for the batch; k2 in the loss."""
    assert diff(find("reinforce++").recipe, find("reinforce++-baseline").recipe) == {
        "advantage": ("BatchZScore(centre='batch', eps=1e-08)", "BatchZScore(centre='group', eps=1e-08)"),
        "regulariser": (
            "K1(coefficient=0.05, place='reward', weighted=False)",
            "K2(coefficient=0.05, place='loss', weighted=False)",
        ),
    }
    assert find("reinforce++-baseline").parent == "reinforce++"
