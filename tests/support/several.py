"""Small runs over several processes."""

import time

import pytest
import torch

from upslope.cluster.launch import company_of
from upslope.training.start import launched
from upslope.training.tables import to_settings
from upslope.training.view import NullView

LONG = [pytest.mark.slow, pytest.mark.exhaustive]
"""One of a kind is tried at every change, the others now and then (make test-exhaustive)."""
REWARD = """
def odd(completions, **kwargs):
    return [float(sum(map(len, str(c).split())) % 2) for c in completions]
"""


class Watching(NullView):
    """Keeps what is said, and does something when a step is done."""

    def __init__(self, at=None, do=None):
        self.said, self._at, self._do = [], at, do

    def message(self, text):
        self.said.append(text)

    def step(self, row):
        if self._do is not None and row["step"] == self._at:
            self._do()


GIVEN = set()
"""Steps whose requests were given to samplers, with weights."""


def note_given(replace):
    """Have them noted; ``replace`` as ``setattr``."""
    from upslope.cluster.remote_sampler import RemoteSampler

    give = RemoteSampler._give

    def noting(self, member, places, requests, sampling, address, loaded):
        share = give(self, member, places, requests, sampling, address, loaded)
        GIVEN.add(address.step)
        return share

    replace(RemoteSampler, "_give", noting)


class NextBegun(Watching):
    """Lets the learner learn from a step only once the next one was given away: so step t > 0 is written by version
    t - 1, where timing would choose between that and version t."""

    def __init__(self, steps, at=None, do=None):
        super().__init__(at, do)
        self._steps = steps

    def start(self, name, what, total, first):
        GIVEN.clear()
        self._next = first + 1

    def phase(self, name, *further):
        if name == "prepare":
            while self._next < self._steps and self._next not in GIVEN:
                time.sleep(0.01)
            self._next += 1


def fill(folder):
    """What the runs read: forty problems, and a reward."""
    (folder / "mine.py").write_text(REWARD)
    lines = [f'{{"prompt": "Sam has {i % 10} books. Sam buys {i // 4} more."}}' for i in range(40)]
    (folder / "data.jsonl").write_text("\n".join(lines) + "\n")
    return folder


SHORT = {"ppo": {"critic": {"warmup": 2}}}
"""What a recipe of so few steps needs."""


def settings(place, name, recipe="grpo", steps=5, rollouts=0, longest=8, max_rows=0, **cluster):
    return to_settings(
        {
            "name": name,
            "out": str(place / "runs"),
            "model": "pocket:blank",
            "steps": steps,
            "problems": 4,
            "recipe": {"name": recipe, "sample": {"group_size": 4}} | SHORT.get(recipe, {}),
            "task": {"name": "user", "data": str(place / "data.jsonl"), "rewards": [f"{place}/mine.py:odd"]},
            "sample": {"max_tokens": longest, "max_rows": max_rows},
            "learn": {"lr": 1e-3, "warmup": 0},
            "eval": {"problems": 0},
            "save": {"every": 2, "rollouts": rollouts},
            "cluster": cluster,
        }
    )


def trained(wanted, view=None, *, resume=False, since=None):
    with company_of(wanted.cluster) as company:
        return launched(wanted, lambda: view or NullView(), resume=resume, since=since, company=company)


def weights(run):
    return {name: tensor.detach().clone() for name, tensor in run.policy.weights().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def furthest(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)
