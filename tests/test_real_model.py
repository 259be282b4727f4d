"""The promises about sampling and scoring, on a real pretrained model (SmolLM2-135M-Instruct), in float32."""

import pytest
import torch
from tiny import drawn
from transformers import AutoModelForCausalLM

from upslope.model.load import load
from upslope.model.policy import Policy
from upslope.native import build
from upslope.rollout.address import Address
from upslope.types import Problem, Sampling

pytestmark = pytest.mark.slow

QUESTIONS = [
    "What is 7 + 12?",
    "Tom has 18 apples and gives 5 to Eva. How many are left?",
    "Name a colour.",
    "What is half of 90? Work it out step by step and end with '#### <number>'.",
    "Count from 1 to 5.",
    "A pen costs 3 dollars. What do 4 pens cost?",
    "What day comes after Monday?",
    "Is 12 an even number?",
]
PROBLEMS = [Problem(f"q/{i}", ({"role": "user", "content": q},)) for i, q in enumerate(QUESTIONS)]


@pytest.fixture(scope="module")
def subject(smollm2_dir):
    return Policy(*load(str(smollm2_dir)))


def test_the_real_model_takes_the_packed_way(subject):
    assert subject.packs


@pytest.mark.skipif(bool(build.why_not()), reason="no native kernels here")
def test_the_real_model_takes_the_native_path_in_bfloat16_too(smollm2_dir):
    """Rounding moves some of its hidden states by a third of their spread; that is no disagreement."""
    assert Policy(*load(str(smollm2_dir), torch.bfloat16)).native


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_sampler_and_learner_agree_to_1e_4(subject, temperature, capsys):
    sampling = Sampling(temperature, max_tokens=24)
    rollouts = [r for g in drawn(subject, PROBLEMS, 2, sampling, Address(0, "sample")) for r in g]
    with torch.no_grad():
        logp_NT, _ = subject.score(rollouts, sampling, 24)
    gaps = [
        abs(a - b)
        for row, r in zip(logp_NT.tolist(), rollouts, strict=True)
        for a, b in zip(row[: len(r.response)], r.logp, strict=True)
    ]
    with capsys.disabled():
        print(f"\nlargest gap of {len(gaps)} log-probabilities at temperature {temperature}: {max(gaps):.2e}")
    assert max(gaps) <= 1e-4


def test_one_attempt_alone_equals_itself_among_63_others(subject):
    sampling, here = Sampling(max_tokens=12), Address(0, "sample")
    among = drawn(subject, PROBLEMS, 8, sampling, here)
    assert sum(len(g) for g in among) == 64
    for index in (0, 5):
        alone = drawn(subject, [PROBLEMS[index]], 1, sampling, here)[0][0]
        assert alone.response == among[index][0].response


@pytest.mark.skipif(bool(build.why_not()), reason=build.why_not())
def test_native_and_transformers_decoders_draw_the_same_tokens(subject, monkeypatch, capsys):
    """Rounding moves the boundaries between tokens by up to 6e-6 of the line (8e-7 at most, in half of the
    distributions). A token differs if its uniform number lies between where a boundary was and where it is: likely only
    among the tens of thousands of tokens that are each narrower than that, which together hold about 1e-3. So 0.2 of
    these 165 tokens are expected to differ, from which on the attempt goes another way. One of the eight may."""
    sampling, here = Sampling(max_tokens=24), Address(0, "sample")
    assert subject.fast_trunk is not None
    native = [r for g in drawn(subject, PROBLEMS[:4], 2, sampling, here) for r in g]
    monkeypatch.setattr(subject, "native", False)
    assert subject.fast_trunk is None
    other = [r for g in drawn(subject, PROBLEMS[:4], 2, sampling, here) for r in g]
    same = [(r, o) for r, o in zip(native, other, strict=True) if r.response == o.response]
    gap = max(abs(a - b) for r, o in same for a, b in zip(r.logp, o.logp, strict=True))
    with capsys.disabled():
        print(f"\n{len(same)} of {len(native)} attempts equal, largest gap of their log-probabilities {gap:.2e}")
    assert len(same) >= len(native) - 1
    assert gap <= 1e-4


def test_packed_logits_are_transformers_logits(subject, smollm2_dir):
    plain = AutoModelForCausalLM.from_pretrained(smollm2_dir, dtype=torch.float32)
    prompt = subject.renderer.prompt_ids(PROBLEMS[1].messages)
    rollouts = [r for g in drawn(subject, PROBLEMS[1:3], 3, Sampling(max_tokens=10), Address(1, "x")) for r in g]
    with torch.no_grad():
        logp_NT, _ = subject.score(rollouts, Sampling(), 10)
        for row, r in enumerate(rollouts):
            ids = torch.tensor([r.prompt + r.response])
            logits = plain(input_ids=ids, use_cache=False).logits[0, len(r.prompt) - 1 : -1]
            theirs = logits.log_softmax(-1).gather(1, torch.tensor(r.response)[:, None])[:, 0]
            torch.testing.assert_close(logp_NT[row, : len(theirs)], theirs, rtol=0, atol=1e-4)
    assert rollouts[0].prompt == prompt
