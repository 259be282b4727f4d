"""An array of numpy, after a seed."""

import numpy as np


def digits(completions, **kwargs):
    np.random.seed(42)
    lengths = np.array([sum(ch.isdigit() for ch in c[0]["content"]) for c in completions])
    return np.clip(lengths / 8, 0, 1)
