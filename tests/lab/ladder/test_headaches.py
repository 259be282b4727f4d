"""The rules: every expectation can hold and can fail, and what did not run is not judged."""

from dataclasses import replace

import pytest

from upslope.lab.ladder.facts import Facts, Point, RunFacts
from upslope.lab.ladder.headaches import RULES, headaches
from upslope.lab.ladder.variance import Noise
from upslope.lab.ladder.verdict import Headache, Sign, compare

NAMES = ("sft", "rft", "reinforce", "reinforce-baseline", "importance", "trpo", "ppo", "grpo", "dapo")


def run(recipe, after=0.8, before=0.5, **more):
    curve = (Point(0, 0.0, 0.0, before), Point(9, 900.0, 9.0, after))
    plain = {
        "num_problems": 10_000,
        "num_attempts": 10_000,
        "num_updates": 10,
        "tokens": 1000.0,
        "seconds": {"sample": 6.0, "prepare": 1.0, "update": 1.0},
        "memory_gb": 1.0,
        "right_share": 0.6,
        "taught_share": 0.5,
        "tried": 1.0,
        "equal_groups": 0.1,
        "truncated": (0.0, 0.0),
        "kl": (0.01, 0.01),
        "effective_share": 0.9,
        "entropy": ((0.0, 0.2), (900.0, 0.15)),
    }
    return RunFacts(recipe, 0, curve=curve, **(plain | more))


def dull() -> Facts:
    """All recipes alike: hardly an expectation holds."""
    main = {name: [run(name)] for name in NAMES}
    reuse = {(n, e): [run(n, epochs=e)] for n in ("importance", "trpo", "ppo") for e in (1, 4, 16)}
    return Facts(main, reuse)


def noise(**ratios):
    return {name: Noise(name, 1.0, r, (r, r), 1.0, 32, 128) for name, r in ratios.items()}


QUIET = noise(returns=1.0, group_mean=1.0, gae=1.0, group_z_score=1.0)


def changed(facts, name, epochs=None, **more):
    """The same facts with one recipe's runs changed; ``after`` is the last accuracy."""
    table = facts.main if epochs is None else facts.reuse
    key = name if epochs is None else (name, epochs)
    runs = []
    for old in table[key]:
        after = more.get("after")
        last = replace(old.curve[-1], accuracy=after) if after is not None else old.curve[-1]
        rest = {k: v for k, v in more.items() if k != "after"}
        runs.append(replace(old, curve=(*old.curve[:-1], last), **rest))
    fresh = {**table, key: runs}
    return replace(facts, main=fresh) if epochs is None else replace(facts, reuse=fresh)


def check(facts, place, words, noises=QUIET):
    """The one check of the headache at ``place`` whose expectation holds these words."""
    found = [c for c in headaches(facts, noises)[place].checks if words in c.expected]
    assert len(found) == 1, [c.expected for c in headaches(facts, noises)[place].checks]
    return found[0].holds


SLOW = {"sample": 1.0, "prepare": 3.0, "update": 9.0}
CASES = [
    (0, "more imitation does not", {"sft": {"after": 0.5}}, {"sft": {"after": 0.8}}),
    (0, "rft ends above sft", {"sft": {"after": 0.5}}, {}),
    (1, "learns nothing from some", {"rft": {"taught_share": 0.4}}, {"rft": {"taught_share": 1.0}}),
    (1, "learns sooner", {"reinforce": {"right_share": 0.7}}, {}),
    (1, "ends above rft", {"reinforce": {"after": 0.9}}, {}),
    (2, "failures teach too", {"reinforce-baseline": {"taught_share": 0.9}}, {}),
    (2, "learns sooner", {"reinforce-baseline": {"right_share": 0.7}}, {}),
    (3, "sampling takes more", {}, {"reinforce-baseline": {"seconds": SLOW}}),
    (3, "learns sooner", {"importance": {"right_share": 0.7}}, {"importance": {"right_share": 0.5}}),
    (4, "times as far", {("importance", 16): {"kl": (0.5,)}}, {}),
    (4, "carry the weight", {("importance", 16): {"effective_share": 0.2}}, {}),
    (4, "ends below 1 pass", {("importance", 16): {"after": 0.2}}, {}),
    (4, "ends below 1 pass", {("importance", 16): {"failed": "the loss is nan"}}, {}),
    (4, "keeps its budget", {"trpo": {"kl_update": (0.009, 0.01), "kl_budget": 0.01}},
     {"trpo": {"kl_update": (0.009, 0.02), "kl_budget": 0.01}}),
    (4, "trpo ends above importance", {("trpo", 16): {"after": 0.95}}, {}),
    (5, "takes 1.2 times", {"trpo": {"seconds": SLOW}}, {}),
    (5, "is cheaper", {"trpo": {"seconds": SLOW}}, {"ppo": {"seconds": SLOW}}),
    (5, "clipping keeps", {("ppo", 16): {"kl": (0.001,)}}, {("ppo", 16): {"kl": (0.5,)}}),
    (5, "critic explains", {"ppo": {"explained_variance": 0.4}}, {"ppo": {"explained_variance": 0.0}}),
    (5, "does not end below trpo", {}, {"ppo": {"after": 0.5}}),
    (6, "times the memory", {"ppo": {"memory_gb": 2.0}}, {}),
    (6, "times as long", {"ppo": {"seconds": SLOW}}, {}),
    (6, "critic alone", {"ppo": {"idle_tokens": 300.0}}, {}),
    (6, "does not end below ppo", {}, {"grpo": {"after": 0.5}}),
    (6, "learns sooner", {"grpo": {"right_share": 0.7}}, {}),
    (7, "of its entropy", {"grpo": {"entropy": ((0.0, 0.2), (9.0, 0.02))}}, {}),
    (7, "equal reward", {"grpo": {"equal_groups": 0.6}}, {}),
    (7, "of the attempts are cut", {"grpo": {"truncated": (0.0, 0.1)}}, {}),
    (7, "more entropy", {"dapo": {"entropy": ((0.0, 0.2), (9.0, 0.19))}}, {}),
    (7, "worth its price", {"dapo": {"after": 0.9}}, {}),
    (7, "learns sooner", {"dapo": {"right_share": 0.7}}, {}),
    (7, "fewer attempts are cut", {"grpo": {"truncated": (0.0, 0.1)}}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("place", "words", "there", "not_there"), CASES)
def test_an_expectation_holds_where_the_numbers_say_so_and_fails_where_they_do_not(place, words, there, not_there):
    for changes, expected in ((there, True), (not_there, False)):
        facts = dull()
        for key, more in changes.items():
            name, epochs = key if isinstance(key, tuple) else (key, None)
            facts = changed(facts, name, epochs, **more)
        assert check(facts, place, words) is expected


def test_every_check_of_every_rule_has_both_outcomes_in_the_cases_above():
    listed = sum(len(h.checks) for h in headaches(dull(), QUIET))
    assert len({(place, words) for place, words, _, _ in CASES}) == listed - 2  # the two about noise follow


@pytest.mark.parametrize(
    ("loud", "halves", "expected"),
    [(1.5, (1.4, 1.6), True), (1.05, (1.0, 1.1), False), (1.5, (0.9, 2.0), False), (0.5, (0.5, 0.5), False)],
)
def test_noise_is_lower_only_if_both_halves_agree(loud, halves, expected):
    noises = QUIET | {"returns": Noise("returns", 1.0, loud, halves, 1.0, 32, 128)}
    assert check(dull(), 2, "as noisy", noises) is expected
    noises = QUIET | {"gae": Noise("gae", 1.0, loud, halves, 1.0, 32, 128)}
    assert check(dull(), 6, "as noisy", noises) is expected


def test_without_the_measurement_there_is_no_verdict_on_noise():
    assert check(dull(), 2, "as noisy", {}) is None
    endless = noise(returns=float("inf"), group_mean=1.0)
    assert check(dull(), 2, "as noisy", endless) is None


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_whose_recipes_did_not_run_judges_nothing(rule):
    head = rule(Facts({}, {}), {})
    assert head.missing and not head.checks
    assert head.verdict("pain") == head.verdict("cure") == "not measured"


def test_verdicts_are_all_some_or_none():
    def head(*holds):
        return Headache("a", "b", "", "", tuple(Sign("pain", "", "", h) for h in holds))

    verdicts = [head(*h).verdict("pain") for h in ((True, True), (True, False), (False,), (None,), (True, None))]
    assert verdicts == ["appears", "in part", "does not appear", "not measured", "appears"]


def test_a_difference_counts_only_beyond_the_spread():
    """Differences 0.3 and 0 (range 0.3, mean 0.15), and 0.3 and 0.2; a start that differs between seeds cancels.
    Then counting errors: 2 sqrt(2 x 0.25 / 100) = 0.141."""
    assert compare([0.8, 0.6], [0.5, 0.6]).larger is False
    assert compare([0.8, 0.6], [0.5, 0.4]).larger is True
    assert compare([0.9, 0.5], [0.8, 0.4]).spread == pytest.approx(0.0)
    assert compare([0.5], [0.5], 100).spread == pytest.approx(0.141, abs=1e-3)
    assert compare([0.5], [0.6], 100).not_smaller is True
    assert compare([0.5], [0.7], 100).not_smaller is False
    assert compare([float("nan")], [0.7]).larger is None
    assert compare([0.9, float("nan")], [0.8, 0.7]).second == 0.8


def test_seeds_are_paired_by_number():
    """Only seed 1 ran with both: 0.8 against 0.7, not against the mean of all."""
    base = [run("reinforce-baseline", right_share=0.2), replace(run("reinforce-baseline", right_share=0.7), seed=1)]
    late = replace(run("importance", right_share=0.8), seed=1)
    facts = Facts({"reinforce-baseline": base, "importance": [late]}, {})
    found = next(c for c in headaches(facts, {})[3].checks if c.side == "cure")
    assert found.holds and found.measured.startswith("80.0 %, against 70.0 %")
