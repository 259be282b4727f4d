"""reasoning-gym's tasks as ours: every one opens, its gold answers are right, nothing else is, and nothing is run."""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from upslope.errors import UserError
from upslope.tasks.gym_answers import COUNTED, LISTED, PARSED, answer_after_marker, answer_in_tags, is_harmless
from upslope.tasks.gym_task import BY_HASH
from upslope.tasks.registry import open_task
from upslope.types import Problem

factory = pytest.importorskip("reasoning_gym.factory", reason="needs reasoning-gym (pip install upslope[gym])")
pytestmark = pytest.mark.filterwarnings("ignore:reasoning-gym.*in every process")
NO_GOLD = {"boxnet", "rush_hour"}
"""Many answers are right, and the library gives none: they are judged by carrying them out."""
NAMES = sorted(factory.DATASETS)


def opened(kind: str, seed: int = 0, **options: Any) -> Any:
    return open_task(f"reasoning-gym:{kind}", seed=seed, options=options)


def rewards(task: Any, problem: Problem, *responses: str) -> list[float]:
    return [score.reward for score in task.score([problem] * len(responses), responses)]


def test_only_the_marked_answer_is_judged_and_only_full_marks_are_right() -> None:
    task = opened("chain_sum", size=60)
    problem = task.problems("train")[0]
    truth = problem.truth
    answers = {
        f"<answer>{truth}</answer>": 1.0,
        f"so\n<answer>\n {truth} </answer> done": 1.0,
        f"<answer>7777</answer> no, <answer>{truth}</answer>": 1.0,
        f"<answer>{truth}</answer> no, <answer>7777</answer>": 0.0,
        f"<answer>it is {truth}</answer>": 0.0,
        f"<answer>{truth}": 0.0,
        "<answer></answer>": 0.0,
        truth: 0.0,
        "": 0.0,
    }
    assert rewards(task, problem, *answers) == list(answers.values())
    near = f"<answer>it is {truth}</answer>"
    (partly,) = rewards(opened("chain_sum", size=60, partial=True), problem, near)
    assert partly == pytest.approx(len(truth) / len(f"it is {truth}"))
    (score,) = task.score([problem], [near])
    assert not score.is_right
    assert score.parts == {"score": pytest.approx(partly), "unreadable": 0.0} and score.extracted == f"it is {truth}"


def test_the_form_of_an_answer() -> None:
    task = opened("chain_sum", size=60, form="marker")
    problem = task.problems("train")[0]
    assert problem.messages[0]["content"].endswith("\n\nWrite your final answer after ####.")
    assert problem.demonstration == f"#### {problem.truth}"
    assert rewards(task, problem, f"7\n#### {problem.truth}", f"<answer>{problem.truth}</answer>") == [1.0, 0.0]
    bare, other = (opened("chain_sum", size=60, instruction=text).problems("train")[0] for text in ("", "Be brief."))
    assert other.messages[0]["content"] == f"{bare.messages[0]['content']}\n\nBe brief."
    assert answer_in_tags("<answer>1</answer><answer>2") == "1" and answer_after_marker("#### 1\n2 ") == "1\n2"


def test_a_function_of_seed_and_options() -> None:
    def questions(seed: int, **options: Any) -> list[str]:
        return [p.messages[0]["content"] for p in opened("chain_sum", seed, size=80, **options).problems("train")]

    assert questions(1) == questions(1)
    assert not set(questions(1)) & set(questions(2))
    terms = [q.count("+") + q.count(" - ") for q in questions(1, min_terms=5, max_terms=5)]
    assert set(terms) == {4}


def test_nothing_held_out_is_learnt_from_and_nothing_is_there_twice() -> None:
    task = opened("count_bits", size=400, max_n=300)
    sides = [[p.messages[0]["content"] for p in task.problems(split)] for split in ("train", "test")]
    assert len(set(sides[0] + sides[1])) == len(sides[0] + sides[1]) < 400
    assert len(sides[1]) > 5
    assert all(p.demonstration == f"<answer>{p.truth}</answer>" for p in task.demonstrations())


def test_a_question_is_on_the_same_side_whatever_is_drawn_and_said_beside_it() -> None:
    def questions(split: str, seed: int, **options: Any) -> set[str]:
        task = opened("count_bits", seed, size=300, max_n=300, **options)
        return {p.messages[0]["content"].partition("\n\n")[0] for p in task.problems(split)}

    assert questions("test", 1) == questions("test", 1, form="marker") == questions("test", 1, instruction="")
    assert questions("test", 1) & questions("test", 2) and not questions("train", 1) & questions("test", 2)


def test_levels_of_a_curriculum_side_by_side() -> None:
    task = opened("chain_sum", size=120, levels=[0, 3])
    levels = [p.columns["level"] for p in task.problems("train")]
    assert 20 < levels.count(0) <= 60 and 30 < levels.count(3) <= 60
    lengths = {level: [len(p.messages[0]["content"]) for p in task.problems("train") if p.columns["level"] == level]
               for level in (0, 3)}  # fmt: skip
    assert max(lengths[0]) < sum(lengths[3]) / len(lengths[3])
    assert all(rewards(task, p, f"<answer>{p.truth}</answer>") == [1.0] for p in task.problems("test"))
    assert {p.columns["level"] for p in opened("chain_sum", size=50, levels=2).problems("train")} == {2}


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("chain_sm", {}, "reasoning-gym has no task 'chain_sm'; did you mean 'chain_sum'?"),
        ("chain_sum", {"max_dgits": 3}, "has no option 'max_dgits'; did you mean 'max_digits'?"),
        ("chain_sum", {"min_terms": 30}, "cannot be made: AssertionError: max_terms must be >= min_terms"),
        ("chain_sum", {"min_terms": "a"}, "cannot be made: TypeError"),
        ("chain_sum", {"data": "a"}, "has no option 'data'; give --data itself"),
        ("chain_sum", {"size": 0}, "option 'size' of task reasoning-gym:chain_sum must be a whole number from 1"),
        ("chain_sum", {"levels": "1"}, "option 'levels' .* or a list of them, not '1'"),
        ("chain_sum", {"levels": [1, 1]}, "names a level twice"),
        ("chain_sum", {"levels": -1}, "a whole number from 0 on or a list of them, not -1"),
        ("chain_sum", {"levels": [0, 99]}, "there is no level 99; its curriculum has levels 0 to 10"),
        ("chain_sum", {"levels": [0, 1, 2], "size": 2}, "option 'size' .* is 2, less than its 3 levels"),
        ("chain_sum", {"max_terms": "3"}, r"cannot be made: TypeError: .* \(options: max_terms='3'\)"),
        ("chain_sum", {"form": "tag"}, "option 'form' .* did you mean 'tags'?"),
        ("chain_sum", {"partial": 1}, "option 'partial' .* must be true or false, not 1"),
        ("acre", {"levels": 1}, "reasoning-gym:acre has no curriculum"),
        ("composite", {}, "Must specify at least one dataset"),
        ("composite", {"datasets": [{"nme": "chain_sum"}]}, "a list of tables with name, weight and config"),
    ],
)
def test_a_wrong_option_is_named(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        open_task(f"reasoning-gym:{kind}", options=options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["reasoning-gym", "reasoning-gym:", "reasoning_gym:chain_sum"])
def test_a_wrong_name_is_told(name: str) -> None:
    with pytest.raises(UserError, match="did you mean 'reasoning-gym:NAME'"):
        open_task(name)


def test_one_question_cannot_be_divided() -> None:
    task = opened("chain_sum", size=1)
    split = "test" if task._set.train else "train"
    with pytest.raises(UserError, match=f"no {split} problems: its 1 entries are 1 different questions; raise task"):
        task.problems(split)


def test_a_mixture_of_the_librarys_own() -> None:
    task = opened("composite", size=60, datasets=[{"name": "chain_sum"}, {"name": "countdown", "weight": 3.0}])
    problems = task.problems("train")
    assert 0 < sum("target" in p.messages[0]["content"] for p in problems) < len(problems)
    assert all(rewards(task, p, f"<answer>{p.truth}</answer>") == [1.0] for p in problems[:9])


def test_an_answer_that_the_scorer_cannot_read_is_wrong_and_counted() -> None:
    task = opened("prime_factorization", size=20)
    (score,) = task.score(task.problems("train")[:1], ["<answer>two times three</answer>"])
    assert (score.reward, score.parts) == (0.0, {"score": 0.0, "unreadable": 1.0})


def test_a_scorer_that_fails_on_the_right_answer_is_no_reward_of_0(monkeypatch: pytest.MonkeyPatch) -> None:
    task = opened("chain_sum", size=20)

    def broken(answer: str, entry: Any) -> float:
        raise KeyError("metadata")

    monkeypatch.setattr(task._datasets[None], "score_answer", broken)
    with pytest.raises(UserError, match="scorer failed on the right answer too: KeyError"):
        task.score(task.problems("train")[:1], ["<answer>7</answer>"])


def test_another_question_under_the_same_number_is_not_judged() -> None:
    task, other = opened("chain_sum", 1, size=20), opened("chain_sum", 2, size=20)
    with pytest.raises(UserError, match="draws another question now"):
        task.score(other.problems("train")[:1], ["<answer>7</answer>"])


ATTACKS = [
    "__import__('pathlib').Path('{}').touch()",
    "[__import__('pathlib').Path('{}').touch()]",
    "[[open('{}', 'w')]]",
    "exec(chr(112))",
    "[c for c in ().__class__.__bases__]",
    "[print(1)]",
    "(lambda: 1)()",
    "9**9**9**9",
    "9^9^9^9",
    "9**(1*9**9)",
    "(((9**99)**99)**99)**99",
    "exp(exp(exp(99)))**999",
    "_.x",
    "a_b",
    "2**1000000000",
    "x.__class__",
    "eval(x)",
    "[9**99]*99",
    "1" * 5000,
]


@pytest.mark.parametrize("kind", sorted(LISTED | COUNTED | PARSED))
def test_nothing_that_a_model_writes_is_run(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = opened(kind, size=12)
    problem = task.problems("train")[0]
    dataset, _ = task._entry(problem)
    monkeypatch.setattr(dataset, "score_answer", lambda answer, entry: pytest.fail(f"it saw {answer}"))
    for attack in ATTACKS:
        attack = attack.format(tmp_path / "hacked")
        (score,) = task.score([problem], [f"<answer>{attack}</answer>"])
        assert (score.reward, score.parts["unreadable"]) == (0.0, 1.0)
    assert not (tmp_path / "hacked").exists()


def test_ordinary_formulas_and_lists_are_seen() -> None:
    for answer in (
        "(3 + 4)*2 - 10/5",
        "x**2/2 + sin(3*x)*exp(2*x) + C",
        "-3.5*x^3 + 2*x",
        "log(x) + sqrt(2)",
        "7",
        "0.5",
    ):
        assert is_harmless("simple_integration", answer), answer
    for answer in ("[[0, 1], [1, 0]]", "0 1\n1 0", "['A', 'B']", "ABCABC", "Q _ _\n_ Q _", "_ Q _"):
        assert is_harmless("binary_matrix", answer), answer


def scorers_that_evaluate() -> set[str]:
    """Every data set whose scorer's own source hands something that is not the entry's to eval, exec or a parser."""
    found = set()
    for name, (kind, _) in factory.DATASETS.items():
        tree = ast.parse(inspect.getsource(sys.modules[kind.__module__]))
        for function in [f for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) and "score" in f.name]:
            for call in [c for c in ast.walk(function) if isinstance(c, ast.Call)]:
                word = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
                given = ast.unparse(call.args[0]) if call.args else ""
                if word in ("eval", "exec", "parse_expr", "sympify") and not given.startswith(("entry", "metadata")):
                    found.add(name)
    return found


def test_all_scorers_that_evaluate_what_they_are_given_are_known() -> None:
    """What the guard relies on, of the library that is installed."""
    assert scorers_that_evaluate() == LISTED | COUNTED | PARSED


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the library's own
@pytest.mark.parametrize("name", NAMES)
def test_every_task_opens_and_scores_its_gold_answers_1(name: str) -> None:
    options: dict[str, Any] = {"datasets": [{"name": "chain_sum"}]} if name == "composite" else {}
    task = opened(name, seed=1, size=4, **options)
    problems = [*task._set.train, *task._set.test]
    assert problems
    if name in NO_GOLD:
        assert [p.truth for p in problems] == [""] * len(problems)
        assert rewards(task, problems[0], "<answer>nothing</answer>") == [0.0]
        return
    for problem in problems:
        assert problem.truth
        assert rewards(task, problem, f"<answer>{problem.truth}</answer>", problem.demonstration or "") == [1.0, 1.0], (
            problem
        )
        assert rewards(task, problem, "<answer>nothing of that kind</answer>") == [0.0]


@pytest.mark.slow
def test_problems_do_not_depend_on_the_process() -> None:
    """Order of hashes included: a run that is resumed finds what it began with."""
    code = (
        "import sys, hashlib, warnings\nwarnings.simplefilter('ignore')\n"
        "from upslope.tasks.registry import open_task\n"
        "for name in sys.argv[1:]:\n"
        "    task = open_task(f'reasoning-gym:{name}', options={'size': 3})\n"
        "    both = [*task._set.train, *task._set.test]\n"
        "    digest = hashlib.sha256(repr([(p.messages, p.truth) for p in both]).encode()).hexdigest()\n"
        "    print('\\n>', name, digest)"
    )
    names = [name for name in NAMES if name not in ("composite", "knight_swap")]
    found = [
        subprocess.run(
            [sys.executable, "-c", code, *names],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        for seed in ("1", "2")
    ]
    lines = [[line for line in one.stdout.splitlines() if line.startswith("> ")] for one in found]  # some print too
    assert len(lines[0]) == len(lines[1]) == len(names)
    assert {mine.split()[1] for mine, theirs in zip(*lines, strict=True) if mine != theirs} <= BY_HASH


def test_one_that_differs_by_process_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    with pytest.warns(UserWarning, match="reasoning-gym:ransom_note draws other problems in every process"):
        opened("ransom_note", size=2)
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    assert opened("ransom_note", size=2)._entries


def test_a_scorer_that_calls_everything_right_is_not_asked() -> None:
    task = opened("game_of_life_halting", size=30)
    truths = {p.truth: p for p in task._set.train}
    assert set(truths) == {"True", "False"}
    for truth, problem in truths.items():
        assert rewards(task, problem, "<answer>True</answer>", "<answer>False</answer>", "<answer>so</answer>") == [
            float(truth == "True"), float(truth == "False"), 0.0
        ]  # fmt: skip
