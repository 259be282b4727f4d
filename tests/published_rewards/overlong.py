"""Lengths in tokens, as the trainer counts them."""


def soft_overlong(completion_ids: list[list[int]], **kwargs) -> list[float]:
    max_len, cache = 20, 10
    rewards = []
    for ids in completion_ids:
        length = len(ids)
        if length <= max_len - cache:
            rewards.append(0.0)
        elif length <= max_len:
            rewards.append((max_len - cache - length) / cache)
        else:
            rewards.append(-1.0)
    return rewards
