"""The sampler against the naive way: one row, the whole sequence again for every token."""

import pytest
import torch
from naive import HERE, SAMPLING, flat, naive, policy, watched
from tiny import drawn, model, problems

from upslope.model.hf import use_attention
from upslope.model.policy import Policy
from upslope.rollout.address import Address
from upslope.rollout.base import Request
from upslope.rollout.local import LocalSampler
from upslope.types import Sampling


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("sampling", [SAMPLING, Sampling(0.7, max_tokens=8), Sampling(1.3, 5, 0.9, 3, 10)])
def test_batched_cached_sampling_equals_the_naive_way(packed, sampling):
    plain, asked = model(), problems(3)
    subject = policy()
    if not packed:
        use_attention(subject.model, "sdpa")
    got = drawn(subject, asked, 4, sampling, HERE, packed=packed)
    for problem, attempts in zip(asked, got, strict=True):
        for sample, attempt in enumerate(attempts):
            tokens, logps, ended = naive(plain, problem, sample, sampling)
            assert attempt.response == tuple(tokens)
            assert attempt.ended == ended
            assert attempt.logp == pytest.approx(logps, abs=1e-10)
            assert (attempt.problem_id, attempt.sample) == (problem.id, sample)


def test_both_ways_of_ending_occur_in_these_tests():
    ended = {r.ended for r in flat(drawn(policy(), problems(3), 8, SAMPLING, HERE))}
    assert ended == {"stop", "length"}


def test_one_attempt_is_the_same_alone_and_among_63_others_in_float32():
    subject, asked = policy(dtype=torch.float32), problems(8)
    sampler = LocalSampler(subject)
    among = flat(drawn(subject, asked, 8, SAMPLING, HERE, by=sampler))
    assert len(among) == 64
    for problem in asked:
        alone = flat(drawn(subject, [problem], 1, SAMPLING, HERE))[0]
        (same,) = (r for r in among if (r.problem_id, r.sample) == (problem.id, 0))
        assert alone.response == same.response


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="about MKL's products of one to three rows")
def test_log_probabilities_have_the_same_bits_in_any_company_where_a_run_repeats(monkeypatch):
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    subject, asked = policy(dtype=torch.float32), problems(3)
    prompt = (5,)  # nothing before its last token; and (5, 6), one row to compute beforehand
    requests = [Request(p.id, n, prompt * (i + 1)) for i, p in enumerate(asked) for n in range(2)]
    whole = LocalSampler(subject).generate(requests, SAMPLING, HERE)
    for num in (1, 2, 3):
        parts = [requests[begin : begin + num] for begin in range(0, len(requests), num)]
        assert [r for part in parts for r in LocalSampler(subject).generate(part, SAMPLING, HERE)] == whole


def test_order_and_company_change_nothing():
    subject, asked = policy(), problems(5)
    expected = {(r.problem_id, r.sample): r.response for r in flat(drawn(subject, asked, 4, SAMPLING, HERE))}
    for sampler, order in ((LocalSampler(subject, max_rows=3), asked[::-1]), (LocalSampler(subject), asked[::-1])):
        got = {(r.problem_id, r.sample): r.response for r in flat(drawn(subject, order, 4, SAMPLING, HERE, by=sampler))}
        assert got == expected


def test_another_step_or_seed_draws_other_attempts():
    subject, asked = policy(), problems(2)
    first, second, third = (
        [r.response for r in flat(drawn(subject, asked, 4, SAMPLING, Address(*address)))]
        for address in ((0, "sample", 5), (0, "sample", 6), (1, "sample", 5))
    )
    assert len({tuple(first), tuple(second), tuple(third)}) == 3


def test_samples_of_one_problem_differ():
    (attempts,) = drawn(policy(), problems(1), 8, SAMPLING, HERE)
    assert len({r.response for r in attempts}) > 1


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_the_samplers_log_probs_are_the_learners_in_float32(temperature):
    """The promise of 1e-4; the tiny model reaches 1e-5."""
    subject = policy(dtype=torch.float32)
    sampling = Sampling(temperature, max_tokens=24, min_tokens=2)
    rollouts = flat(drawn(subject, problems(6), 8, sampling, HERE))
    with torch.no_grad():
        logp_NT, _ = subject.score(rollouts, sampling, 24)
    gaps = [
        abs(a - b) for row, r in zip(logp_NT.tolist(), rollouts, strict=True) for a, b in zip(row, r.logp, strict=False)
    ]
    assert max(gaps) < 1e-4
    # and at another temperature they would not be
    with torch.no_grad():
        wrong, _ = subject.score(rollouts, Sampling(temperature * 1.1, max_tokens=24, min_tokens=2), 24)
    assert (wrong - logp_NT).abs().max() > 1e-2


def test_the_engine_stamps_the_version_and_loads_weights_from_elsewhere():
    subject, other = policy(seed=0), policy(seed=1)
    sampler = LocalSampler(subject)
    sampler.load(other.weights(), version=7)
    got = flat(drawn(subject, problems(2), 2, SAMPLING, HERE, by=sampler))
    expected = flat(drawn(other, problems(2), 2, SAMPLING, HERE))
    assert [r.response for r in got] == [r.response for r in expected]
    assert {r.version for r in got} == {7}


def test_progress_counts_every_token_and_every_row():
    seen = []
    got = flat(drawn(policy(), problems(3), 3, SAMPLING, HERE, lambda *now: seen.append(now), max_rows=4))
    assert seen == sorted(seen)
    assert seen[-1] == (sum(len(r.response) for r in got), len(got))


def test_finished_rows_leave_the_batch(monkeypatch):
    """At every token the model sees all unfinished rows and at most an eighth more."""
    subject = policy()
    widths, _ = watched(subject, monkeypatch)
    rollouts = flat(drawn(subject, problems(4), 16, Sampling(1.5, max_tokens=60), HERE))
    alive = [sum(len(r.response) > t for r in rollouts) for t in range(len(widths))]
    assert alive[-1] < alive[0], "nothing finished early, so nothing was tested"
    assert all(few <= width <= few * 8 / 7 + 1 for few, width in zip(alive, widths, strict=True))


def test_the_number_of_rows_left_to_us_keeps_keys_and_values_within_the_budget(monkeypatch):
    """2 layers x (keys, values) x 2 heads x 8 deep x 8 bytes = 512 bytes a token."""
    subject, asked = policy(), problems(5)
    assert subject.cache_bytes == 2 * 2 * 2 * 8 * 8
    longest = max(len(subject.renderer.prompt_ids(p.messages)) for p in asked) + SAMPLING.max_tokens
    expected = [[r.response for r in g] for g in drawn(subject, asked, 4, SAMPLING, HERE)]
    sizes = []
    made = Policy.decoder
    monkeypatch.setattr(Policy, "decoder", lambda self, num, *a, **k: sizes.append(num) or made(self, num, *a, **k))
    monkeypatch.setattr("upslope.rollout.local.CACHE_BUDGET", 3 * 512 * longest)
    got = [[r.response for r in g] for g in drawn(subject, asked, 4, SAMPLING, HERE)]
    assert sizes == [3]
    sizes.clear()
    plain = policy()
    use_attention(plain.model, "sdpa")
    waves = [[r.response for r in g] for g in drawn(plain, asked, 4, SAMPLING, HERE, packed=False)]
    assert sizes == [3] * 6 + [2]
    assert got == waves == expected
