"""The pocket task: word problems in the manner of GSM8K that a model of 172k parameters can learn on a laptop.

From nothing to reinforcement in minutes: ``documents`` to pretrain on, ``demonstrations`` to imitate, ``problems`` to
be rewarded for. Every text is a function of (seed, purpose, index), and a problem's template and numbers decide by
hash whether it is held out, so that no document, demonstration or training problem ever shows a held-out one.

The demonstrations are careless on purpose: only some 43 % reach the right answer (see ``_careless``). Whoever
imitates them cannot be expected to become better than they are, which leaves the reward something to teach.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Sequence
from functools import cached_property, lru_cache
from random import Random

from upslope.tasks import pocket_templates
from upslope.tasks.answer import score_numbers
from upslope.tasks.base import Split, Task
from upslope.tasks.pocket_templates import NAMES, TEMPLATES, THINGS, Numbers, Step, Template
from upslope.types import Problem, Score

NUM_TRAIN = 16_384
NUM_TEST = 1_056
NUM_DEMONSTRATIONS = 1_500
NUM_DOCUMENTS = 50_000

SHARES = {"sums": 0.25, "story": 0.40, "example": 0.35}
"""How often each kind of pretraining document is drawn."""
PASSAGES = {"sums": 4, "story": 2, "example": 2}
"""How many of a kind make one pretraining document: documents much shorter than this teach no arithmetic."""

SHARE_RIGHT = 0.43
"""How many of the demonstrations reach the right answer."""
SHARE_EARLY = 0.8
"""How many of the others stop a step early for certain; the rest make any of the possible mistakes."""


class Pocket(Task):
    """Generated word problems; use `open_pocket`."""

    independent = True
    name = "pocket"
    max_tokens = 32

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._numbers = {
            (template.name, held_out): template.split(held_out=held_out)
            for template in TEMPLATES
            for held_out in (False, True)
        }

    def problems(self, split: Split) -> Sequence[Problem]:
        """The training pool, or the held-out problems; both go through the templates in turn, so both are balanced."""
        return self._train if split == "train" else self._test

    def demonstrations(self) -> Sequence[Problem]:
        """Training problems with a worked response, right in some 43 % of the cases."""
        return self._demonstrations

    def documents(self) -> Sequence[str]:
        """Text for pretraining: 25 % sums, 40 % stories that work themselves out, 35 % examples that first ask.

        A document is some 80 tokens long. The sums are those of solutions, without their facts; a story is facts, sums
        and an ending; an example has the question between facts and sums. So the model comes to know all it needs but
        how an answer is given. All are drawn from the training side only.
        """
        return self._documents

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Score]:
        """1 where the number after the last ``####`` is the right one, else 0."""
        return score_numbers(problems, responses)

    def fingerprint(self) -> str:
        """A hash of the seed and of the code that draws from it: cheaper than the texts, and no less strict."""
        code = inspect.getsource(sys.modules[__name__]) + inspect.getsource(pocket_templates)
        return hashlib.sha256(f"{self.seed}\n{code}".encode()).hexdigest()[:16]

    @cached_property
    def _train(self) -> tuple[Problem, ...]:
        return tuple(self._problem("train", i) for i in range(NUM_TRAIN))

    @cached_property
    def _test(self) -> tuple[Problem, ...]:
        return tuple(self._problem("test", i) for i in range(NUM_TEST))

    @cached_property
    def _demonstrations(self) -> tuple[Problem, ...]:
        return tuple(self._problem("demonstration", i) for i in range(NUM_DEMONSTRATIONS))

    @cached_property
    def _documents(self) -> tuple[str, ...]:
        return tuple(self._document(i) for i in range(NUM_DOCUMENTS))

    def _problem(self, purpose: str, index: int) -> Problem:
        address = f"pocket/{purpose}/{index}"
        random = Random(f"{self.seed}/{address}")
        template = TEMPLATES[index % len(TEMPLATES)]
        numbers = random.choice(self._numbers[template.name, purpose == "test"])
        steps = template.work_out(numbers)
        assert steps is not None
        content = _tell(f"{template.facts} {template.asked}", template, numbers, random)
        if purpose == "demonstration" and random.random() >= SHARE_RIGHT:
            shown = _careless(template, numbers, random)
        else:
            shown = steps
        return Problem(
            id=address,
            messages=({"role": "user", "content": content},),
            truth=str(steps[-1].value),
            # Of a training problem only the answer is known: its worked solution would be better than any annotator's.
            demonstration=None if purpose == "train" else solution(shown),
            columns={"template": template.name, "numbers": numbers},
        )

    def _document(self, index: int) -> str:
        random = Random(f"{self.seed}/pocket/documents/{index}")
        kind = random.choices(list(SHARES), list(SHARES.values()))[0]
        return "\n".join(self._passage(kind, random) for _ in range(PASSAGES[kind]))

    def _passage(self, kind: str, random: Random) -> str:
        template = random.choice(TEMPLATES)
        numbers = random.choice(self._numbers[template.name, False])
        sums = "\n".join(map(str, template.work_out(numbers) or ()))
        if kind == "sums":
            return sums
        asked = f" {template.asked}" if kind == "example" else ""
        return _tell(f"{template.facts}{asked}\n{sums}\n{template.ending}", template, numbers, random)


@lru_cache(maxsize=2)
def open_pocket(seed: int = 0) -> Pocket:
    """The pocket task; nothing is generated before it is asked for, and in one process nothing twice: the stages of a
    pipeline, and the look at each before it begins, share the 50,000 documents.

    >>> problem = open_pocket().problems("test")[0]
    >>> open_pocket().score([problem], ["I guess\\n#### " + problem.truth])[0].reward
    1.0
    """
    return Pocket(seed)


def solution(steps: Sequence[Step]) -> str:
    """The response that writes down these steps and answers with the last value.

    >>> solution([Step(5, "*", 3, 15), Step(15, "+", 5, 20)])
    '5 * 3 = 15\\n15 + 5 = 20\\n#### 20'
    """
    return "\n".join([*map(str, steps), f"#### {steps[-1].value}"])


def _careless(template: Template, numbers: Numbers, random: Random) -> tuple[Step, ...]:
    """A worked solution with a wrong answer, whose arithmetic is nevertheless right.

    The annotator either stops a step early or takes a wrong operation somewhere: mistakes about what was asked, not
    about how to compute, because those are the mistakes from which a reward can lead away.
    """
    right = template.work_out(numbers)
    assert right is not None
    mistakes = [right[:-1]]
    for i in range(len(right)):
        for operation in "+-*/":
            operations = [*template.operations[:i], operation, *template.operations[i + 1 :]]
            steps = template.work_out(numbers, operations)
            if steps is not None:
                mistakes.append(steps)
    wrong = [steps for steps in mistakes if steps[-1].value != right[-1].value]
    early = wrong[0] is mistakes[0]  # not so where the last step changes nothing, as in 6 / 3 = 2, 4 - 2 = 2
    return wrong[0] if early and random.random() < SHARE_EARLY else random.choice(wrong)


def _tell(text: str, template: Template, numbers: Numbers, random: Random) -> str:
    a, b, c = random.sample(NAMES, 3)
    return text.format(A=a, B=b, C=c, things=random.choice(THINGS), **template.values(numbers))
