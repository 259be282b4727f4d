"""The shares of a device's memory that the settings name, handed to a policy."""

from __future__ import annotations

from upslope.errors import UserError
from upslope.model.budgets import MemoryShares
from upslope.model.policy import Policy
from upslope.training.settings import RunSettings


def share_memory(policy: Policy, settings: RunSettings) -> None:
    """Raises UserError for a share that is asked for where nothing is known of the device's memory."""
    named = {
        "learn.activations_share": settings.learn.activations_share,
        "learn.logits_share": settings.learn.logits_share,
        "sample.cache_share": settings.sample.cache_share,
    }
    shares, usual = MemoryShares(*named.values()), MemoryShares()
    defaults = (usual.activations, usual.logits, usual.cache)
    for (name, share), default in zip(named.items(), defaults, strict=True):
        if policy.budgets.gauge is None and share != default:
            raise UserError(
                f"{name} = {share:g} is a share of a GPU's memory, and this is device {policy.device.type!r}, "
                "where the amounts are fixed; leave it out"
            )
    policy.budgets.shares = shares
