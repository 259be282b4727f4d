"""How the pocket model gets to where reinforcement learning begins: pretraining, then imitation.

Both are ordinary runs of the loop, with the recipes ``pretrain`` and ``sft``, kept in a cache.
"""

from __future__ import annotations

from upslope.train.settings import EvalSettings, LearnSettings, RunSettings, SaveSettings, TaskSettings

_POCKET = TaskSettings(name="pocket")
_QUIET = EvalSettings(problems=0)
_LAST = SaveSettings(every=0, keep=1, rollouts=0)

STAGES: dict[str, RunSettings] = {
    "pretrained": RunSettings(
        model="pocket:blank",
        recipe={"name": "pretrain"},
        task=_POCKET,
        steps=1600,
        problems=32,
        learn=LearnSettings(lr=4e-3, warmup=50, decay="cosine", beta2=0.99),
        eval=_QUIET,
        save=_LAST,
    ),
    "sft": RunSettings(
        model="pocket:pretrained",
        recipe={"name": "sft", "sample": {"replay": 0.25}},
        task=_POCKET,
        steps=235,
        problems=43,
        learn=LearnSettings(lr=1e-3, warmup=10, decay="cosine", beta2=0.99),
        eval=_QUIET,
        save=_LAST,
    ),
}
