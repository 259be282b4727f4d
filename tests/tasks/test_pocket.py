"""The pocket task: nothing held out is ever shown, every sum is right, and the careless annotators are as careless."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from upslope.tasks.pocket_problems import SHARE_RIGHT, SHARES, Pocket, open_pocket
from upslope.tasks.pocket_templates import NAMES, TEMPLATES, THINGS, Template, is_held_out
from upslope.types import Problem

EQUATION = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")


@pytest.fixture(scope="module")
def task() -> Pocket:
    return open_pocket(seed=0)


def _matcher(text: str, template: Template) -> re.Pattern[str]:
    """A pattern for one telling of the template, naming the numbers that were given."""
    pattern = re.escape(text)
    for place in set(re.findall(r"\\\{(\w+)\\\}", pattern)):
        mark = rf"\{{{place}\}}"
        if place in template.ranges:
            pattern = pattern.replace(mark, rf"(?P<{place}>\d+)", 1).replace(mark, rf"(?P={place})")
        else:
            kind = "|".join(NAMES) if place in "ABC" else "|".join(THINGS) if place == "things" else r"\d+"
            pattern = pattern.replace(mark, f"(?:{kind})")
    return re.compile(pattern)


# Numbers are read back from the text itself, so that the tests do not trust the generator's own account.
MATCHERS = [(each, _matcher(text, each)) for each in TEMPLATES for text in (f"{each.facts} {each.asked}", each.facts)]
ENDINGS = [_matcher(each.ending, each) for each in TEMPLATES]


def _told(text: str) -> tuple[str, tuple[int, ...]]:
    """Which template this text tells, and with which numbers."""
    for template, matcher in MATCHERS:
        if found := matcher.fullmatch(text):
            return template.name, tuple(int(found[key]) for key in template.ranges)
    raise AssertionError(f"no template tells {text!r}")


def _question(problem: Problem) -> str:
    return problem.messages[0]["content"]


def test_the_shape_of_the_world(task: Pocket) -> None:
    assert len(TEMPLATES) >= 12
    assert len(task.problems("train")) >= 16_000
    assert len(task.problems("test")) >= 512
    assert len(task.demonstrations()) == 1_500
    assert len(task.documents()) == 50_000
    assert {len(template.plan) for template in TEMPLATES} == {2, 3}
    for problems in (task.problems("train"), task.problems("test"), task.demonstrations()):
        assert len({problem.id for problem in problems}) == len(problems)
    assert task.problems("train")[12].id == "pocket/train/12"


def test_the_test_problems_differ_and_are_balanced(task: Pocket) -> None:
    test = task.problems("test")
    assert len({_question(problem) for problem in test}) >= 0.95 * len(test)
    counts = Counter(problem.columns["template"] for problem in test[:512])
    assert set(counts) == {template.name for template in TEMPLATES}
    assert max(counts.values()) - min(counts.values()) <= 1


def test_one_in_eight_is_held_out() -> None:
    sizes = [(len(template.workable), len(template.split(held_out=True))) for template in TEMPLATES]
    total, held_out = (sum(column) for column in zip(*sizes, strict=True))
    # A binomial with p = 1/8 over some ten thousand draws has a standard deviation of 0.0033.
    assert held_out / total == pytest.approx(1 / 8, abs=0.01)
    assert all(few >= 8 for _, few in sizes)


def test_nothing_shown_is_held_out(task: Pocket) -> None:
    assert all(is_held_out(*_told(_question(problem))) for problem in task.problems("test"))
    for problem in (*task.problems("train")[:4_000], *task.demonstrations()):
        told = _told(_question(problem))
        assert told == (problem.columns["template"], problem.columns["numbers"])
        assert not is_held_out(*told)


def test_no_document_tells_anything_held_out(task: Pocket) -> None:
    kinds: Counter[str] = Counter()
    for document in task.documents()[:5_000]:
        lines = [line for line in document.split("\n") if not EQUATION.fullmatch(line)]
        told = [line for line in lines if not any(ending.fullmatch(line) for ending in ENDINGS)]
        assert not any(is_held_out(*_told(line)) for line in told)
        kinds["sums" if not told else "example" if "?" in document else "story"] += 1
        assert "####" not in document
    assert {kind: count / 5_000 for kind, count in kinds.items()} == pytest.approx(SHARES, abs=0.02)


def test_every_equation_is_right(task: Pocket) -> None:
    shown = (*task.problems("test"), *task.demonstrations())
    texts = [*(problem.demonstration or "" for problem in shown), *task.documents()[:10_000]]
    for text in texts:
        for left, operation, right, value in EQUATION.findall(text):
            a, b, c = int(left), int(right), int(value)
            assert {"+": a + b == c, "-": a - b == c, "*": a * b == c, "/": a == b * c}[operation], text


def test_the_truth_by_hand() -> None:
    numbers = {
        "gain and give": ((4, 7, 5), 4 + 7 - 5),
        "bags and more": ((3, 8, 6), 3 * 8 + 6),
        "boxes and loss": ((3, 8, 6), 3 * 8 - 6),
        "pool and share": ((7, 5, 4), (7 + 5) // 4),
        "give and box": ((20, 8, 3), (20 - 8) // 3),
        "bags and share": ((4, 6, 3), 4 * 6 // 3),
        "times and more": ((5, 3, 4), 5 * 3 + 4),
        "more and times": ((5, 4, 3), (5 + 4) * 3),
        "pages and days": ((5, 4, 3), (5 + 4) * 3),
        "shop and change": ((30, 3, 7), 30 - 3 * 7),
        "two kinds of bags": ((2, 5, 3, 4), 2 * 5 + 3 * 4),
        "fewer together": ((9, 4, 6), 9 + (9 - 4) + 6),
    }
    assert set(numbers) == {template.name for template in TEMPLATES}
    for template in TEMPLATES:
        given, truth = numbers[template.name]
        assert template.values(given)[f"r{len(template.plan)}"] == truth, template.name


def test_worked_solutions_earn_the_reward(task: Pocket) -> None:
    test = task.problems("test")
    responses = [problem.demonstration or "" for problem in test]
    assert {score.reward for score in task.score(test, responses)} == {1.0}
    assert [response.splitlines()[-1] for response in responses] == [f"#### {problem.truth}" for problem in test]
    assert [score.reward for score in task.score(test[:2], ["", "#### 1000"])] == [0.0, 0.0]
    with pytest.raises(ValueError):
        task.score(test[:2], ["#### 1"])


def test_demonstrations_are_right_as_often_as_documented(task: Pocket) -> None:
    shown = task.demonstrations()
    rewards = [score.reward for score in task.score(shown, [problem.demonstration or "" for problem in shown])]
    # The standard deviation of this share is sqrt(0.43 * 0.57 / 1500) = 0.013.
    assert sum(rewards) / len(rewards) == pytest.approx(SHARE_RIGHT, abs=0.04)
    wrong = [problem for problem, reward in zip(shown, rewards, strict=True) if not reward]
    early = sum((problem.demonstration or "").count("=") < len(_plan(problem)) for problem in wrong)
    assert 0.6 < early / len(wrong) < 0.9


def _plan(problem: Problem) -> tuple[str, ...]:
    return next(template.plan for template in TEMPLATES if template.name == problem.columns["template"])


def test_the_seed_is_all_there_is(task: Pocket) -> None:
    again, other = Pocket(0), Pocket(1)
    assert task.demonstrations() == again.demonstrations()
    assert task.problems("test") == again.problems("test")
    assert task.documents()[:100] == again.documents()[:100]
    assert task.fingerprint() == again.fingerprint() != other.fingerprint()
    assert task.problems("test") != other.problems("test")
    assert all(is_held_out(*_told(_question(problem))) for problem in other.problems("test"))
