"""Two rewards of one data set with two kinds of problems: each is for its own."""


def math_reward(prompts, completions, kind, answer, **kwargs):
    return [float(a in c) if k == "math" else None for c, k, a in zip(completions, kind, answer)]


def prose_reward(prompts, completions, kind, **kwargs):
    return [min(len(c) / 50, 1.0) if k == "prose" else None for c, k in zip(completions, kind)]
