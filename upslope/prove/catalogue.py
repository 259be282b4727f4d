"""All claims, in order."""

from __future__ import annotations

from upslope.prove import (
    baseline,
    clipping,
    critic,
    curvature,
    dropping,
    imitation,
    leash,
    length,
    ratio,
    sampling,
    score,
    splitting,
)
from upslope.prove.claim import Claim

CLAIMS: tuple[Claim, ...] = (
    score.log_derivative,
    score.reinforce,
    imitation.imitation,
    baseline.constant_baseline,
    baseline.group_baselines,
    dropping.equal_groups,
    ratio.importance,
    clipping.ppo_clip,
    leash.kl_leash,
    curvature.natural_gradient,
    critic.gae,
    critic.grpo_is_ppo,
    length.length,
    clipping.dapo_rules,
    sampling.sampling_distribution,
    splitting.splitting,
    ratio.detached_ratio,
)
