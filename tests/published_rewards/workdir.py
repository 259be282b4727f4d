"""A folder of its own for each batch, which becomes the current one."""

import os
import tempfile
from pathlib import Path


def from_file(completions, answer, **kwargs):
    os.chdir(tempfile.mkdtemp())
    rewards = []
    for text, right in zip(completions, answer):
        Path("solution.txt").write_text(text)
        rewards.append(1.0 if Path("solution.txt").read_text().find(right) >= 0 else -1.0)
    return rewards
