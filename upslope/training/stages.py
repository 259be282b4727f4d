"""How the pocket model gets to where reinforcement learning begins: pretraining, then imitation.

Both are ordinary runs of the loop, with the recipes ``pretrain`` and ``sft``, kept in a cache.
"""

from __future__ import annotations

from upslope.learn.settings import LearnSettings
from upslope.training.settings import EvalSettings, RunSettings, SaveSettings, TaskSettings

_POCKET = TaskSettings(name="pocket")
_QUIET = EvalSettings(problems=0)
_LAST = SaveSettings(every=0, keep=1, rollouts=0)

STAGES: dict[str, RunSettings] = {
    "pretrained": RunSettings(
        model="pocket:blank",
        recipe={"name": "pretrain"},
        task=_POCKET,
        steps=2500,
        problems=16,  # many small updates teach arithmetic sooner than few large ones (docs/lab-notes.md)
        learn=LearnSettings(dtype="float32", lr=5e-3, warmup=40, decay="cosine", weight_decay=0.01),
        eval=_QUIET,
        save=_LAST,
    ),
    "sft": RunSettings(
        model="pocket:pretrained",
        recipe={"name": "sft", "sample": {"replay": 0.2}},
        task=_POCKET,
        steps=235,
        problems=40,  # 32 demonstrations and 8 replayed documents: five passes over the demonstrations
        learn=LearnSettings(dtype="float32", lr=1e-3, warmup=10, decay="linear"),
        eval=_QUIET,
        save=_LAST,
    ),
}
