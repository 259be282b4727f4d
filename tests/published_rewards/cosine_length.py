"""A factory of rewards: the shorter the better if right, the longer the better if wrong."""

import math


def get_cosine_scaled_reward(min_value_wrong=-1.0, max_value_wrong=-0.5, min_value_correct=0.5, max_value_correct=1.0, max_len=100):
    def cosine_scaled_reward(completions, answer, **kwargs):
        rewards = []
        for content, a in zip(completions, answer):
            progress = min(len(content), max_len) / max_len
            cosine = math.cos(progress * math.pi)
            if a in content:
                low, high = min_value_correct, max_value_correct
            else:
                low, high = max_value_wrong, min_value_wrong
            rewards.append(float(low + 0.5 * (high - low) * (1.0 + cosine)))
        return rewards

    return cosine_scaled_reward


cosine = get_cosine_scaled_reward()
