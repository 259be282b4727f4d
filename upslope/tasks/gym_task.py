"""Task ``reasoning-gym:NAME``: generated problems of one of reasoning-gym's hundred kinds, judged by its own scorers.

Only the answer that a response marks is judged, and right is what the scorer gives full marks: most of them pay a part
for an answer that merely holds the right one. With ``partial`` the reward is the scorer's own number. A response
without an answer earns 0. So does an answer on which the scorer itself fails, as some do where they want a number and
get a word, and one that it must not see (``gym_answers``); both are counted in the journal as ``unreadable``.

Problems are a function of the seed, the options and the version of reasoning-gym. Equal questions are one problem; a
hash of the question decides which side it is on, so that what is held out is never learnt from.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from upslope.errors import UserError, nearest
from upslope.plugins import said
from upslope.tasks.base import Split, Task
from upslope.tasks.gym_answers import FORMS, READERS, is_harmless
from upslope.tasks.problem_set import ProblemSet, Row, held_out, make_problem_set
from upslope.types import Problem, Score

SIZE = 1000
"""Entries that are drawn."""
APART = 10**6
"""Entry i of seed s is the library's entry of seed 10^6 s + i, which are then those of no other seed."""
GOLD = {
    "graph_color": "possible_answer",
    "propositional_logic": "example_answer",
    "rubiks_cube": "example_correct_answer",
}
"""Where an entry has no answer of its own, since many are right: the metadata that holds one."""
EXACT = frozenset({"game_of_life_halting"})
"""Whose scorer (0.1.25) calls every answer right, since ``bool("False")`` is true: judged by equality instead."""
BY_HASH = frozenset(
    {"isomorphic_strings", "knight_swap", "polynomial_multiplication", "ransom_note", "word_ladder"}
)  # of 0.1.25
"""They go through sets of texts, whose order is another in every process unless PYTHONHASHSEED is set."""
OWN = ("size", "levels", "form", "instruction", "partial")
"""Options that are not the data set's."""


@dataclasses.dataclass(frozen=True)
class GymOptions:
    """What is not the data set's own configuration.

    >>> GymOptions(levels=(0, 1)).form
    'tags'
    """

    size: int = SIZE
    levels: tuple[int, ...] = ()
    """Of its curriculum; with several, each gives an equal share. None: the data set's defaults."""
    form: str = "tags"
    instruction: str | None = None
    partial: bool = False


class GymTask(Task):
    """One data set; see ``open``."""

    def __init__(self, kind: str, options: GymOptions, config: Mapping[str, Any], seed: int) -> None:
        self.name, self._options, self._config, self._seed = kind, options, dict(config), seed
        self._datasets = {level: self._dataset(level) for level in options.levels or (None,)}

    def problems(self, split: Split) -> Sequence[Problem]:
        side = self._set.train if split == "train" else self._set.test
        if not side:
            num = len(self._set.train) + len(self._set.test)
            raise UserError(
                f"reasoning-gym:{self.name} has no {split} problems: its {self._options.size} entries are {num} "
                "different questions; raise task.options.size, or make it harder"
            )
        return side

    def demonstrations(self) -> Sequence[Problem]:
        """Training problems with the bare answer: they teach its form, and nothing of how it is found."""
        return self._set.demonstrations()

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Score]:
        return [self._score(problem, response) for problem, response in zip(problems, responses, strict=True)]

    def _score(self, problem: Problem, response: str) -> Score:
        answer = READERS[self._options.form](response)
        if answer is None:
            return Score(0.0, None, parts={"score": 0.0, "unreadable": 0.0})
        dataset, entry = self._entry(problem)
        found = self._found(dataset, entry, answer, problem)
        value = 0.0 if found is None else found
        reward = value if self._options.partial else float(value >= 1)
        return Score(reward, answer, right=value >= 1, parts={"score": value, "unreadable": float(found is None)})

    def _found(self, dataset: Any, entry: Mapping[str, Any], answer: str, problem: Problem) -> float | None:
        """The scorer's number; None for an answer that it cannot read. Raises UserError where it cannot even read the
        right one: then it is not the answer that is at fault."""
        if not is_harmless(kind_of(self.name, entry), answer):
            return None
        if kind_of(self.name, entry) in EXACT:
            return float(answer == gold_of(self.name, entry))
        try:
            return float(dataset.score_answer(answer, entry))
        except MemoryError:
            raise
        except Exception as error:
            gold = gold_of(self.name, entry)
            try:
                if gold is not None:
                    float(dataset.score_answer(gold, entry))
            except Exception:
                raise UserError(
                    f"problem {problem.id}: reasoning-gym's scorer failed on the right answer too: "
                    f"{type(error).__name__}: {said(error, str)}"
                ) from error
            return None

    def _entry(self, problem: Problem) -> tuple[Any, Mapping[str, Any]]:
        """Raises UserError where the library draws another problem than before: then no score would mean anything."""
        level, index = problem.columns["level"], problem.columns["index"]
        entry = self._entries.get((level, index)) or drawn(self._datasets[level], index)
        if not problem.messages[-1]["content"].startswith(entry["question"].strip()):
            raise UserError(
                f"problem {problem.id}: reasoning-gym draws another question now; it is of another version, or not the "
                "same twice"
            )
        return self._datasets[level], entry

    @cached_property
    def _entries(self) -> dict[tuple[int | None, int], Mapping[str, Any]]:
        found = {}
        seen = set()
        for level, dataset in self._datasets.items():
            for index in range(len(dataset)):
                entry = drawn(dataset, index)
                if entry["question"] not in seen:
                    seen.add(entry["question"])
                    found[level, index] = entry
        return found

    @cached_property
    def _set(self) -> ProblemSet:
        return make_problem_set(f"reasoning-gym/{self.name}", self._rows(), self._build, f"reasoning-gym:{self.name}")

    def _rows(self) -> Iterator[Row]:
        for place, ((level, index), entry) in enumerate(self._entries.items()):
            row = {"level": level, "index": index, "entry": entry}
            question = ({"role": "user", "content": entry["question"]},)  # alone: what is asked around it may change
            yield Row(f"reasoning-gym:{self.name}", index, row, "test" if held_out(question) else "train", place)

    def _build(self, row: Mapping[str, Any], where: str) -> Problem:
        entry, options = row["entry"], self._options
        asked, written = FORMS[options.form]
        instruction = asked if options.instruction is None else options.instruction
        question = entry["question"].strip()
        gold = gold_of(self.name, entry)
        known = entry["metadata"].get("difficulty")
        difficulty = known.items() if isinstance(known, Mapping) else ()
        plain = {key: value for key, value in difficulty if type(value) in (bool, int, float, str)}
        return Problem(
            id="",
            messages=({"role": "user", "content": f"{question}\n\n{instruction}" if instruction else question},),
            truth=gold or "",
            demonstration=None if gold is None else written.format(gold),
            columns=plain | {"level": row["level"], "index": row["index"]},
        )

    def _dataset(self, level: int | None) -> Any:
        from reasoning_gym.factory import CURRICULA, DATASETS

        made, config_of = DATASETS[self.name]
        given = {"seed": APART * self._seed, "size": self._options.size // max(1, len(self._options.levels))}
        try:
            if level is None:
                config = config_of(**given | self._config)
            else:
                curriculum = CURRICULA[self.name]()
                curriculum.set_global_level(level)
                config = dataclasses.replace(curriculum.generate_configuration(dict(given)), **self._config)
            return made(config=config)
        except Exception as error:  # a configuration that it refuses is an assertion, or anything
            at = "" if level is None else f" at level {level}"
            given_too = ", ".join(f"{key}={value!r:.60}" for key, value in self._config.items())
            told = f" (options: {given_too})" if given_too else ""
            raise UserError(
                f"reasoning-gym:{self.name} cannot be made{at}: {type(error).__name__}: {said(error, str)}{told}"
            ) from error


def drawn(dataset: Any, index: int) -> Mapping[str, Any]:
    """Entry ``index``, whatever was drawn before: some data sets draw from Python's own generator as well."""
    state = random.getstate()
    try:
        random.seed(dataset.seed + index)
        entry: Mapping[str, Any] = dataset[index]
        return entry
    finally:
        random.setstate(state)


def kind_of(kind: str, entry: Mapping[str, Any]) -> str:
    """Whose scorer judges it: a composite's entries are of several data sets."""
    return str(entry["metadata"].get("source_dataset", kind))


def gold_of(kind: str, entry: Mapping[str, Any]) -> str | None:
    """The right answer of an entry, or one of them; None where the library knows none."""
    found = entry["answer"]
    if found is None:
        found = entry["metadata"].get(GOLD.get(kind_of(kind, entry), ""))
    if found is None:
        return None
    return json.dumps(found) if isinstance(found, dict) else str(found).strip()


def open(kind: str, /, seed: int, **options: Any) -> GymTask:
    """The task; ``options`` are its own (``OWN``) and fields of the data set's configuration. Raises UserError."""
    try:
        from reasoning_gym.factory import CURRICULA, DATASETS
    except ImportError as error:
        raise UserError(f"task reasoning-gym:{kind} needs reasoning-gym ({error}): pip install upslope[gym]") from None
    if kind not in DATASETS:
        raise UserError(f"reasoning-gym has no task {kind!r}{nearest(kind, DATASETS)}")
    own = _own({key: value for key, value in options.items() if key in OWN}, kind)
    if own.levels and kind not in CURRICULA:
        raise UserError(f"reasoning-gym:{kind} has no curriculum; leave task.options.levels out")
    if own.levels:
        _require_levels(kind, own.levels, CURRICULA[kind]())
    config = {key: value for key, value in options.items() if key not in OWN}
    known = [field.name for field in dataclasses.fields(DATASETS[kind][1]) if field.name not in ("seed", "size")]
    for key in config:
        if key not in known:
            raise UserError(f"task reasoning-gym:{kind} has no option {key!r}{nearest(key, [*known, *OWN])}")
    if kind == "composite" and "datasets" in config:
        from reasoning_gym.composite import DatasetSpec

        try:
            config["datasets"] = [DatasetSpec(**({"weight": 1.0, "config": {}} | each)) for each in config["datasets"]]
        except TypeError as error:
            raise UserError(
                f"task.options.datasets must be a list of tables with name, weight and config: {error}"
            ) from None
    if kind in BY_HASH and os.environ.get("PYTHONHASHSEED", "random") == "random":
        warnings.warn(
            f"reasoning-gym:{kind} draws other problems in every process, so its runs cannot be resumed or scored "
            "elsewhere; set PYTHONHASHSEED=0 before you start",
            stacklevel=2,
        )
    return GymTask(kind, own, config, seed)


def _require_levels(kind: str, levels: Sequence[int], curriculum: Any) -> None:
    """Raise UserError for a level beyond the curriculum's last, in whose place the library takes that one."""
    highest = max((len(each.levels) for each in curriculum.attributes.values()), default=1) - 1
    beyond = [level for level in levels if level > highest]
    if beyond:
        raise UserError(
            f"option 'levels' of task reasoning-gym:{kind}: there is no level {beyond[0]}; its curriculum has levels 0 "
            f"to {highest}"
        )


def _own(given: Mapping[str, Any], kind: str) -> GymOptions:
    """Raises UserError for a value of the wrong kind."""
    where = f"of task reasoning-gym:{kind}"
    if type(given.get("size", SIZE)) is not int or not 1 <= given.get("size", SIZE) <= APART:
        raise UserError(f"option 'size' {where} must be a whole number from 1 to {APART}, not {given['size']!r}")
    levels = given.get("levels", ())
    levels = (levels,) if type(levels) is int else levels
    if not isinstance(levels, list | tuple) or not all(type(n) is int and n >= 0 for n in levels):
        raise UserError(
            f"option 'levels' {where} must be a whole number from 0 on or a list of them, not {given['levels']!r}"
        )
    if len(set(levels)) != len(levels):
        raise UserError(f"option 'levels' {where} names a level twice: {levels!r}")
    if len(levels) > given.get("size", SIZE):
        raise UserError(
            f"option 'size' {where} is {given['size']}, less than its {len(levels)} levels; each needs an entry"
        )
    if given.get("form", "tags") not in FORMS:
        raise UserError(f"option 'form' {where}: {given['form']!r}{nearest(str(given['form']), FORMS)}")
    for key, wanted, spelt in (("instruction", str, "text"), ("partial", bool, "true or false")):
        if key in given and type(given[key]) is not wanted:
            raise UserError(f"option {key!r} {where} must be {spelt}, not {given[key]!r}")
    return GymOptions(**dict(given) | {"levels": tuple(levels)})
