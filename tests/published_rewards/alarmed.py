"""Each check within a second, by an alarm."""

import signal


class Late(Exception):
    pass


def handler(signum, frame):
    raise Late


def timed(completions, answer, **kwargs):
    signal.signal(signal.SIGALRM, handler)
    rewards = []
    for completion, right in zip(completions, answer):
        try:
            signal.alarm(1)
            rewards.append(1.0 if right in completion[0]["content"] else 0.0)
        except Late:
            rewards.append(0.0)
    return rewards
