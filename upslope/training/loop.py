"""The loop. Every algorithm of the family is this page run with another recipe."""

from __future__ import annotations

from upslope.algo.objective import Objective
from upslope.learn.prepare import passes
from upslope.rollout.address import Address
from upslope.training.turns import Turns


def train(run: Turns) -> None:
    """Run to the end, or until stopped. What each line does depends on the recipe's slots and on nothing else."""
    recipe, sampler, learner = run.recipe, run.sampler, run.learner
    objective = Objective(recipe)
    for step in run.steps():
        with run.phase("sample"):  # who acts, how many times, which groups stay
            collected = run.collect(recipe.sample, step, run.sampled)
        with run.phase("prepare"):  # rewards to advantages; only what the slots need
            batch = learner.prepare(recipe, collected.kept)
        with run.measured(step, batch), run.phase("update"):  # a step, or several if the batch is reused
            outcomes = [
                recipe.update(learner, objective, minibatch)
                for minibatch in passes(batch, recipe, Address(run.seed, "reuse", step))
            ]
        sampler.load(learner.weights(), version=step + 1)
        run.record(step, collected, batch, outcomes)  # journal, rollouts, checkpoint
