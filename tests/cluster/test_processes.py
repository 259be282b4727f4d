"""Runs over several processes by Ray: they learn what one process learns, and whatever dies is named or replaced."""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from several import LONG, Watching, fill, furthest, same, settings, trained, weights

from upslope.errors import UserError
from upslope.record.checkpoint import newest

pytest.importorskip("ray")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("cluster"))


@pytest.fixture(scope="module")
def alone(place):
    return trained(settings(place, "alone"))


SHAPE = {"samplers": 2, "rewards": 1, "ranks": 2}


@pytest.fixture(scope="module")
def undisturbed(place):
    return trained(settings(place, "undisturbed", steps=8, **SHAPE))


def send(number, view, *roles):
    """Send a signal to the processes that were said to have these roles."""
    for role in roles:
        told = [text for text in view.said if re.search(role + r" \(process", text)][-1]
        os.kill(int(re.search(role + r" \(process (\d+) on", told).group(1)), number)


def test_attempts_that_others_write_and_score_give_the_same_bits(place, alone):
    """Sums have one order here, so the weights are equal bit for bit, and so is what the journal says of the steps."""
    run = trained(settings(place, "shared", samplers=2, rewards=1))
    assert same(weights(run), weights(alone))
    names = ("reward", "length", "loss", "grad_norm", "num_tokens")
    assert [[row[n] for n in names] for row in run.rows()] == [[row[n] for n in names] for row in alone.rows()]


@pytest.mark.parametrize("recipe", ["grpo", pytest.param("ppo", marks=LONG)])
def test_two_learners_learn_what_one_learns(place, recipe):
    """Each adds up its own rows first, so sums are rounded otherwise: the gradient is off by 1e-7 of itself. AdamW
    divides by the root of its mean square, which makes of it up to lr times the rounding of the smallest gradients."""
    one = trained(settings(place, f"one-{recipe}", recipe))
    two = trained(settings(place, f"two-{recipe}", recipe, ranks=2))
    assert furthest(weights(one), weights(two)) < 2e-5
    gaps = [abs(a["grad_norm"] / b["grad_norm"] - 1) for a, b in zip(one.rows(), two.rows(), strict=True)]
    assert gaps[0] < 1e-5


def test_a_sampler_and_a_reward_worker_that_die_change_nothing(place, alone):
    view = Watching(at=1, do=lambda: send(signal.SIGKILL, view, "sampler 0", "reward worker 0"))
    run = trained(settings(place, "killed", samplers=2, rewards=1), view)
    assert same(weights(run), weights(alone))
    told = [text for text in view.said if "takes its place" in text]
    assert len(told) == 2
    assert "died: its process ended, killed" in told[0]


def test_a_learner_that_dies_is_named_and_the_run_goes_on_from_its_checkpoint(place, alone):
    wanted = settings(place, "one-less", ranks=2)
    view = Watching(at=2, do=lambda: send(signal.SIGKILL, view, "learner 1"))
    begun = time.monotonic()
    with pytest.raises(UserError, match=r"learner 1 \(process \d+ on .*\) died: .*continue with: upslope train"):
        trained(wanted, view)
    assert time.monotonic() - begun < 120
    assert newest(place / "runs" / "one-less" / "checkpoints") is not None
    run = trained(wanted, resume=True)
    assert furthest(weights(run), weights(alone)) < 2e-5


SHARDS = {"ranks": 2, "shard": True}


@pytest.fixture(scope="module")
def in_shards(place):
    """A policy, a reference, and a critic whose warm-up is over before the step from which others go on."""
    return trained(settings(place, "in-shards", "ppo", steps=4, **SHARDS))


@pytest.mark.parametrize(
    ("begun", "shape", "bound"),
    [
        ("in-shards", SHARDS, 0),
        pytest.param("in-shards", SHARDS | {"ranks": 3}, 2e-5, marks=LONG),
        pytest.param("in-shards", {}, 2e-5, marks=LONG),
        pytest.param("whole", SHARDS, 2e-5, marks=LONG),
    ],
    ids=["2 to 2", "2 to 3", "2 to 1", "whole to 2"],
)
def test_a_run_goes_on_in_shards_or_without(place, in_shards, begun, shape, bound):
    """From the checkpoint of step 2, up to the end: on as many learners with the same bits, on others as above."""
    undisturbed = in_shards
    if begun != "in-shards":
        undisturbed = trained(settings(place, begun, "ppo", steps=4))
    name = f"{begun}-to-{shape.get('ranks', 1)}"
    shutil.copytree(place / "runs" / begun, place / "runs" / name)
    view = Watching()
    run = trained(settings(place, name, "ppo", steps=4, **shape), view, resume=True, since=2)
    assert run.first_step == 2 and furthest(weights(run), weights(undisturbed)) <= bound
    gaps = [abs(a["grad_norm"] / b["grad_norm"] - 1) for a, b in zip(run.rows(), undisturbed.rows(), strict=True)]
    assert max(gaps) <= (1e-4 if bound else 0)


def test_a_run_in_shards_is_saved_when_the_others_have_ended(place, in_shards):
    in_shards.save(place / "saved")
    whole = newest(place / "runs" / "in-shards" / "checkpoints").folder / "model.safetensors"
    assert (place / "saved" / "model.safetensors").read_bytes() == whole.read_bytes()


def test_a_sampler_that_hangs_is_named_and_replaced(place, alone):
    view = Watching(at=1, do=lambda: send(signal.SIGSTOP, view, "sampler 0"))
    run = trained(settings(place, "hangs", samplers=1, patience=4), view)
    assert any("sampler 0" in text and "does not answer" in text for text in view.said)
    assert same(weights(run), weights(alone))


def test_stale_attempts_are_weighed_and_counted(place):
    """Step 0 learns from what the first weights wrote, step 1 from the same or the next, and none is older than two
    updates; the recipe, which trusts its sampler, is given weights, and says so in run.toml."""
    run = trained(settings(place, "stale", samplers=1, rewards=1, staleness=2, steps=6))
    ages = [row["age_max"] for row in run.rows()]
    assert ages[0] == 0 and max(ages) <= 2 and len(ages) == 6
    text = (place / "runs" / "stale" / "run.toml").read_text()
    assert "truncated_weights" in text


NOWHERE = """
import pathlib, sys, threading
from several import settings, trained
from upslope.errors import UserError
try:
    trained(settings(pathlib.Path(sys.argv[1]), "nowhere", samplers=1, address="ray://127.0.0.1:9"))
except UserError as error:
    assert threading.active_count() < 50
    print(error)
"""


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_cluster_that_is_not_there_is_named(place):
    """In a process of its own: Ray's client leaves threads behind that disturb the next cluster of a process."""
    support = str(Path(__file__).parents[1] / "support")
    paths = os.pathsep.join([support, str(Path(__file__).parents[2])])
    asked = [sys.executable, "-c", NOWHERE, str(place)]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=300, env=os.environ | {"PYTHONPATH": paths})
    assert done.stdout.startswith("cluster.address = 'ray://127.0.0.1:9'"), done.stderr
    assert done.stdout.count("\n") == 1


KILLS = 5
"""Of a run, resumptions and all."""


class Killing(Watching):
    """Kills a process of a random role a moment after a step, until there were enough."""

    ROLES = ("sampler 0", "sampler 1", "reward worker 0", "learner 1")

    def __init__(self, chance, most):
        super().__init__()
        self._chance, self._most, self.killed = chance, most, []

    def step(self, row):
        if len(self.killed) < self._most:
            role = self._chance.choice(self.ROLES)
            threading.Timer(self._chance.random() / 2, self._kill, (role,)).start()

    def _kill(self, role):
        with contextlib.suppress(ProcessLookupError):
            send(signal.SIGKILL, self, role)
            self.killed.append((role, time.monotonic()))


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(10))
def test_whoever_is_killed_when_ever_the_weights_are_those_of_an_undisturbed_run(place, undisturbed, seed):
    """Each run goes on until it ends; a learner's death ends it with the cause, within a minute, and it is resumed."""
    chance = random.Random(seed)
    wanted, resume, killed = settings(place, f"random-{seed}", steps=8, **SHAPE), False, 0
    while True:
        view = Killing(chance, KILLS - killed)
        try:
            run = trained(wanted, view, resume=resume)
            break
        except UserError as error:
            assert "learner 1" in str(error), error
            assert time.monotonic() - view.killed[-1][1] < 60
            resume = newest(place / "runs" / wanted.name / "checkpoints") is not None
            if not resume:
                shutil.rmtree(place / "runs" / wanted.name)
        finally:
            killed += len(view.killed)
    print(f"{killed} kills", end=" ", flush=True)
    assert same(weights(run), weights(undisturbed))
