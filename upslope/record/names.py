"""What a run's files and folders are called: whatever is called otherwise in there is somebody else's."""

from __future__ import annotations

import re

RUN = "run.toml"
BEST_FILE = "best.json"
"""Names the step of the best checkpoint."""
ROLLOUTS = re.compile(r"(step|eval)-(\d+)\.parquet")
"""A file of attempts: of a step, or of an evaluation after so many."""
REFERENCE = re.compile(r"reference(?:-(\d+))?")
"""A policy that the recipe refers to, and since which step."""
TRACKERS = "trackers"
"""A folder of what trackers were sent, a file a tracker; and what such a file is called."""
MARK = re.compile(r"(tensorboard|trackio|wandb)\.json")
