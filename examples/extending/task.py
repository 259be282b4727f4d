"""A task of one's own: two methods are enough.

upslope train --task examples/extending/task.py:LastLetters --model DIRECTORY
"""

import random

import upslope as up

WORDS = ("apple", "river", "stone", "cloud", "tiger", "lemon", "piano", "ghost")


class LastLetters:
    """The last letters of some words, in order."""

    def __init__(self, seed=0, words=3):
        self.seed, self.words = seed, words

    def problems(self, split):
        draw = random.Random(f"{self.seed}/{split}")
        return [self.problem(f"{split}/{i}", draw.choices(WORDS, k=self.words)) for i in range(200)]

    def problem(self, id, words):
        question = f"Write the last letter of each word: {' '.join(words)}"
        return up.Problem(id, ({"role": "user", "content": question},), truth="".join(w[-1] for w in words))

    def score(self, problems, responses):
        """1 for the whole answer; and on the way a tenth for every letter that is right, where it was written."""
        found = []
        for problem, response in zip(problems, responses, strict=True):
            right = [
                place for place, pair in enumerate(zip(response, problem.truth, strict=False)) if len({*pair}) == 1
            ]
            steps = tuple((place + 1, 0.1) for place in right)
            found.append(up.Score(float(response.strip() == problem.truth), steps=steps))
        return found
