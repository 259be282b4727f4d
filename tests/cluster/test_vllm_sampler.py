"""The sampler on vLLM, against a server that speaks as vLLM does and computes with a tiny model."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from naive import ENDS, HERE, SAMPLING
from samplers import REQUESTS, SAMPLINGS, require_told_once
from vllms import MOST_GAP, Served, moved, served, tied

from upslope.cluster.vllm.check import LENGTHS
from upslope.errors import NonFinite, Unavailable, UserError
from upslope.rollout.base import Request
from upslope.types import Rollout, Sampling, Score


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server for all tests that leave its weights alone."""
    with served(tmp_path_factory.mktemp("vllm")) as made:
        yield made


# -- what every sampler owes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("requests", [REQUESTS, REQUESTS[::-1], REQUESTS[4:5], []], ids=["all", "turned", "one", "no"])
def test_one_rollout_for_each_request_in_their_order(one: Served, requests: list[Request]) -> None:
    got = one.sampler.generate(requests, SAMPLING, HERE)
    assert [(r.problem_id, r.sample, r.prompt) for r in got] == [(q.problem_id, q.sample, q.prompt) for q in requests]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_responses_end_as_they_must_and_are_the_policys_own(one: Served, sampling: Sampling) -> None:
    got = one.sampler.generate(REQUESTS, sampling, HERE)
    for r in got:
        ends = [t for t, token in enumerate(r.response) if token in ENDS]
        assert ends in ([], [len(r.response) - 1]) and all(t >= sampling.min_tokens for t in ends)
        assert ends or len(r.response) == sampling.max_tokens
        assert r.ended == ("stop" if ends else "length")
        assert r.logp is not None and len(r.logp) == len(r.response)
        assert all(x == 0 if sampling.greedy else x <= 0 for x in r.logp)
        assert (r.mask, r.text, r.score) == ((True,) * len(r.response), "", Score(0.0))
    if sampling == SAMPLING:
        assert {r.ended for r in got} == {"stop", "length"}, "one way of ending was never tried"


@pytest.mark.parametrize("sampling", [s for s in SAMPLINGS if s.scorable], ids=str)
def test_log_probabilities_are_those_of_the_policy(one: Served, sampling: Sampling) -> None:
    got = one.sampler.generate(REQUESTS, sampling, HERE)
    logp_NT, _ = one.policy.score(got, sampling, max(len(r.response) for r in got))
    for rollout, ours in zip(got, logp_NT.tolist(), strict=True):
        assert rollout.logp == pytest.approx(ours[: len(rollout.response)], abs=1e-4)


def test_tokens_that_the_tokenizer_does_not_know_are_never_drawn(tmp_path: Path) -> None:
    known = len(tiny.TOKENIZER)
    with served(tmp_path, vocab_size=3 * known) as s:  # most of what the weights would say is of no token
        assert s.sampler.gaps[-1] < 1e-4
        for sampling in SAMPLINGS:
            got = s.sampler.generate(REQUESTS, sampling, HERE)
            assert max(token for r in got for token in r.response) < known
            if sampling.scorable:
                logp_NT, _ = s.policy.score(got, sampling, max(len(r.response) for r in got))
                for rollout, ours in zip(got, logp_NT.tolist(), strict=True):
                    assert rollout.logp == pytest.approx(ours[: len(rollout.response)], abs=1e-4)


def test_each_request_is_seeded_by_its_address(one: Served) -> None:
    first = {(r.problem_id, r.sample): r.response for r in one.sampler.generate(REQUESTS, SAMPLING, HERE)}
    again = {(r.problem_id, r.sample): r.response for r in one.sampler.generate(REQUESTS[::-1], SAMPLING, HERE)}
    assert first == again and len(set(first.values())) > 3
    seeds = [body["sampling_params"].get("seed", 0) for path, body in one.server.asked if "generate" in path]
    assert HERE.key("toy/1", 2) >> 1 in seeds and max(seeds) < 2**63


def test_every_rollout_is_told_of_once_after_the_progress_that_counts_it(one: Served) -> None:
    require_told_once(one.sampler)


def test_a_prompt_without_room_is_refused_before_anything_is_asked(one: Served) -> None:
    fits, not_any_more = (Request("long", 0, tuple(range(3, 43)) * 6 + (5,) * num) for num in (4, 5))
    assert len(one.sampler.generate([fits], SAMPLING, HERE)) == 1
    before = len(one.server.asked)
    with pytest.raises(UserError, match="245 prompt tokens and max_tokens=12 do not fit the model's 256 positions"):
        one.sampler.generate([*REQUESTS, not_any_more], SAMPLING, HERE)
    assert len(one.server.asked) == before


@pytest.mark.parametrize("listener", ["progress", "finished"])
def test_what_a_listener_raises_ends_the_generation(one: Served, listener: str) -> None:
    def refuse(*now: object) -> None:
        raise LookupError(listener)

    with pytest.raises(LookupError, match=listener):
        one.sampler.generate(REQUESTS, SAMPLING, HERE, **{listener: refuse})  # type: ignore[arg-type]
    assert len(one.sampler.generate(REQUESTS, SAMPLING, HERE)) == len(REQUESTS)
    assert not [t for t in threading.enumerate() if "work" in t.name]


def test_a_temperature_that_vllm_would_change_in_silence_is_refused(one: Served) -> None:
    with pytest.raises(UserError, match=r"no temperature between 0 and 0\.01, and 0\.001 is one"):
        one.sampler.generate(REQUESTS, Sampling(0.001, max_tokens=3), HERE)


# -- weights ----------------------------------------------------------------------------------------------------


def test_rollouts_carry_the_version_and_come_from_the_weights_that_were_loaded(tmp_path: Path) -> None:
    with served(tmp_path) as s:
        assert s.sampler.version == 0
        before = s.sampler.generate(REQUESTS, SAMPLING, HERE)
        s.sampler.load(moved(s.policy), version=7)
        after = s.sampler.generate(REQUESTS, SAMPLING, HERE)
        assert ({r.version for r in before}, {r.version for r in after}) == ({0}, {7})
        assert s.sampler._check.measure(after) < 1e-4 < 0.01 < s.sampler._check.measure(before)
        assert [h.version for h in s.sampler.handed_over] == [0, 7]
        assert all(gap < 1e-4 for gap in s.sampler.gaps)
        assert s.server.label == s.sampler.handed_over[-1].label and s.server.label.startswith("7:")
        assert s.sampler.handed_over[0].label != s.sampler.handed_over[1].label
        assert not s.server.paused and not list((tmp_path / "weights").iterdir())


def test_the_server_is_quiet_and_forgets_prompts_while_weights_change(tmp_path: Path) -> None:
    with served(tmp_path) as s:
        s.server.asked.clear()
        s.sampler.load({}, version=1)
        paths = [path for path, _ in s.server.asked]
        assert paths[:5] == [
            "/pause?mode=wait", "/collective_rpc", "/reset_prefix_cache", "/update_weight_version", "/resume"
        ]  # fmt: skip
        assert set(paths[5:]) == {"/inference/v1/generate"} and len(paths[5:]) == len(LENGTHS)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("stale_head", r"weights of version 3: .* differ from the learner's by up to [\d.]+ nats, and .* allows 0.001"),
        (
            "stale_cache",
            r"weights of version 3: .* differ from the learner's by up to [\d.]+ nats, and .* allows 0.001",
        ),
        ("wrong_version", r"weights of version 3 were sent with version 3, .* says that it uses 0\?"),
        ("wrong_checksum", r"weights of version 3 were sent with checksum [0-9a-f]{64}, .* says that it uses 0{64}"),
        ("wrong_label", r"were sent with weight_version 3:[0-9a-f]{16}, .* says that it uses default"),
        ("wrong_spans", r"wrote with weights \['default'\], and was given '3:[0-9a-f]{16}'"),
        ("busy_cache", r"could not empty its prefix cache"),
        ("no_method", r"500: Worker has no attribute 'upslope_load'; .* --worker-extension-cls"),
    ],
)
def test_weights_that_are_not_those_that_were_sent_stop_the_run(tmp_path: Path, fault: str, message: str) -> None:
    with served(tmp_path) as s:
        s.server.faults.add(fault)
        with pytest.raises(UserError, match=message):
            s.sampler.load(moved(s.policy), version=3)
        assert not s.server.paused  # it may be somebody's own
        s.server.faults.clear()
        s.sampler.load({}, version=4)
        assert s.sampler.gaps[-1] < 1e-4


def test_a_head_that_is_stale_by_little_shows_at_a_bound_for_float32_and_not_at_one_for_bfloat16(
    tmp_path: Path,
) -> None:
    """Why docs/vllm.md tells to set ``cluster.most_gap`` by precision."""
    with served(tmp_path, most_gap=0.05) as s:
        s.server.faults.add("stale_head")
        s.sampler.load(moved(s.policy, by=1e-4), version=1)
        assert MOST_GAP < s.sampler.gaps[-1] < 0.05


def test_a_gap_that_is_no_number_is_not_let_through(one: Served) -> None:
    (rollout,) = one.sampler.generate(REQUESTS[:1], Sampling(max_tokens=3, min_tokens=3), HERE)
    values = (-1.0, math.nan, -1.0)
    assert math.isnan(one.sampler._check.measure([Rollout(**{**vars(rollout), "logp": values})]))
    with pytest.raises(UserError, match="by up to nan nats"):
        one.sampler._check.require(lambda *_: [Rollout(**{**vars(rollout), "logp": values})], 5)


def test_weights_of_another_process_become_the_policys(tmp_path: Path) -> None:
    other = tied(seed=1)
    with served(tmp_path) as s:
        s.sampler.load(other.weights(), version=2)
        assert s.sampler.gaps[-1] < 1e-4
        for name, weight in s.policy.weights().items():
            assert weight.equal(other.weights()[name])


# -- a server that fails ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        ("hang", Unavailable, r"gave no sign of life for 0\.5 s \(generation\); look at it, or raise cluster.patience"),
        ("break_off", Unavailable, "cannot be reached: it broke off"),
        ("abort", Unavailable, r"broke off after 1 tokens \(abort\)"),
        ("say_error", UserError, "failed at /inference/v1/generate: EngineCore encountered an issue"),
        ("no_number", NonFinite, r"problem toy/0: the vLLM server drew token \d+ of log-probability None"),
    ],
)
def test_a_server_that_fails_is_named(tmp_path: Path, fault: str, kind: type[UserError], message: str) -> None:
    with served(tmp_path) as s:
        s.sampler._client.patience = 0.5 if fault == "hang" else 20
        s.server.faults.add(fault)
        with pytest.raises(kind, match=message):
            s.sampler.generate(REQUESTS[:1], Sampling(max_tokens=4, min_tokens=4), HERE)


def test_a_server_that_is_gone_is_named(tmp_path: Path) -> None:
    with served(tmp_path) as s:
        s.server.close()
        s.server.close = lambda: None  # type: ignore[method-assign]
        with pytest.raises(Unavailable, match=r"the vLLM server at http://127.0.0.1:\d+ cannot be reached: Connection"):
            s.sampler.generate(REQUESTS[:1], SAMPLING, HERE)


def test_bodies_are_plain_json(one: Served) -> None:
    body = next(b for p, b in reversed(one.server.asked) if "generate" in p)
    assert json.loads(json.dumps(body)) == body
    assert body["sampling_params"]["logprobs"] == 0 and body["sampling_params"]["ignore_eos"] is True
    assert sorted(body["sampling_params"]["stop_token_ids"]) == sorted(ENDS)
    assert "logit_bias" not in body["sampling_params"]  # its tokenizer knows every row


def test_it_does_not_listen(one: Served) -> None:
    assert one.sampler.listens is False
    assert tiny.TOKENIZER is one.policy.tokenizer
