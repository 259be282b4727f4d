"""Every claim holds; what a comparison is; what the command shows."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from upslope.errors import UserError
from upslope.prove import command
from upslope.prove.catalogue import CLAIMS
from upslope.prove.claim import Check, Claim, Fact, angle, at_least, at_most, equal, judged, vanishes
from upslope.prove.command import picked, prove_command
from upslope.prove.models import END
from upslope.prove.world import llama, toy


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_holds(claim: Claim) -> None:
    verdict = judged(claim)
    assert verdict.failure == ""
    assert [check for check in verdict.checks if not check.holds] == []
    assert verdict.holds
    assert all(check.tolerance <= 1e-9 or check.why for check in verdict.checks)
    assert all(math.isfinite(fact.value) for fact in verdict.facts)


def test_the_catalogue_is_complete_and_in_order() -> None:
    assert [claim.number for claim in CLAIMS] == list(range(1, len(CLAIMS) + 1))
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS) == 41
    assert all(claim.statement and claim.source and claim.compares for claim in CLAIMS)


# -- comparisons ----------------------------------------------------------------------------------------------------


def test_equality_is_relative_to_the_larger_side() -> None:
    assert equal("", torch.tensor([1e6, 1.0]), torch.tensor([1e6 + 1.0, 1.0])).error == pytest.approx(1e-6, rel=1e-4)
    assert not equal("", 1e-6, 1.1e-6).holds


@pytest.mark.parametrize(
    "check",
    [
        equal("two zeros are no evidence", torch.zeros(3), torch.zeros(3)),
        equal("NaN", torch.tensor([1.0, math.nan]), torch.ones(2)),
        vanishes("NaN", math.nan),
        vanishes("not zero", 1e-8),
        at_most("NaN", math.nan, 1.0),
        at_most("above in one entry", torch.tensor([0.0, 2.0]), torch.tensor([1.0, 1.0])),
        at_least("NaN", math.nan, 1.0),
        at_least("below", 0.99, 1.0),
    ],
    ids=lambda check: f"{check.relation} {check.label}",
)
def test_does_not_hold(check: Check) -> None:
    assert not check.holds


def test_sides_of_different_shape_are_an_error() -> None:
    with pytest.raises(ValueError, match="compares 2 numbers with 3"):
        equal("shapes", torch.ones(2), torch.ones(3))


def test_angles() -> None:
    a, b = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([1.0, 1.0], dtype=torch.float64)
    assert angle(a, 3 * b) == pytest.approx(45)
    assert angle(a, -a) == pytest.approx(180)
    assert angle(a, a) == 0


def claiming(*found: Check | Fact, error: Exception | None = None) -> Claim:
    def prove() -> Iterator[Check | Fact]:
        yield from found
        if error is not None:
            raise error

    return Claim(99, "made-up", "this is so", "nobody", "this with that", prove)


def test_a_claim_without_checks_or_with_an_exception_does_not_hold() -> None:
    assert judged(claiming(equal("", 1.0, 1.0))).holds
    assert not judged(claiming(Fact("number", 1.0))).holds
    broken = judged(claiming(equal("", 1.0, 1.0), error=RuntimeError("it broke")))
    assert not broken.holds
    assert broken.failure == "RuntimeError: it broke"


# -- the worlds -----------------------------------------------------------------------------------------------------


def test_all_responses_of_a_world() -> None:
    world = toy(limit=2)
    assert world.responses == ((END,), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2))
    groups, prob_P = world.groups(2)
    assert len(groups) == 49
    assert float(prob_P.sum()) == pytest.approx(1, abs=1e-12)
    assert not toy().policy.packs
    assert llama().policy.packs


def test_other_coordinates_hold_the_same_policy() -> None:
    plain, mixed = toy(), toy(mixed=True)
    assert torch.allclose(plain.prob_Y(), mixed.prob_Y(), rtol=0, atol=1e-12)
    phi, theta = (w.policy.model.head.phi.detach() for w in (mixed, plain))
    assert float((phi - theta).abs().max()) > 0.1


def test_moving_leaves_the_world_where_it_was() -> None:
    world = llama()
    before = world.prob_Y().detach()
    moved = world.moved(0.5)
    assert torch.equal(world.prob_Y(), before)
    assert float((moved.prob_Y().detach() - before).abs().max()) > 1e-3


# -- the command ----------------------------------------------------------------------------------------------------


def test_claims_are_picked_by_number_and_name() -> None:
    assert [claim.number for claim in picked(["gae", "2", "ppo-clip", "2"])] == [2, 8, 11]
    assert picked(None) == picked([]) == list(CLAIMS)


@pytest.mark.parametrize(
    ("key", "hint"), [("group-baseline", "did you mean 'group-baselines'"), ("99", "'99'"), ("zzz", "known: ")]
)
def test_an_unknown_claim_names_the_nearest(key: str, hint: str) -> None:
    with pytest.raises(UserError, match=hint):
        prove_command([key], False)


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert prove_command(["reinforce", "11"], False)
    shown = capsys.readouterr().out
    assert "reinforce" in shown
    assert "21.69" in shown  # a fact: degrees that lambda = 0 turns the gradient by
    assert "2 of 2 claims hold" in shown
    assert "central differences of J, within 1e-07: " in shown  # what was not held to 1e-9, and why
    assert "FAILS" not in shown


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert prove_command(["dapo-rules"], True)
    (found,) = json.loads(capsys.readouterr().out)
    assert found["number"] == 14
    assert found["holds"] is True
    assert found["error"] <= 1e-9
    assert found["facts"]["a token of probability 0.01 may rise by, DAPO"] == pytest.approx(0.0028)
    assert {"label", "relation", "left", "right", "error", "tolerance", "why", "holds"} == set(found["checks"][0])


@pytest.mark.parametrize("as_json", [False, True])
def test_one_failure_is_the_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    good = replace(claiming(equal("fine", 1.0, 1.0)), number=1, name="good")
    bad = claiming(equal("one is two", 1.0, 2.0), equal("NaN", math.nan, 1.0), error=ValueError("[and] more"))
    monkeypatch.setattr(command, "CLAIMS", (good, bad))
    assert not prove_command(None, as_json)
    shown = capsys.readouterr().out
    if as_json:
        first, second = json.loads(shown)
        assert (first["holds"], second["holds"], second["error"]) == (True, False, None)
        assert second["failure"] == "ValueError: [and] more"
    else:
        assert "one is two: 1 = 2 does not hold" in shown
        assert "ValueError: [and] more" in shown
        assert "1 of 2 claims hold" in shown
