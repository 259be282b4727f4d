"""The real vLLM, where ``UPSLOPE_VLLM_PYTHON`` names the interpreter of its environment: what it does with weights.

One server and a tiny model serve all of it, since a server takes a minute to start.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import naive
import pytest
import torch
from naive import ENDS, HERE
from samplers import REQUESTS
from tiny import TOKENIZER
from vllms import moved

from upslope.cluster.vllm.engine import vllm_sampler
from upslope.cluster.vllm.handover import FileHandover, forget_prompts
from upslope.cluster.vllm.sampler import VllmSampler
from upslope.errors import UserError
from upslope.training.cluster_settings import ClusterSettings
from upslope.training.settings import RunSettings
from upslope.types import Sampling

PYTHON = os.environ.get("UPSLOPE_VLLM_PYTHON", "")
BOUND = 1e-3
KNOWN = len(TOKENIZER)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="set UPSLOPE_VLLM_PYTHON to the interpreter of vLLM's environment"),
]


class OwnReload(FileHandover):
    """vLLM's own way to load weights, as it comes."""

    def _load(self, folder: Path, version: str) -> list[Mapping[str, object]]:
        self._client.rpc("reload_weights", weights_path=str(folder.resolve()))
        return []


@pytest.fixture(scope="module")
def sampler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmSampler]:
    policy = naive.policy(
        0,
        torch.float32,
        vocab_size=3 * KNOWN,  # padded, by far more than any real model
        tie_word_embeddings=True,
        hidden_size=64,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    cluster = ClusterSettings(engine="vllm", vllm_python=PYTHON, most_gap=BOUND, patience=900, vllm_memory=0.2)
    with vllm_sampler(RunSettings(cluster=cluster), tmp_path_factory.mktemp("real")) as make:
        yield make(policy)


@pytest.fixture(autouse=True)
def again(sampler: VllmSampler) -> Iterator[None]:
    """After every test the server has the policy's weights."""
    handover = sampler._handover
    yield
    sampler._handover = handover
    sampler._client.post("/resume")
    sampler.load({}, 0)


def test_what_is_loaded_is_what_writes(sampler: VllmSampler) -> None:
    for version in (1, 2):
        sampler.load(moved(sampler._policy, seed=version), version)
        assert sampler.gaps[-1] < 1e-4
    got = sampler.generate(REQUESTS, Sampling(max_tokens=12), HERE)
    assert {r.version for r in got} == {2} and sampler._check.measure(got) < 1e-4


@pytest.mark.parametrize(
    "sampling",
    [Sampling(0.7, 5, 0.9, 3, 10), Sampling(0.0, max_tokens=8), Sampling(min_tokens=4, max_tokens=6)],
    ids=str,
)
def test_the_real_server_ends_and_bans_as_told(sampler: VllmSampler, sampling: Sampling) -> None:
    for r in sampler.generate(REQUESTS, sampling, HERE):
        ends = [t for t, token in enumerate(r.response) if token in ENDS]
        assert ends in ([], [len(r.response) - 1]) and all(t >= sampling.min_tokens for t in ends)
        assert ends or len(r.response) == sampling.max_tokens
        assert max(r.response) < KNOWN


def test_log_probabilities_are_of_the_temperature_and_the_ban(sampler: VllmSampler) -> None:
    sampling = Sampling(0.7, min_tokens=4, max_tokens=6)
    got = sampler.generate(REQUESTS, sampling, HERE)
    logp_NT, _ = sampler._policy.score(got, sampling, max(len(r.response) for r in got))
    for rollout, ours in zip(got, logp_NT.tolist(), strict=True):
        assert rollout.logp == pytest.approx(ours[: len(rollout.response)], abs=1e-3)


def test_its_own_reload_keeps_a_stale_head_and_is_caught(sampler: VllmSampler) -> None:
    sampler._handover = OwnReload(sampler._client, sampler._handover._folder)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"weights of version 3: .* differ from the learner's by up to") as caught:
        sampler.load(moved(sampler._policy, seed=3), 3)
    print(caught.value, file=sys.stderr)


def test_prompts_kept_from_older_weights_are_caught(sampler: VllmSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    assert callable(forget_prompts)
    monkeypatch.setattr("upslope.cluster.vllm.handover.forget_prompts", lambda _: None)
    monkeypatch.setattr(sampler._client, "post", keeping(sampler._client.post))
    with pytest.raises(UserError, match=r"weights of version 4: .* differ from the learner's by up to") as caught:
        sampler.load(moved(sampler._policy, seed=4), 4)
    print(caught.value, file=sys.stderr)


def keeping(post):  # type: ignore[no-untyped-def]
    """A pause that leaves the cache alone, too."""
    return lambda path, body=None: post(path.replace("mode=wait", "mode=wait&clear_cache=false"), body)
