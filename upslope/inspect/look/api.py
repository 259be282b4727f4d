"""What the page asks for, as JSON. Every question names a run that ``Library`` found; no path comes from outside."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from upslope.errors import UserError
from upslope.inspect.look.curves import at_axis, axis_of, curve
from upslope.inspect.look.finding import AttemptQuery, SearchPlace, search
from upslope.inspect.look.library import Library
from upslope.inspect.reading.attempts import AttemptsFile, Brief
from upslope.inspect.reading.opened import OpenRun, accuracy_of
from upslope.inspect.why.standing import StandingDiagnosis
from upslope.record.columns import COLUMNS, GROUPS, group_of
from upslope.record.journal import plain

MOST_POINTS = 600
"""Of a curve: about a screen's width."""
Query = Mapping[str, str]


class PageAnswers:
    """One function a question; each takes the query and returns what JSON can say, or raises UserError."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._standing: dict[str, StandingDiagnosis] = {}

    def routes(self) -> list[Route]:
        named = {
            "runs": self.runs,
            "run": self.run,
            "curves": self.curves,
            "step": self.step,
            "attempt": self.attempt,
            "search": self.search,
        }
        return [Route(f"/api/{name}", _answering(answer), methods=["GET"]) for name, answer in named.items()]

    def runs(self, query: Query) -> Any:
        """The table of runs, the one that changed last first."""
        return sorted((run.summary() for run in self._library.runs()), key=lambda row: -row["changed"])

    def run(self, query: Query) -> Any:
        """All about one run but its curves: settings, evaluations, columns with their meaning, what is wrong."""
        run = self._run(query)
        with run.tail.lock:
            return self._told_of(run)

    def _told_of(self, run: OpenRun) -> dict[str, Any]:
        tail = run.tail
        last = tail.row(len(tail.steps) - 1) if tail.steps else {}
        return run.summary() | {
            "settings": run.settings,
            "columns": [told_column(key) for key in tail.named()],
            "groups": GROUPS,
            "evals": [_evaluation(step, row) for step, row in sorted(tail.evals.items())],
            "notes": tail.notes[-20:],
            "why": [finding.told() for finding in self._diagnosis(run).found()],
            "recorded": _few(run.place.attempt_steps("step")),
            "evaluated": run.place.attempt_steps("eval"),
            "last": last,
            "rewards": functions_of(last),
        }

    def curves(self, query: Query) -> Any:
        """Columns of a run against ``axis``, and held-out accuracy on the same axis."""
        run, axis = self._run(query), query.get("axis", "step")
        keys = [key for key in query.get("keys", "").split(",") if key] or sorted(run.tail.named())
        most = min(_whole(query, "points", MOST_POINTS), 5000)
        with run.tail.lock:
            try:
                at = axis_of(run.tail, axis)
            except ValueError as error:
                raise UserError(str(error)) from None
            tried = [(step, row) for step, row in sorted(run.tail.evals.items()) if "greedy" in row]
            return {
                "curves": {key: curve(at, run.tail.column(key), most) for key in keys},
                "accuracy": [{"x": at_axis(run.tail, axis, step)} | accuracy_of(row) for step, row in tried],
                "steps": len(run.tail.steps),
            }

    def step(self, query: Query) -> Any:
        """The problems of a step, or of an evaluation, with what every attempt earned: mixed ones first."""
        run, kind, step = self._run(query), query.get("kind", "step"), _whole(query, "step", 0)
        steps = run.place.attempt_steps(kind)
        with self._file(run, kind, step) as file:
            rows = file.with_lengths(file.brief(("prompt_text",)))
        place = {number: index for index, number in enumerate(run.tail.steps)}.get(step)
        return {
            "problems": problems_of(rows),
            "row": run.tail.row(place) if kind == "step" and place is not None else {},
            "before": max((other for other in steps if other < step), default=None),
            "after": min((other for other in steps if other > step), default=None),
        }

    def attempt(self, query: Query) -> Any:
        """One attempt with all its tokens, and its siblings. ``extracts``: whether any answer is found in that
        step; rewards of a user's own find none."""
        run, kind = self._run(query), query.get("kind", "step")
        step, place = _whole(query, "step", 0), _whole(query, "place", 0)
        with self._file(run, kind, step) as file:
            row, rows = file.attempt(place), file.brief()
            siblings = file.with_lengths([other for other in rows if other["problem"] == row.get("problem")])
        extracts = any(other.get("extracted") for other in rows)
        return {"attempt": row, "siblings": siblings, "num_attempts": len(rows), "extracts": extracts}

    def search(self, query: Query) -> Any:
        """Attempts that fit, newest step first; ask again with ``before`` = ``next`` for more."""
        run = self._run(query)
        wanted = AttemptQuery(
            text=query.get("text", ""),
            problem=query.get("problem", ""),
            ended=query.get("ended", ""),
            least_reward=_number(query, "least_reward"),
            most_reward=_number(query, "most_reward"),
            least_length=_maybe_whole(query, "least_length"),
            most_length=_maybe_whole(query, "most_length"),
        )
        return search(run.place, query.get("kind", "step"), SearchPlace.read(query.get("before", "")), wanted)

    def _diagnosis(self, run: OpenRun) -> StandingDiagnosis:
        kept = self._standing.get(run.place.name)
        if kept is None or kept.run is not run:
            kept = self._standing[run.place.name] = StandingDiagnosis(run)
        return kept

    def _run(self, query: Query) -> OpenRun:
        return self._library.run(query.get("run", ""))

    def _file(self, run: OpenRun, kind: str, step: int) -> AttemptsFile:
        path = run.place.attempts_file(kind, step)
        if path is None:
            raise UserError(f"no attempts of {kind} {step} were kept; save.rollouts says of which steps they are")
        return AttemptsFile(path)


def told_column(key: str) -> dict[str, str]:
    """A flat column with its group, and its meaning where there is one.

    >>> told_column("seconds.update")["group"]
    'time'
    """
    known = COLUMNS.get(key.partition(".")[0])
    return {"key": key, "group": group_of(key.partition(".")[0]), "words": known.words if known else ""}


def functions_of(row: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Every reward function's numbers in a step's flat row.

    >>> functions_of({"reward": 1.5, "rewards.a.b.mean": 0.5, "rewards.a.b.std": 0.1})
    {'a.b': {'mean': 0.5, 'std': 0.1}}
    """
    found: dict[str, dict[str, float]] = {}
    for key, value in row.items():
        room, _, rest = key.partition(".")
        name, _, measure = rest.rpartition(".")
        if room == "rewards" and name:
            found.setdefault(name, {})[measure] = value
    return found


def problems_of(rows: list[Brief]) -> list[dict[str, Any]]:
    """A step's attempts by problem, in four kinds: ``mixed`` (some earned more than others: they teach), ``single`` (it
    was tried once), ``equal`` (all the same), ``left out`` (none was kept), in this order; within a kind as they were
    tried."""
    by_problem: dict[str, list[Brief]] = {}
    for row in rows:
        by_problem.setdefault(str(row["problem"]), []).append(row)
    found = []
    for problem, attempts in by_problem.items():
        rewards = [row["reward"] for row in attempts if row["reward"] is not None]
        mixed = bool(rewards) and max(rewards) - min(rewards) > 1e-9 * max(1.0, abs(max(rewards)))
        kept = any(row.get("kept") for row in attempts) or not any("kept" in row for row in attempts)
        shown = [{key: value for key, value in row.items() if key != "prompt_text"} for row in attempts]
        found.append(
            {
                "problem": problem,
                "prompt": str(attempts[0].get("prompt_text") or "")[:400],
                "kind": "left out" if not kept else "mixed" if mixed else "equal" if len(attempts) > 1 else "single",
                "mean": sum(rewards) / len(rewards) if rewards else None,
                "attempts": shown,
            }
        )
    order = ("mixed", "single", "equal", "left out")
    return sorted(found, key=lambda problem: order.index(str(problem["kind"])))


def _evaluation(step: int, row: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation without the long texts of its sample."""
    return {"step": step} | {key: value for key, value in row.items() if key not in ("kind", "step")}


def _few(steps: list[int]) -> dict[str, Any]:
    """First, last and number of steps: ten thousand numbers are no answer to a page."""
    return {"first": steps[0], "last": steps[-1], "num": len(steps)} if steps else {"num": 0}


def _answering(answer: Callable[[Query], Any]) -> Callable[[Request], Response]:
    """As an endpoint; a UserError is 404 with its line."""

    def endpoint(request: Request) -> Response:  # not async: starlette runs it beside the others, on a thread
        try:
            return _json(answer(request.query_params))
        except UserError as error:
            return _json({"error": str(error)}, 404)

    return endpoint


def _json(content: Any, status: int = 200) -> Response:
    told = json.dumps(plain(content), ensure_ascii=True, allow_nan=False, default=str)
    return Response(told, status, media_type="application/json")


def _whole(query: Query, key: str, default: int) -> int:
    found = _maybe_whole(query, key)
    return default if found is None else found


def _maybe_whole(query: Query, key: str) -> int | None:
    text = query.get(key, "")
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise UserError(f"{key}={text[:40]!r} is no whole number")
    return int(text)


def _number(query: Query, key: str) -> float | None:
    try:
        return float(query[key]) if query.get(key) else None
    except ValueError:
        raise UserError(f"{key}={query[key][:40]!r} is no number") from None
