"""A decorator around every reward: it measures, and turns a failure into nothing."""

import functools
import time


def safe(func):
    @functools.wraps(func)
    def wrapper(*args, **kwargs):
        start = time.time()
        try:
            return func(*args, **kwargs)
        finally:
            wrapper.seconds = time.time() - start

    return wrapper


@safe
def boxed(completions, **kwargs):
    return [1.0 if "\\boxed{" in c else 0.0 for c in completions]
