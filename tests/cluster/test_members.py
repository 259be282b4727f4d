"""What becomes of a process is told of that process, in the words of what ended it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")

from ray.exceptions import ActorDiedError, RayTaskError

from upslope.cluster import processes
from upslope.cluster.crew import Member, reason
from upslope.cluster.life import SignOfLife
from upslope.cluster.processes import Processes
from upslope.training.cluster_settings import ClusterSettings


def made_of(traceback: str) -> ActorDiedError:
    error = RayTaskError.__new__(RayTaskError)
    error._actor_id = None
    error.traceback_str = traceback
    error.cause = None
    return ActorDiedError(error)


def test_what_its_beginning_raised_is_told_and_not_taken_for_want_of_memory() -> None:
    trace = "ray::RewardWorker.__init__() (pid=1)\n  File x\n{}\n"
    assert reason(made_of(trace.format("upslope.errors.UserError: there is no data file a.jsonl"))) == (
        "there is no data file a.jsonl"
    )
    assert reason(made_of(trace.format("FileNotFoundError: [Errno 2] gone"))) == "FileNotFoundError: [Errno 2] gone"
    assert reason(ActorDiedError()) == "its process ended, killed (as for want of memory) or crashed"


def test_the_end_of_one_that_was_replaced_is_not_its_successors() -> None:
    old, new = object(), object()
    member = Member("sampler 0", old, SignOfLife(1, "vm", "", 0.0))
    member.begins(new)
    member.ends(old, "died")
    member.answers(old, SignOfLife(1, "vm", "", 0.0))
    assert (member.ended, member.sign) == ("", None)
    member.ends(new, "died")
    assert member.ended == "died"


@pytest.mark.parametrize(
    ("error", "rounds"),
    [(RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer"), 3), (RuntimeError("a defect"), 1)],
)
def test_a_broken_sum_is_blamed_on_whoever_is_found_to_be_gone(
    error: Exception, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray knows of a lost machine later than the learners that wait for it."""
    monkeypatch.setattr(processes, "AGAIN", 0.0)
    member, looked = Member("learner 1", object()), []

    def look(one: Any) -> None:
        looked.append(one)
        if len(looked) == 3:
            one.ended = "died with its machine"

    company = Processes.__new__(Processes)
    company._settings, company._followers = ClusterSettings(ranks=2), [member]
    company._watch = SimpleNamespace(look=look)  # type: ignore[assignment]
    told = company.cause(error)
    assert len(looked) == rounds
    assert str(told) == ("learner 1 died with its machine" if rounds == 3 else "None")
