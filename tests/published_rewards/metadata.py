"""Cells that are changed while they are read."""


def level(completions, metadata, **kwargs):
    rewards = []
    for m in metadata:
        m["seen"] = m.get("seen", 0) + 1
        rewards.append(m.pop("level") / m["seen"])
    return rewards
