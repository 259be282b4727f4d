"""Whoever asks is served, whatever there is room for, by whatever decoder."""

from __future__ import annotations

import queue
from typing import Any

import pytest
from served import guest, served_policy

from upslope.model.hf import use_attention
from upslope.model.policy import Policy
from upslope.rollout.joining import Guest, JoinedRows
from upslope.serve.engine import Said, ServingEngine, Writing
from upslope.types import Sampling

GUESTS = [Guest((5, 6 + i % 3), Sampling(max_tokens=3 + 7 * i % 40), seed=i, sample=0) for i in range(20)]


def plain_policy() -> Policy:
    policy = served_policy()
    use_attention(policy.model, "sdpa")
    policy.packs = policy.native = False
    return policy


def written(engine: ServingEngine, guests: list[Guest]) -> list[tuple[int, ...]]:
    """The tokens of each, all asked at once."""
    said: queue.Queue[tuple[int, Any]] = queue.Queue()
    jobs = [
        Writing(guest, (), False, lambda what, place=place: said.put((place, what)))  # type: ignore[misc]
        for place, guest in enumerate(guests)
    ]
    engine.ask(jobs)
    found = dict(said.get(timeout=60) for _ in guests)
    assert all(isinstance(what, Said) and what.ended for what in found.values())
    return [tuple(t.id for t in found[place].tokens) for place in range(len(guests))]


@pytest.fixture(scope="module")
def expected() -> list[tuple[int, ...]]:
    policy = served_policy()
    with ServingEngine(policy, policy.renderer.text) as engine:
        return [written(engine, [guest])[0] for guest in GUESTS]


@pytest.mark.parametrize(("max_rows", "budget"), [(64, 2**31), (3, 2**31), (1, 2**31), (64, 1), (64, 2**18)])
def test_whoever_waits_is_written_as_if_alone(
    expected: list[tuple[int, ...]], max_rows: int, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    widest: list[int] = []
    join = JoinedRows.join

    def watched(self: JoinedRows, guests: Any) -> Any:
        seats = join(self, guests)
        widest.append(sum(len(table.live) for table in engine._tables))
        return seats

    monkeypatch.setattr(JoinedRows, "join", watched)
    policy = served_policy()
    with ServingEngine(policy, policy.renderer.text, max_rows=max_rows, budget=budget) as engine:
        assert written(engine, GUESTS) == expected
        assert written(engine, GUESTS[::-1]) == expected[::-1]
    assert max(widest) == {(64, 2**31): 20, (3, 2**31): 3, (64, 2**18): 3}.get((max_rows, budget), 1)


def test_where_nobody_can_join_they_are_written_in_waves(expected: list[tuple[int, ...]]) -> None:
    policy = plain_policy()
    with ServingEngine(policy, policy.renderer.text, max_rows=8) as engine:
        assert written(engine, GUESTS) == expected
        assert [written(engine, [each])[0] for each in GUESTS[:3]] == expected[:3]


def test_a_long_one_makes_a_longer_table_and_a_short_one_gets_many_rows_again() -> None:
    policy = served_policy()
    with ServingEngine(policy, policy.renderer.text) as engine:
        rooms = []
        for num in (5, 250, 5):
            written(engine, [guest(max_tokens=num)])
            rooms.append([table.room for table in engine._tables])
        assert rooms == [[256], [256], [256]]
        written(engine, [guest(max_tokens=2000, min_tokens=3, temperature=0.01)])
        assert [table.room for table in engine._tables] == [2048]
        written(engine, [guest(max_tokens=5)])
        assert [table.room for table in engine._tables] == [256]


def test_an_engine_that_is_closed_takes_nobody() -> None:
    policy = served_policy()
    with ServingEngine(policy, policy.renderer.text) as engine:
        pass
    with pytest.raises(Exception, match="the server is closing"):
        written(engine, GUESTS[:1])
