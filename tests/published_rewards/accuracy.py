"""Right or wrong; None where the reference itself cannot be read."""

import re


def parse(text):
    found = re.findall(r"\\boxed\{([^{}]*)\}|<answer>(.*?)</answer>|####\s*(\S+)", text)
    return ["".join(groups).strip() for groups in found]


def accuracy_reward(completions: list[list[dict[str, str]]], solution: list[str], **kwargs) -> list[float | None]:
    rewards = []
    for completion, sol in zip(completions, solution):
        gold = parse(sol)
        if not gold:
            rewards.append(None)
            continue
        rewards.append(float(parse(completion[0]["content"])[-1:] == gold[-1:]))
    return rewards
