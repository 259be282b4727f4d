"""What each branch suffers from and what the next one does about it, judged by rules from a ladder's numbers.

A check is an expectation of the theory, the numbers that bear on it, and whether they bear it out. Nothing here knows
how a run turned out: every expectation can fail, and then the report says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from upslope.inspect.words import percent
from upslope.lab.ladder.facts import Facts, RunFacts
from upslope.lab.ladder.variance import Noise
from upslope.lab.ladder.verdict import Compared, Headache, Side, Sign, average, compare, reaches

LESS_NOISE = 1.1
"""Noise is lower if the quotient is at least this, and above 1 in both halves of the batches."""
RUNS_AWAY = 2.0
"""A step grows with reuse if 16 passes move the policy this many times as far as 1."""
DEARER, MORE_MEMORY = 1.2, 1.05
"""What counts as more seconds and more memory."""
KNOWS_SOMETHING = 0.1
"""Explained variance of the outcome from which a critic tells good states from bad."""
FALLEN = 0.5
"""Entropy has fallen if less than this share of it is left."""
WASTED, CUT = 0.25, 0.02
"""Shares of equal groups, and of attempts cut by the limit, that are worth a cure."""


def mean(runs: Sequence[RunFacts], value: Callable[[RunFacts], float]) -> float:
    """Over the seeds that recorded it; NaN if none did."""
    return average([value(run) for run in runs])


def headaches(facts: Facts, noise: Mapping[str, Noise]) -> list[Headache]:
    """Every headache in the order of the family tree."""
    return [rule(facts, noise) for rule in RULES]


# -- the rules ----------------------------------------------------------------------------------------------------


def capped(facts: Facts, noise: Mapping[str, Noise]) -> Headache:
    head = Headache("sft", "rft", "imitation is capped by its data", "learn from attempts of one's own that were right")
    if gone := _missing(head, facts, "sft", "rft"):
        return gone
    sft, rft = facts.main["sft"], facts.main["rft"]
    gained = _accuracy(sft, sft, first=_after, second=_before)
    apart = _accuracy(rft, sft)
    return _with(
        head,
        Sign("pain", "more imitation does not raise accuracy by more than the spread", _from_to(gained),
             None if gained.larger is None else not gained.larger),
        Sign("cure", "rft ends above sft by more than the spread", _against(apart), apart.larger),
    )  # fmt: skip


def kept_successes(facts: Facts, noise: Mapping[str, Noise]) -> Headache:
    head = Headache("rft", "reinforce", "a filter only keeps or drops an attempt", "weigh every attempt by its reward")
    if gone := _missing(head, facts, "rft", "reinforce"):
        return gone
    rft, plain = facts.main["rft"], facts.main["reinforce"]
    taught, learnt, ended = mean(rft, lambda r: r.taught_share), _speed(plain, rft), _accuracy(plain, rft)
    return _with(
        head,
        Sign("pain", "rft learns nothing from some of its attempts", f"{percent(taught)} of them had a gradient",
             taught < 1 - 1e-9 if _known(taught) else None),
        Sign("cure", "reinforce learns sooner: more of its attempts are right", _against(learnt), learnt.larger),
        Sign("cure", "reinforce ends above rft", _against(ended), ended.larger),
    )  # fmt: skip


def noisy(facts: Facts, noise: Mapping[str, Noise]) -> Headache:
    head = Headache("reinforce", "reinforce-baseline", "the gradient is noisy", "compare an attempt with its siblings")
    if gone := _missing(head, facts, "reinforce", "reinforce-baseline"):
        return gone
    plain, base = facts.main["reinforce"], facts.main["reinforce-baseline"]
    shares = [mean(runs, lambda r: r.taught_share) for runs in (plain, base)]
    learnt = _speed(base, plain)
    return _with(
        head,
        _quieter("pain", "returns", "group_mean", noise),
        Sign("cure", "failures teach too: more attempts have a gradient",
             f"{percent(shares[1])} of the attempts, against {percent(shares[0])}", shares[1] > shares[0]),
        Sign("cure", "it learns sooner: more of its attempts are right", _against(learnt), learnt.larger),
    )  # fmt: skip


def dear(facts: Facts, noise: Mapping[str, Noise]) -> Headache:
    head = Headache("reinforce-baseline", "importance", "attempts are dear, and each is used once",
                 "several updates a batch, each token weighed by its ratio")  # fmt: skip
    if gone := _missing(head, facts, "reinforce-baseline", "importance"):
        return gone
    base, reused = facts.main["reinforce-baseline"], facts.main["importance"]
    shares = [_share(runs, "sample") for runs in (base, reused)]
    learnt = _speed(reused, base)
    return _with(
        head,
        Sign("pain", "sampling takes more of the time than learning does",
             f"{percent(shares[0])} of the seconds (with reuse {percent(shares[1])})", shares[0] > 0.5),
        Sign("cure", "from as many tokens it learns sooner: more of its attempts are right", _against(learnt),
             learnt.larger),
    )  # fmt: skip


def runaway(facts: Facts, noise: Mapping[str, Noise]) -> Headache:
    head = Headache("importance", "trpo", "reuse without a limit runs away", "the best step inside a budget of KL")
    few, many = facts.reuse.get(("importance", 1)), facts.reuse.get(("importance", 16))
    held, trpo = facts.reuse.get(("trpo", 16)), facts.main.get("trpo")
    if not (few and many and held and trpo):
        return replace(head, missing=("importance", "trpo", "each with 1 and 16 passes"))
    kl = [mean(runs, lambda r: average(r.kl)) for runs in (few, many)]
    share = [mean(runs, lambda r: r.effective_share) for runs in (few, many)]
    worse, safer = _accuracy(few, many), _accuracy(held, many)
    stopped = [r.failed for r in many if r.failed]
    steps = [k / r.kl_budget for r in trpo for k in r.kl_update]
    within = f"at most {percent(max(steps))} of it in {len(steps)} steps" if steps else "no step recorded"
    return _with(
        head,
        Sign("pain", f"16 passes move the policy at least {RUNS_AWAY:g} times as far a step as 1 pass",
             f"KL of a step {kl[0]:.2g} -> {kl[1]:.2g} nats a token", reaches(kl[1], RUNS_AWAY * kl[0])),
        Sign("pain", "few attempts carry the weight: the effective sample size falls below half",
             f"least share {percent(share[0])} -> {percent(share[1])}", reaches(0.5, share[1])),
        Sign("pain", "with 16 passes it ends below 1 pass by more than the spread, or stops altogether",
             _against(worse) + "".join(f"; stopped: {s}" for s in stopped), True if stopped else worse.larger),
        Sign("cure", "trpo keeps its budget of KL at every update", within, max(steps) <= 1 if steps else None),
        Sign("cure", "with 16 passes trpo ends above importance by more than the spread", _against(safer),
             safer.larger),
    )  # fmt: skip


def curved(facts: Facts, noise: Mapping[str, Noise]) -> Headache:
    head = Headache("trpo", "ppo", "curvature is dear", "clip the ratio; a critic judges every token")
    if gone := _missing(head, facts, "trpo", "ppo"):
        return gone
    trpo, ppo, plain = facts.main["trpo"], facts.main["ppo"], facts.main.get("importance")
    cost = {name: mean(runs, lambda r: r.update_seconds) for name, runs in (("trpo", trpo), ("ppo", ppo))}
    first = mean(plain, lambda r: r.update_seconds) if plain else math.nan
    free, clip = (facts.reuse.get((name, 16)) for name in ("importance", "ppo"))
    kl = [mean(runs, lambda r: average(r.kl)) if runs else math.nan for runs in (free, clip)]
    knows, ended = mean(ppo, lambda r: r.explained_variance), _accuracy(ppo, trpo)
    return _with(
        head,
        Sign("pain", f"an update inside the ball takes {DEARER:g} times as long as a gradient step, or more",
             f"{cost['trpo']:.2f} s, against {first:.2f} s of importance", reaches(cost["trpo"], DEARER * first)),
        Sign("cure", "an update of ppo, critic included, is cheaper than one of trpo",
             f"{cost['ppo']:.2f} s, against {cost['trpo']:.2f} s", reaches(cost["trpo"], cost["ppo"])),
        Sign("cure", "with 16 passes clipping keeps the step shorter than the bare ratio does",
             f"KL of a step {kl[1]:.2g}, against {kl[0]:.2g} nats a token", reaches(kl[0], kl[1])),
        Sign("cure", f"the critic explains more than {KNOWS_SOMETHING:g} of the outcome's variance late in the run",
             f"{knows:.2f}", reaches(knows, KNOWS_SOMETHING)),
        Sign("cure", "ppo does not end below trpo by more than the spread", _against(ended), ended.not_smaller),
    )  # fmt: skip


def critics(facts: Facts, noise: Mapping[str, Noise]) -> Headache:
    head = Headache("ppo", "grpo", "the critic is dear", "the attempts at one problem are each other's baseline")
    if gone := _missing(head, facts, "ppo", "grpo"):
        return gone
    ppo, grpo = facts.main["ppo"], facts.main["grpo"]
    memory = [mean(runs, lambda r: r.memory_gb) for runs in (ppo, grpo)]
    cost = [mean(runs, lambda r: r.update_seconds) for runs in (ppo, grpo)]
    idle = mean(ppo, lambda r: r.idle_tokens)
    ended, learnt = _accuracy(grpo, ppo), _speed(grpo, ppo)
    return _with(
        head,
        Sign("pain", f"with the critic the process takes {MORE_MEMORY:g} times the memory, or more",
             f"{memory[0]:.2f} GB, against {memory[1]:.2f} GB", reaches(memory[0], MORE_MEMORY * memory[1])),
        Sign("pain", f"with the critic an update takes {DEARER:g} times as long, or more",
             f"{cost[0]:.2f} s, against {cost[1]:.2f} s", reaches(cost[0], DEARER * cost[1])),
        Sign("pain", "tokens go by while the critic alone learns",
             f"{idle:,.0f} of {mean(ppo, lambda r: r.tokens):,.0f}", idle > 0),
        _quieter("cure", "gae", "group_z_score", noise),
        Sign("cure", "grpo does not end below ppo by more than the spread", _against(ended), ended.not_smaller),
        Sign("cure", "grpo learns sooner: more of its attempts are right", _against(learnt), learnt.larger),
    )  # fmt: skip


def wasted(facts: Facts, noise: Mapping[str, Noise]) -> Headache:
    head = Headache("grpo", "dapo", "entropy falls, equal groups teach nothing, length misleads",
                 "clip-higher, dynamic sampling, token mean, overlong shaping")  # fmt: skip
    if gone := _missing(head, facts, "grpo", "dapo"):
        return gone
    grpo, dapo = facts.main["grpo"], facts.main["dapo"]
    first = mean(grpo, lambda r: r.first_entropy)
    kept = compare(*_paired(dapo, grpo, lambda r: r.last_entropy, lambda r: r.last_entropy))
    equal, tried = mean(grpo, lambda r: r.equal_groups), mean(dapo, lambda r: r.tried)
    cut = [mean(runs, lambda r: r.truncated[1]) for runs in (grpo, dapo)]
    ended, learnt = _accuracy(dapo, grpo), _speed(dapo, grpo)
    return _with(
        head,
        Sign("pain", f"grpo keeps less than {percent(FALLEN)} of its entropy",
             f"{first:.3f} -> {kept.second:.3f} nats a token", reaches(FALLEN * first, kept.second)),
        Sign("pain", f"late in grpo at least {percent(WASTED)} of the problems have attempts of equal reward",
             percent(equal), reaches(equal, WASTED)),
        Sign("pain", f"late in grpo at least {percent(CUT)} of the attempts are cut by the limit",
             percent(cut[0]), reaches(cut[0], CUT)),
        Sign("cure", "dapo ends with more entropy, by more than the spread",
             f"{kept.first:.3f}, against {kept.second:.3f} nats a token (spread {kept.spread:.3f})",
             kept.larger),
        Sign("cure", "dapo learns only from groups that differ, and that is worth its price: it ends above grpo",
             f"{tried:.2f} attempts made for one learnt from; {_against(ended)}", ended.larger),
        Sign("cure", "dapo learns sooner: more of its attempts are right", _against(learnt), learnt.larger),
        Sign("cure", "late in dapo fewer attempts are cut by the limit than late in grpo",
             f"{percent(cut[1])}, against {percent(cut[0])}", cut[1] < cut[0] if _known(cut[1]) else None),
    )  # fmt: skip


RULES = (capped, kept_successes, noisy, dear, runaway, curved, critics, wasted)


# -- pieces -------------------------------------------------------------------------------------------------------


def _with(head: Headache, *checks: Sign) -> Headache:
    return replace(head, checks=checks)


def _missing(head: Headache, facts: Facts, *recipes: str) -> Headache | None:
    gone = tuple(name for name in recipes if not facts.main.get(name))
    return replace(head, missing=gone) if gone else None


def _quieter(side: Side, loud: str, quiet: str, noise: Mapping[str, Noise]) -> Sign:
    """Whether one advantage's gradient is noisier than another's, at the start, per unit of signal."""
    expected = f"at the start the gradient with {loud} is at least {LESS_NOISE:g} times as noisy as with {quiet}"
    a, b = noise.get(loud), noise.get(quiet)
    if a is None or b is None:
        return Sign(side, expected, "not measured", None)
    quotients = [x / y if y > 0 else math.nan for x, y in zip((a.ratio, *a.halves), (b.ratio, *b.halves), strict=True)]
    measured = f"noise to signal {a.ratio:.2f}, against {b.ratio:.2f}: {quotients[0]:.2f} times "
    measured += f"({quotients[1]:.2f} and {quotients[2]:.2f} in the two halves of the batches)"
    if not all(map(_known, quotients)):
        return Sign(side, expected, measured, None)
    return Sign(side, expected, measured, quotients[0] >= LESS_NOISE and min(quotients[1:]) > 1)


def _after(run: RunFacts) -> float:
    return run.after


def _before(run: RunFacts) -> float:
    return run.before


def _paired(
    one: Sequence[RunFacts],
    two: Sequence[RunFacts],
    first: Callable[[RunFacts], float],
    second: Callable[[RunFacts], float],
) -> tuple[list[float], list[float]]:
    """Two numbers for every seed that both have."""
    others = {run.seed: run for run in two}
    pairs = [(first(run), second(others[run.seed])) for run in one if run.seed in others]
    return [a for a, _ in pairs], [b for _, b in pairs]


def _accuracy(
    one: Sequence[RunFacts],
    two: Sequence[RunFacts],
    first: Callable[[RunFacts], float] = _after,
    second: Callable[[RunFacts], float] = _after,
) -> Compared:
    return compare(*_paired(one, two, first, second), max(one[0].num_problems, 1))


def _speed(one: Sequence[RunFacts], two: Sequence[RunFacts]) -> Compared:
    num = min(max(r.num_attempts, 1) for r in (*one, *two))
    return compare(*_paired(one, two, lambda r: r.right_share, lambda r: r.right_share), num)


def _against(c: Compared) -> str:
    return f"{percent(c.first)}, against {percent(c.second)} (spread {100 * c.spread:.1f} points)"


def _from_to(c: Compared) -> str:
    return f"{percent(c.second)} -> {percent(c.first)} (spread {100 * c.spread:.1f} points)"


def _share(runs: Sequence[RunFacts], phase: str) -> float:
    return mean(runs, lambda r: r.seconds.get(phase, 0.0) / r.cost if r.cost else math.nan)


def _known(value: float) -> bool:
    return math.isfinite(value)
