"""New weights reach samplers in the middle of their attempts, in a whole run."""

import math
from itertools import pairwise

import pytest
from several import fill, settings, trained

from upslope.errors import UserError

pytest.importorskip("ray")

STEPS = 6


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One row at a time, so that sampling takes far longer than an update, and an update's weights come while some
    attempt is written."""
    place = fill(tmp_path_factory.mktemp("in-flight"))
    processes = {"samplers": 1, "rewards": 1, "staleness": 2, "in_flight": True}
    return trained(settings(place, "in-flight", steps=STEPS, rollouts=1, longest=48, max_rows=1, **processes))


def rows_of(run):
    return [(step, row) for step in range(STEPS) for row in run.rollouts(step)]


def by_token(row):
    return row["versions"] or [row["version"]] * len(row["response"])


def test_versions_are_kept_by_token(run):
    mixed = [row for _, row in rows_of(run) if row["versions"] is not None]
    assert mixed
    for row in mixed:
        assert len(row["versions"]) == len(row["response"]) == len(row["sampler_logp"])
        assert all(a <= b for a, b in pairwise(row["versions"]))
        assert row["versions"][0] < row["versions"][-1] == row["version"]


def test_ages_count_tokens_and_none_is_older_than_the_staleness(run):
    for step, told in enumerate(run.rows()):
        ages = [step - version for row in run.rollouts(step) for version in by_token(row)]
        assert told["age_mean"] == pytest.approx(sum(ages) / len(ages))
        assert told["age_max"] == max(ages) <= 2 and min(ages) >= 0


def test_corrections_weigh_against_what_each_token_was_drawn_from(run):
    """By token: the learner's probability over the sampler's, at most 2; the journal has the mean."""
    for step, line in enumerate(run.rows()):
        rows = [row for row in run.rollouts(step) if row["learner_logp"] is not None]
        pairs = [pair for row in rows for pair in zip(row["learner_logp"], row["sampler_logp"], strict=True)]
        weights = [min(math.exp(now - then), 2.0) for now, then in pairs]
        assert line["correction_mean"] == pytest.approx(sum(weights) / len(weights), rel=1e-4)
    assert max(line["logp_gap_max"] for line in run.rows()) > 1e-3  # there is something to correct


def test_weights_that_nobody_was_given_end_the_run():
    from upslope.cluster.crew import Member
    from upslope.cluster.remote_sampler import RemoteSampler, _Loaded, _Share

    sampler = RemoteSampler(None, 64, in_flight=True)
    sampler._handed = {(3, "a" * 64), (4, "b" * 64)}
    share = _Share([0], Member("sampler 0", None), None, _Loaded(None, 3, "a" * 64), 0, None)
    sampler._require_weights(share, [(3, "a" * 64), (4, "b" * 64)])
    with pytest.raises(UserError, match=r"sampler 0 wrote with other weights .* version 4 with checksum c"):
        sampler._require_weights(share, [(3, "a" * 64), (4, "c" * 64)])
    with pytest.raises(UserError, match=r"version 4 with checksum b.*, and 3 with a"):
        sampler._require_weights(share, [(4, "b" * 64)])
    in_turn = RemoteSampler(None, 64)
    in_turn._handed = sampler._handed
    with pytest.raises(UserError, match="version 4"):
        in_turn._require_weights(share, [(3, "a" * 64), (4, "b" * 64)])
