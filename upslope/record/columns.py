"""The journal's columns: of which group each is and what it says, for whatever shows runs; and a line's numbers under
grouped names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from upslope.record.journal import LARGEST


@dataclass(frozen=True)
class JournalColumn:
    """What a key of the journal's lines is.

    >>> COLUMNS["entropy"].group
    'policy'
    """

    group: str
    words: str
    """Its meaning, in one phrase."""


GROUPS = {
    "outcome": "what the attempts earned",
    "data": "what a step tried, kept and learnt from",
    "update": "what the updates did to the weights",
    "policy": "how the policy spreads and moves",
    "sampler": "between the weights that wrote an attempt and those that learn from it",
    "critic": "what a critic predicts",
    "time": "seconds, tokens a second, memory",
    "eval": "held-out problems and text",
    "other": "what a recipe, or code of your own, adds",
}
"""Every group, in the order in which people look at them."""

_GROUPED: dict[str, dict[str, str]] = {
    "outcome": {
        "reward": "mean reward of the attempts",
        "reward_std": "spread of the rewards, one standard deviation",
        "rewards": "every reward function's own mean and spread, and how often it did not apply",
        "accuracy": "share of attempts that are right",
        "length": "tokens of an attempt that the policy chose",
        "truncated": "share of attempts cut at the limit",
        "heard": "tokens of an attempt that the task's world wrote",
        "unanswered": "how often an attempt asked its world in vain",
        "turns": "turns of an attempt that the policy wrote",
        "forks": "how often a chat so far was rendered anew, since its template wrote it otherwise",
        "calls": "calls of tools in an attempt",
        "wrong_calls": "calls of tools in an attempt that failed",
        "unfinished": "share of attempts that a limit of turns or seconds ended",
        "timed_out": "attempts whose check took too long",
        "reward_shaped": "mean outcome after shaping",
    },
    "data": {
        "num_rollouts": "attempts",
        "num_tokens": "tokens of the attempts",
        "num_problems": "problems tried",
        "num_kept": "attempts kept",
        "num_learned": "attempts with a gradient, at every pass",
        "equal_groups": "share of problems whose attempts all earned the same",
        "num_known": "problems tried so far",
        "learnability": "mean estimate of p (1 - p) of the step's problems",
        "advantage_hard": "mean size of the advantage, fewer than a third of the attempts right",
        "advantage_medium": "mean size of the advantage, up to two thirds of the attempts right",
        "advantage_easy": "mean size of the advantage, more than two thirds of the attempts right",
    },
    "update": {
        "loss": "loss, mean over the step's updates",
        "grad_norm": "L2 norm of the gradient, mean over the step's updates",
        "lr": "learning rate of the last update",
        "num_updates": "updates of the step",
        "clip_low": "share of tokens whose gradient was cut on the low side",
        "clip_high": "share of tokens whose gradient was cut on the high side",
        "grad_norm_up": "norm of the gradient of what is made likelier",
        "grad_norm_down": "norm of the gradient of what is made less likely",
        "kl_budget": "most KL that a step of TRPO may use, nats a token",
        "cg_residual": "what conjugate gradients left of the equation",
        "cg_iterations": "iterations of conjugate gradients",
        "negative_curvature": "whether conjugate gradients met a direction that is not convex",
        "backtracks": "how often the step was shortened",
        "over_budget": "how often because it used too much KL",
        "no_gain": "how often because the surrogate did not improve",
        "gain": "improvement of the surrogate",
        "refused": "whether the step was refused",
    },
    "policy": {
        "entropy": "nats a token, of the distribution sampled from",
        "ratio_mean": "mean ratio of the policy to the one that the step began with",
        "ratio_max": "largest ratio of the policy to the one that the step began with",
        "effective_share": "effective sample size as a share of the tokens",
        "kl_step": "KL(before the step, after), nats a token",
        "kl_update": "KL(before the update, after), nats a token",
        "kl_reference": "KL(policy, reference), nats a token",
    },
    "sampler": {
        "logp_gap_mean": "mean gap between the sampler's and the learner's log-probabilities, nats",
        "logp_gap_max": "largest gap between the sampler's and the learner's log-probabilities, nats",
        "correction_mean": "mean factor of the correction",
        "correction_cut": "share of tokens that the correction bounded or dropped",
        "age_mean": "mean age of the weights that wrote a token, steps",
        "age_max": "largest age of the weights that wrote a token, steps",
        "handover_gap": "nats by which both sides differ after weights were handed over",
    },
    "critic": {
        "value_loss": "loss of the critic",
        "value_grad_norm": "L2 norm of the critic's gradient",
        "explained_variance": "share of the outcome's variance that the critic explains",
    },
    "time": {
        "seconds": "seconds by phase; of an evaluation, all of it",
        "spent": "seconds of all steps so far",
        "tokens_per_s": "tokens of the step by its seconds",
        "handover_seconds": "seconds that handing weights over took",
        "memory_gb": "peak memory, GB",
        "resident_gb": "memory held at the step's end, GB",
    },
    "eval": {
        "greedy": "greedy accuracy on held-out problems, with the ends of its 95 % interval",
        "lenient": "the same, answers read leniently",
        "pass_at": "share of problems solved by one of k attempts, with its interval",
        "maj_at": "share of problems solved by the vote of k attempts, with its interval",
        "num_held_out": "held-out problems that there are, of which num_problems were tried",
        "by": "greedy accuracy for each value of a column of the problems",
        "held_out_loss": "nats a token of held-out demonstrations, or text",
        "bits_per_byte": "bits a byte of held-out text",
        "held_out_tokens": "tokens of that text",
        "held_out_bytes": "bytes of that text",
    },
}
COLUMNS = {key: JournalColumn(group, words) for group, columns in _GROUPED.items() for key, words in columns.items()}
"""Every key that upslope itself writes, in the order of its group."""


def group_of(key: str, kind: str = "step") -> str:
    """The group of a key in a line of this kind: all that an evaluation says stays together.

    >>> group_of("reward"), group_of("reward", kind="eval"), group_of("my_own")
    ('outcome', 'eval', 'other')
    """
    if kind == "eval":
        return "eval"
    return COLUMNS[key].group if key in COLUMNS else "other"


def numbers_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Every number of a line, by ``GROUP/KEY``; inside tables ``GROUP/KEY/KEY``, where an estimate's own value has the
    table's name. What is no finite number is left out.

    >>> numbers_of({"kind": "step", "step": 3, "reward": 0.5, "loss": None, "seconds": {"sample": 1.5}})
    {'outcome/reward': 0.5, 'time/seconds/sample': 1.5}
    >>> numbers_of({"kind": "eval", "step": 3, "greedy": {"value": 0.4, "low": 0.3}, "pass_at": {"4": {"value": 0.7}}})
    {'eval/greedy': 0.4, 'eval/greedy/low': 0.3, 'eval/pass_at/4': 0.7}
    """
    kind = row.get("kind", "step")
    found: dict[str, float] = {}
    for way, value in numbers_in(row):
        name = [group_of(way[0], kind), way[0], *(key for key in way[1:] if key != "value")]
        found["/".join(name)] = value
    return found


def numbers_in(row: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], float]]:
    """Every number of a line with its way through the tables; ``step`` itself, and what is no finite number, is left
    out.

    >>> list(numbers_in({"kind": "step", "step": 3, "reward": 0.5, "loss": None, "seconds": {"update": 2}}))
    [(('reward',), 0.5), (('seconds', 'update'), 2.0)]
    """
    for key, value in row.items():
        way = (*above, key)
        if isinstance(value, Mapping):
            yield from numbers_in(value, way)
        elif _is_number(value) and way != ("step",):
            yield way, float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST  # NaN is not
