"""One function, bound to several values."""

import functools


def count_tag(completions, tag, scale=1.0, **kwargs):
    return [scale * c[0]["content"].count(tag) for c in completions]


think = functools.partial(count_tag, tag="<think>", scale=0.5)
