"""Slots of one's own, from a file to a step: how they are named and read back, and what they can know of an update."""

from __future__ import annotations

import functools
import json
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from tiny import gradients, largest_gap, learner, random_groups

from upslope.algo.codec import patched, to_dict
from upslope.algo.family import GRPO, REINFORCE, REINFORCE_BASELINE
from upslope.algo.objective import Objective
from upslope.algo.reuse import Reuse
from upslope.algo.slots import KINDS, kind, kinds
from upslope.algo.surrogate import ClippedRatio
from upslope.config import load_settings
from upslope.errors import UserError
from upslope.learn.prepare import passes, to_batch, weigh
from upslope.record.checkpoint import newest
from upslope.rollout.address import Address
from upslope.training.named import resolve_recipe
from upslope.training.start import launch
from upslope.training.view import NullView
from upslope.types import Group, Sampling

HERE = Address(0, "reuse")
OWN = '''
from dataclasses import dataclass
import torch
from upslope.algo.advantage import spread
from upslope.algo.surrogate import ClippedRatio

def best(batch):
    """1 for what earned most."""
    return spread((batch.reward_N == batch.reward_N.max()).to(batch.reward_N.dtype), batch.mask_NT)

@dataclass(frozen=True)
class MyClip(ClippedRatio):
    """A clip of one's own."""
    low: float = 0.5
    room: float = 1.0

@dataclass(frozen=True)
class Bounded:
    """No default."""
    most: float

    def __call__(self, scored, batch):
        return scored.logp_NT.clamp(max=self.most)

@dataclass(frozen=True)
class Odd:
    """No slot's class."""
    scale: float = 2.0

    def __call__(self, batch):
        return self.scale * best(batch)
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A file of slots in the working folder, its name in no other test."""
    monkeypatch.chdir(tmp_path)
    file = Path(f"own_{tmp_path.name}.py")
    file.write_text(OWN)
    return str(file)


def read(text="", overrides=()):
    Path("mine.toml").write_text(text)
    return resolve_recipe(load_settings(Path("mine.toml"), list(overrides)).recipe)


# -- names ----------------------------------------------------------------------------------------------------------


def test_a_slot_of_ones_own_is_named_on_the_command_line_and_in_a_run_file(own):
    typed = read(overrides=[f"recipe.advantage={own}:best", f'recipe.surrogate={{kind="{own}:MyClip", low=0.1}}'])
    written = read(
        f'[recipe]\nname = "reinforce-baseline"\nadvantage = "{own}:best"\n'
        f'surrogate = {{kind = "{own}:MyClip", low = 0.1}}\n'
    )
    assert typed == written
    assert typed.advantage.__name__ == "best"
    assert type(typed.surrogate).__name__ == "MyClip"
    assert (typed.surrogate.low, typed.surrogate.high, typed.surrogate.room) == (0.1, 0.2, 1.0)
    b = to_batch(random_groups(2, 2), torch.device("cpu"))
    assert typed.advantage(b).shape == b.mask_NT.shape


def test_what_is_written_is_read_back_from_anywhere(own, tmp_path, monkeypatch):
    recipe = read(overrides=[f"recipe.advantage={own}:Odd", f'recipe.surrogate={{kind="{own}:MyClip", low=0.1}}'])
    written = to_dict(recipe)
    place = str(tmp_path / own)
    assert written["surrogate"] == {"kind": f"{place}:MyClip", "low": 0.1, "high": 0.2, "dual": 0.0, "room": 1.0}
    assert written["advantage"] == {"kind": f"{place}:Odd", "scale": 2.0}
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert patched(REINFORCE, written) == recipe
    assert to_dict(patched(GRPO, written)) == written


def test_a_class_whose_fields_have_no_defaults_takes_them_from_the_table(own):
    recipe = read(overrides=[f'recipe.surrogate={{kind="{own}:Bounded", most=2.5}}'])
    assert recipe.surrogate.most == 2.5
    with pytest.raises(UserError, match=r"recipe.surrogate: .*Bounded.*'most'"):
        read(overrides=[f"recipe.surrogate={own}:Bounded"])
    with pytest.raises(UserError, match="did you mean 'most'"):
        read(overrides=[f'recipe.surrogate={{kind="{own}:Bounded", mst=2.5}}'])


def test_a_subclass_of_a_built_in_is_not_written_under_its_name_and_can_be_left_again(own):
    recipe = read(overrides=[f"recipe.surrogate={own}:MyClip"])
    assert to_dict(recipe)["surrogate"]["kind"].endswith(f"{own}:MyClip")
    back = patched(recipe, {"surrogate": "clipped_ratio"})
    assert type(back.surrogate) is ClippedRatio

    @dataclass(frozen=True)
    class Local(ClippedRatio):
        pass

    with pytest.raises(ValueError, match=r"recipe.surrogate holds .*Local\(.* no name to be written under"):
        to_dict(GRPO.patch(surrogate=Local()))


class Keeps:
    """What it was made with is in no field, so its class's name would not make it again."""

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, batch):
        return self.scale * batch.mask_NT


@pytest.mark.parametrize("value", [functools.partial(Keeps(1.0)), Keeps(2.0), lambda batch: batch.mask_NT])
def test_what_a_name_alone_would_not_make_again_is_not_written_under_one(value):
    with pytest.raises(ValueError, match="no name to be written under"):
        to_dict(REINFORCE.patch(advantage=value))


def test_a_run_with_slots_of_ones_own_is_resumed_from_its_run_file(own):
    Path("mine.py").write_text(
        "def odd(completions, **columns):\n    return [float(len(t) % 2) for t in completions]\n"
    )
    rows = [{"prompt": f"{name} has {i} apples."} for i, name in enumerate(["Tom", "Sam", "Eva", "Leo"])]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["model=pocket:blank", "task.data=data.jsonl", "problems=2", "recipe.sample.group_size=2", "device=cpu"]
    words += ["eval.problems=0", "sample.max_tokens=4", "recipe=grpo", f"recipe.advantage={own}:best"]
    words += [f'recipe.surrogate={{kind="{own}:MyClip", low=0.1}}']
    folder = launch(load_settings(None, words, {"task.rewards": ["mine.py:odd"], "steps": 1, "name": "a"}), NullView)
    told = tomllib.loads((folder / "run.toml").read_text())["recipe"]
    assert told["surrogate"]["kind"] == f"{Path(own).resolve()}:MyClip" and told["surrogate"]["low"] == 0.1
    again = load_settings(folder / "run.toml", ["steps=2"])
    assert to_dict(resolve_recipe(again.recipe)) == {k: v for k, v in told.items() if k != "name"}
    assert launch(again, NullView, resume=True) == folder
    found = newest(folder / "checkpoints")
    assert found is not None and found.step == 2
    assert tomllib.loads((folder / "run.toml").read_text())["recipe"] == told


# -- rewards on the way ---------------------------------------------------------------------------------------------


def test_rewards_on_the_way_and_versions_reach_their_tokens():
    """Three tokens that earn 0.25, 0 and 0.5 beside an outcome of 1; one token without anything of its own."""
    (made,) = random_groups(1, 2, longest=1)
    long, short = made.rollouts
    long = replace(long, response=(5, 6, 7), mask=(True,) * 3, logp=(-1.0,) * 3, versions=(2, 2, 3), version=3)
    long = replace(long, score=replace(long.score, reward=1.0, by_token=(0.25, 0.0, 0.5)))
    short = replace(short, version=4, score=replace(short.score, reward=0.5))
    groups = [Group(made.problem, (long, short))]
    b = to_batch(groups, torch.device("cpu"), torch.float64)
    assert b.reward_NT.tolist() == [[0.25, 0.0, 1.5], [0.5, 0.0, 0.0]]
    assert b.reward_N.tolist() == [1.75, 0.5]
    assert b.version_NT.tolist() == [[2, 2, 3], [4, 0, 0]]
    judged = learner(REINFORCE).prepare(groups)
    assert torch.equal(judged.reward_NT, b.reward_NT)
    assert judged.advantage_NT.tolist() == [[1.75] * 3, [0.5, 0, 0]]
    assert torch.equal(judged.take([1]).version_NT, b.version_NT[1:])


# -- a look at the whole update -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TopQuarter(ClippedRatio):
    """Only the quarter of the update's tokens that are least likely by now are pushed: a mask by rank."""

    needs = frozenset({"old_logp", "present_logp"})

    def over_update(self, batch):
        inside = batch.present_logp_NT[batch.mask_NT]
        return batch.mask_NT & (batch.present_logp_NT <= inside.sort().values[len(inside) // 4 - 1])

    def __call__(self, scored, batch):
        pushed_NT = super().__call__(scored, batch)
        return torch.where(batch.marks["surrogate"], pushed_NT, 0)


TOP = REINFORCE_BASELINE.patch(surrogate=TopQuarter())


def of_the_top(micro_batch, recipe=TOP):
    subject = learner(recipe, micro_batch=micro_batch)
    batch = weigh(subject.prepare(random_groups(4, 3)), recipe)
    outcome = subject.gradient(Objective(recipe), batch)
    return subject, outcome, gradients(subject)


def test_marks_by_rank_survive_any_split():
    _, outcome, whole = of_the_top(12)
    marks_NT = outcome.minibatch.marks["surrogate"]
    assert marks_NT.dtype == torch.bool
    num = sum(len(r.response) for g in random_groups(4, 3) for r in g.rollouts)
    assert 0 < int(marks_NT.sum()) <= num // 4  # rows without advantage are left out of what had a gradient
    assert max(float(g.abs().max()) for g in whole.values()) > 1e-3
    for size in (0, 1, 2, 5):
        assert largest_gap(of_the_top(size)[2], whole) < 1e-10


def test_marks_by_rank_survive_chunks(monkeypatch):
    whole = of_the_top(0)[2]
    monkeypatch.setattr("upslope.model.scores.HEAD_BUDGET", 1)
    assert largest_gap(of_the_top(0)[2], whole) < 1e-10


def test_marks_by_rank_are_of_the_update_and_not_of_its_parts():
    """Ranked row by row another quarter would be pushed."""

    @dataclass(frozen=True)
    class ByRow(TopQuarter):
        def over_update(self, batch):
            least_N1 = torch.where(batch.mask_NT, batch.present_logp_NT, 0).amin(dim=1, keepdim=True)
            return batch.mask_NT & (batch.present_logp_NT == least_N1)

    assert largest_gap(of_the_top(0, TOP.patch(surrogate=ByRow()))[2], of_the_top(0)[2]) > 1e-3


def test_present_and_old_are_what_a_fresh_scoring_says():
    """Two updates of one batch: the present is that before each of them, the old that before the first."""
    seen = []

    @dataclass(frozen=True)
    class Looks(ClippedRatio):
        needs = frozenset({"old_logp", "old_entropy", "present_logp"})

        def over_update(self, batch):
            seen.append(batch)

    recipe = GRPO.patch(surrogate=Looks(), reuse=Reuse(epochs=2))
    subject = learner(recipe, sampling=Sampling(0.7))
    batch = subject.prepare(random_groups(3, 3))
    fresh = []
    for minibatch in passes(batch, recipe, HERE):
        with torch.no_grad():
            fresh.append(subject.score(minibatch))
        recipe.update(subject, Objective(recipe), minibatch)
    (first, second), (before, after) = seen, fresh
    assert (after.logp_NT - before.logp_NT).abs().max() > 0.01
    for told, scored in ((first, before), (second, after)):
        torch.testing.assert_close(told.present_logp_NT, scored.logp_NT, rtol=0, atol=1e-12)
        torch.testing.assert_close(told.old_logp_NT, before.logp_NT, rtol=0, atol=1e-12)
        torch.testing.assert_close(told.old_entropy_NT, before.entropy_NT, rtol=0, atol=1e-12)
    assert batch.present_logp_NT is None


def test_a_class_declares_by_its_members_and_not_to_kind():
    with pytest.raises(TypeError, match="Mine is no function; write compares as a member of the class"):

        @kind("advantage", compares="group")
        @dataclass(frozen=True)
        class Mine:
            def __call__(self, batch):
                return batch.reward_NT

    assert "mine" not in kinds("advantage")


def test_a_name_of_the_package_is_not_taken_over():
    """Or a run file that says ``token_mean`` would mean something else from then on."""
    built_in = kinds("aggregate")["token_mean"]

    def token_mean(batch):
        return batch.mask_NT.float()

    with pytest.raises(TypeError, match="aggregate has a value of its own called 'token_mean'"):
        kind("aggregate")(token_mean)
    assert kinds("aggregate")["token_mean"] is built_in


def test_a_cell_of_a_notebook_may_be_run_again():
    def of_the_cell(batch):
        return batch.reward_NT

    try:
        for _ in range(2):
            assert kind("advantage", compares="batch")(of_the_cell) is of_the_cell
    finally:
        del KINDS["advantage"]["of_the_cell"]
