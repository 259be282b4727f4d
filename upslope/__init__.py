"""Reinforcement learning of language models with checkable rewards: one loop, a recipe of slots.

>>> import upslope as up
>>> up.GRPO.advantage
GroupZScore(eps=0.0001, std='sample')

Every name is loaded when it is first used: ``import upslope`` costs nothing and changes nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from upslope.native.threads import before_torch

__version__ = "0.1.0"

if TYPE_CHECKING:  # a type checker and an editor see the same names
    from upslope import tasks as tasks
    from upslope.algo.family import (
        CISPO as CISPO,
        CLIP_COV as CLIP_COV,
        DAPO as DAPO,
        DEEPSEEK_V3_2 as DEEPSEEK_V3_2,
        DISTILL as DISTILL,
        DPPO as DPPO,
        DR_GRPO as DR_GRPO,
        FAMILY as FAMILY,
        GMPO as GMPO,
        GRPO as GRPO,
        GSPO as GSPO,
        IMPORTANCE as IMPORTANCE,
        KL_COV as KL_COV,
        M2PO as M2PO,
        MAXRL as MAXRL,
        PPO as PPO,
        PRETRAIN as PRETRAIN,
        REINFORCE as REINFORCE,
        REINFORCE_BASELINE as REINFORCE_BASELINE,
        REINFORCE_PLUS_PLUS as REINFORCE_PLUS_PLUS,
        REINFORCE_PLUS_PLUS_BASELINE as REINFORCE_PLUS_PLUS_BASELINE,
        RFT as RFT,
        RLOO as RLOO,
        SAPO as SAPO,
        SCALERL as SCALERL,
        SFT as SFT,
        TOP_ENTROPY as TOP_ENTROPY,
        TRPO as TRPO,
    )
    from upslope.algo.outcome import Scored as Scored
    from upslope.algo.recipe import Recipe as Recipe
    from upslope.algo.slots import kind as kind
    from upslope.api import evaluate as evaluate, sample as sample, score as score, train as train
    from upslope.errors import Stopped as Stopped, UserError as UserError
    from upslope.lab.pipeline.command import pipeline as pipeline
    from upslope.tasks.base import Task as Task
    from upslope.tasks.episode import ConversationLimits as ConversationLimits, Episode as Episode
    from upslope.training.run import Run as Run
    from upslope.types import (
        Batch as Batch,
        Problem as Problem,
        Rollout as Rollout,
        Sampling as Sampling,
        Score as Score,
    )

_MODULES = {
    "upslope.algo.family": (
        *("CISPO", "CLIP_COV", "DAPO", "DEEPSEEK_V3_2", "DISTILL", "DPPO", "DR_GRPO", "FAMILY", "GMPO", "GRPO"),
        *("GSPO", "IMPORTANCE", "KL_COV", "M2PO", "MAXRL", "PPO", "PRETRAIN", "REINFORCE", "REINFORCE_BASELINE"),
        *("REINFORCE_PLUS_PLUS", "REINFORCE_PLUS_PLUS_BASELINE", "RFT", "RLOO", "SAPO", "SCALERL", "SFT"),
        *("TOP_ENTROPY", "TRPO"),
    ),
    "upslope.algo.outcome": ("Scored",),
    "upslope.algo.recipe": ("Recipe",),
    "upslope.algo.slots": ("kind",),
    "upslope.api": ("evaluate", "sample", "score", "train"),
    "upslope.errors": ("Stopped", "UserError"),
    "upslope.lab.pipeline.command": ("pipeline",),
    "upslope.tasks.base": ("Task",),
    "upslope.tasks.episode": ("ConversationLimits", "Episode"),
    "upslope.training.run": ("Run",),
    "upslope.types": ("Batch", "Problem", "Rollout", "Sampling", "Score"),
}
"""Which module has which public names; the same as above, for those that ask at run time."""
_WHERE = {name: module for module, names in _MODULES.items() for name in names}
__all__ = ["__version__", "tasks", *_WHERE]


def __getattr__(name: str) -> Any:
    if name == "tasks":
        return importlib.import_module("upslope.tasks")
    if name not in _WHERE:
        raise AttributeError(f"module 'upslope' has no attribute {name!r}")
    before_torch()  # the module may load it
    found = globals()[name] = getattr(importlib.import_module(_WHERE[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
