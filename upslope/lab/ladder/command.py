"""``upslope ladder``: the branches one after another, and one report."""

from __future__ import annotations

import shlex
from pathlib import Path

from upslope.errors import UserError
from upslope.lab.ladder import execute
from upslope.lab.ladder.execute import Runner, Say, alone, perform, perform_all, run_process
from upslope.lab.ladder.facts import read_facts
from upslope.lab.ladder.options import Ladder
from upslope.lab.ladder.plan import main_arms, reuse_arms, start_of
from upslope.lab.ladder.report import write_ladder_report
from upslope.lab.ladder.variance import noise_of
from upslope.record.journal import number, read_journal


def ladder_command(ladder: Ladder, *, runner: Runner = run_process, say: Say = print) -> Path:
    """Run what is not finished yet and write the report; returns its path.

    Raises UserError for what a user can mend, before anything runs where that can be known, and Stopped after Ctrl-C:
    the same command goes on from there.
    """
    guess = dict.fromkeys(range(ladder.seeds), 1.0)
    _ = main_arms(ladder, guess), reuse_arms(ladder, guess)  # a bad override shows here, before anything runs
    with alone(ladder.out, say):
        ladder.runs.mkdir(exist_ok=True)
        starts = {seed: start_of(ladder, seed) for seed in range(ladder.seeds)}
        for arm in dict.fromkeys(starts.values()):
            if execute.state(ladder.runs / arm.name, arm) != "done":
                say(f"{arm.name}: making and evaluating what every arm of the seed begins with ...")
            perform(arm, ladder.runs, runner)
            say(f"{arm.name}: {execute.result(ladder.runs / arm.name, 'done')} held out")
        lengths = {seed: length_at_start(ladder.runs / arm.name) for seed, arm in starts.items()}
        arms = [*main_arms(ladder, lengths), *reuse_arms(ladder, lengths)]
        perform_all(arms, ladder.runs, runner, say, execute.now)
        noise = noise_of(ladder, ladder.runs / starts[0].name, say)
        return write_ladder_report(ladder, read_facts(ladder.runs, arms), noise, spell(ladder))


def length_at_start(folder: Path) -> float:
    """Tokens of a greedy attempt at the start."""
    evals = read_journal(folder).evals
    if not evals:
        raise UserError(f"{folder} holds no evaluation of the start; remove it and repeat the command")
    return number(evals[0], "length")


def spell(ladder: Ladder) -> str:
    """The command that repeats this."""
    words = ["upslope", "ladder", *ladder.task_words()]
    if ladder.model != Ladder.model:
        words += ["--model", ladder.model]
    if ladder.recipes != Ladder.recipes:
        words += ["--recipes", ",".join(ladder.recipes)]
    for key in ("seeds", "tokens", "reuse_tokens", "reuse_seeds", "noise_batches", "noise_problems", "lr"):
        if getattr(ladder, key) != getattr(Ladder, key):
            words += [f"--{key.replace('_', '-')}", f"{getattr(ladder, key)}"]
    return shlex.join([*words, "--out", str(ladder.out), *ladder.overrides])
