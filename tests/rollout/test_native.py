"""The native decoder beside the two others, the naive way and the learner, through the sampler and by itself."""

from dataclasses import replace

import pytest
import torch
from family import made
from naive import ENDS, HERE, SAMPLING, continued, flat, prompted
from tiny import TOKENIZER, drawn, learner, problems, random_groups

from upslope.algo.family import GRPO
from upslope.algo.objective import Objective
from upslope.learn.prepare import weigh
from upslope.model.adapter import add_adapter
from upslope.model.decoder import PlainDecoder, SharedPromptDecoder
from upslope.model.hf import use_attention
from upslope.model.policy import Policy
from upslope.model.precision import cast_weights
from upslope.model.scores import token_scores
from upslope.model.table_decoder import TableDecoder
from upslope.native import build
from upslope.native.onednn import product
from upslope.rollout.local import LocalSampler
from upslope.types import Sampling

pytestmark = pytest.mark.skipif(bool(build.why_not()), reason=build.why_not())

ARCHITECTURES = ["llama", "qwen2", "qwen3", "mistral"]
OTHERS = ["llama, tied embeddings", "llama, bias everywhere", "llama, heads deeper than the stream", "llama, yarn"]
LONG = tuple(3 + 5 * i % 100 for i in range(70))
PROMPTS = [(7,), (9, 30, 4), (7,), (12, 5, 40, 41, 8, 9, 77), LONG, LONG[:65]]
"""By problem: single tokens, equal ones, and longer ones later, one of them longer than a panel of 64."""


def policy(name="llama", dtype=torch.float32, seed=0, kind=TableDecoder):
    model = made(name, seed, initializer_range=0.1)
    cast_weights(model, dtype)
    subject = Policy(model, TOKENIZER)
    assert subject.fast_trunk is not None or dtype == torch.float64
    subject.native = subject.native and kind is TableDecoder
    subject.renderer = replace(subject.renderer, end_ids=ENDS)
    prompted(subject, PROMPTS)
    if kind is PlainDecoder:
        use_attention(model, "sdpa")
    return subject


def sampled(subject, sampling=SAMPLING, num=3, **settings):
    sampler = LocalSampler(subject, **settings)
    return flat(drawn(subject, problems(6), num, sampling, HERE, by=sampler))


def decoder_of(subject, num_rows, max_tokens):
    decoder = subject.fast_trunk.decoder(subject.model.get_output_embeddings(), num_rows, max_tokens)
    assert type(decoder) is TableDecoder
    return decoder


def written(rollouts):
    return [(r.problem_id, r.sample, r.response, r.ended) for r in rollouts]


def largest(rollouts, others):
    """The largest gap between log-probabilities of the same tokens."""
    pairs = zip(rollouts, others, strict=True)
    return max(abs(a - b) for r, o in pairs for a, b in zip(r.logp, o.logp, strict=True))


@pytest.mark.parametrize("name", ARCHITECTURES + OTHERS)
@pytest.mark.parametrize("seed", [0, 1])
def test_three_decoders_and_the_naive_way_write_the_same(name, seed):
    """In float32. Log-probabilities are promised to agree to 1e-4 and do to 2e-6. A token could differ only if its
    uniform number lay within about 1e-6 of a boundary, which none of these few hundred does."""
    native = sampled(policy(name, seed=seed))
    assert len({len(r.response) for r in native}) > 3 and {r.ended for r in native} == {"stop", "length"}
    for kind in (SharedPromptDecoder, PlainDecoder):
        others = sampled(policy(name, seed=seed, kind=kind), packed=kind is not PlainDecoder)
        assert written(others) == written(native)
        assert largest(native, others) < 1e-5
    plain = made(name, seed, initializer_range=0.1)
    for rollout in native[::4]:
        (problem,) = (p for p in problems(6) if p.id == rollout.problem_id)
        tokens, logps, ended = continued(plain, list(rollout.prompt), problem, rollout.sample, SAMPLING)
        assert (rollout.response, rollout.ended) == (tuple(tokens), ended)
        assert rollout.logp == pytest.approx(logps, abs=1e-5)


@pytest.mark.parametrize("max_rows", [1, 2, 5, 17])
@pytest.mark.parametrize(
    "sampling", [SAMPLING, Sampling(0.7, max_tokens=70, min_tokens=20), Sampling(0.0, max_tokens=12)]
)
def test_every_size_of_table_writes_the_same(max_rows, sampling):
    """One row after the other, a place that is refilled often, and all at once; 70 tokens cross a panel."""
    expected = sampled(policy(kind=SharedPromptDecoder), sampling)
    got = sampled(policy(), sampling, max_rows=max_rows)
    assert written(got) == written(expected)
    assert largest(got, expected) < 1e-5


def compared(subject, rollouts, sampling):
    """Differences between what the sampler logged and what the learner says."""
    with torch.no_grad():
        learned = token_scores(subject, subject.states(rollouts), sampling).logp_R
    return learned.double() - torch.tensor([x for r in rollouts for x in r.logp], dtype=torch.float64)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_logged_log_probs_are_the_learners_in_float32(name):
    sampling = Sampling(0.9, max_tokens=40, min_tokens=3)
    subject = policy(name)
    assert compared(subject, sampled(subject, sampling), sampling).abs().max() < 1e-5


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_logged_log_probs_are_the_learners_in_bfloat16(name):
    """They differ by bfloat16's noise: through transformers by 2e-3, and by 0.015 at most. The native paths round at
    the same places, with float32 between them, so at this size most differences vanish in the rounding."""
    sampling = Sampling(max_tokens=40, min_tokens=3)
    noise = {}
    for kind in (TableDecoder, SharedPromptDecoder):
        subject = policy(name, torch.bfloat16, kind=kind)
        noise[kind] = compared(subject, sampled(subject, sampling, 6), sampling)
    native, other = noise[TableDecoder], noise[SharedPromptDecoder]
    nothing = 1e-6  # nats: where nothing is left of bfloat16's noise, which is the smaller is chance
    assert native.square().mean() <= other.square().mean() + nothing**2
    assert native.abs().max() <= other.abs().max() + nothing < 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["llama", "llama, tied embeddings"])
def test_after_a_step_the_next_attempts_come_from_the_new_weights(name, dtype):
    """Weights packed for decoding would be stale; the same sampler and policy go on, as they do in a run."""
    of = policy(name, dtype)
    subject, sampler = learner(GRPO, of=of, dtype=dtype, lr=0.05), LocalSampler(of)
    first = flat(drawn(of, problems(6), 3, SAMPLING, HERE, by=sampler))
    for version in (1, 2):
        subject.gradient(Objective(GRPO), weigh(subject.prepare(random_groups()), GRPO))
        subject.step()
        sampler.load(subject.weights(), version)
        second = flat(drawn(of, problems(6), 3, SAMPLING, HERE, by=sampler))
        assert written(second) != written(first)
        fresh = policy(name, dtype)
        for parameter, weight in zip(fresh.model.parameters(), of.model.parameters(), strict=True):
            parameter.data.copy_(weight.data)
        expected = sampled(fresh)
        assert written(second) == written(expected) and largest(second, expected) == 0
        assert compared(of, second, SAMPLING).abs().max() < (1e-4 if dtype == torch.float32 else 0.3)
        first = second


def test_weights_from_elsewhere_are_the_ones_sampled_from():
    subject, other = policy(), policy(seed=1)
    sampler = LocalSampler(subject)
    before = flat(drawn(subject, problems(6), 2, SAMPLING, HERE, by=sampler))
    sampler.load(other.weights(), 3)
    after = flat(drawn(subject, problems(6), 2, SAMPLING, HERE, by=sampler))
    assert written(after) == written(sampled(other, num=2)) != written(before)


def agree(decoder, plain, text, tolerance=2e-5):
    """The next logits of every row are those of its whole sequence; then a token is appended."""
    logits = decoder.advance(torch.tensor([ids[-1] for ids in text]))
    for row, ids in zip(logits, text, strict=True):
        torch.testing.assert_close(row.double(), plain(torch.tensor([ids])).logits[0, -1], rtol=0, atol=tolerance)
    for i, ids in enumerate(text):
        ids.append((20 + 7 * len(ids) + i) % len(TOKENIZER))


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_rows_come_and_go_by_hand(name):
    """Placed out of order and in two calls, one prompt twice; rows dropped and turned round; rows that begin anew in
    the middle, one with a prompt that another still has, one with the longest of all; 90 tokens written by one row."""
    plain = made(name, initializer_range=0.1)
    cast_weights(plain, torch.float64)
    decoder = decoder_of(policy(name), 5, 90)
    decoder.place([2, 0], [PROMPTS[3], PROMPTS[0]])
    decoder.place([3, 1, 4], [PROMPTS[1], PROMPTS[3], PROMPTS[1]])
    text = [list(PROMPTS[i]) for i in (0, 3, 3, 1, 1)]
    for _ in range(17):
        agree(decoder, plain, text)
    decoder.keep(torch.tensor([2, 4, 0]))
    text = [text[2], text[4], text[0]]
    for _ in range(3):
        agree(decoder, plain, text)
    for _ in range(2):
        decoder.place([1, 0], [PROMPTS[0], LONG])
        text[:2] = [list(LONG), list(PROMPTS[0])]
        for _ in range(35):
            agree(decoder, plain, text)


@torch.no_grad()
def test_more_tokens_than_there_is_room_for_are_refused():
    """64 would end at the edge of a panel, where another row's begins."""
    for room in (1, 3, 64):
        decoder = decoder_of(policy(), 2, room)
        decoder.place([0, 1], [PROMPTS[1], PROMPTS[3]])
        for _ in range(room):
            decoder.advance(torch.tensor([5, 6]))
        with pytest.raises(RuntimeError, match=f"room for {room} tokens"):
            decoder.advance(torch.tensor([5, 6]))
        decoder.place([0], [PROMPTS[1]])
        with pytest.raises(RuntimeError, match="room"):
            decoder.advance(torch.tensor([5, 6]))
        decoder.keep(torch.tensor([0]))
        decoder.advance(torch.tensor([5]))


@torch.no_grad()
def test_a_table_with_a_place_nobody_took_is_refused():
    decoder = decoder_of(policy(), 2, 4)
    decoder.place([1], [PROMPTS[1]])
    with pytest.raises(RuntimeError, match="must be placed"):
        decoder.advance(torch.tensor([5, 6]))


@torch.no_grad()
def test_the_engine_takes_it_where_the_model_can_and_equal_prompts_are_computed_once(monkeypatch):
    seen = []
    compute = TableDecoder._compute
    monkeypatch.setattr(TableDecoder, "_compute", lambda self, prompts: seen.extend(prompts) or compute(self, prompts))
    sampled(policy(), num=9, max_rows=4)
    assert set(seen) == set(PROMPTS)
    assert all(seen.count(prompt) <= PROMPTS.count(prompt) for prompt in PROMPTS)
    seen.clear()
    sampled(policy(kind=SharedPromptDecoder))
    sampled(policy(dtype=torch.float64))
    assert not seen


@pytest.mark.parametrize("room", [1, 40, 10**6])
def test_prompts_in_one_pass_or_in_several(room, monkeypatch):
    expected = written(sampled(policy()))
    monkeypatch.setattr("upslope.model.table_decoder.PREFILL_TOKENS", room)
    assert written(sampled(policy())) == expected


def test_an_adapter_on_the_head_alone_is_heard():
    """The trunk is plain then, and the head is not."""
    wrapped = add_adapter(made("llama", initializer_range=0.1), rank=2, alpha=8.0, targets="lm_head", seed=0)
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                weight += 0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    subject, plain = Policy(wrapped, TOKENIZER), policy()
    subject.renderer = plain.renderer
    assert subject.fast_trunk is not None
    rollouts = sampled(subject)
    assert written(rollouts) != written(sampled(plain))
    assert compared(subject, rollouts, SAMPLING).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("width", "out"), [(48, 72), (17, 5), (576, 192)])
@torch.no_grad()
def test_a_product_made_for_some_rows_serves_any_number(width, out, bias, dtype):
    layer = torch.nn.Linear(width, out, bias=bias).to(dtype)
    run = product(layer.weight, layer.bias, 32)
    for num in (1, 5, 32, 100):
        x = torch.randn(num, width, generator=torch.Generator().manual_seed(num)).to(dtype)
        exact = x.double() @ layer.weight.double().t() + (layer.bias.double() if bias else 0)
        unit = 2**-8 if dtype == torch.bfloat16 else 1e-6  # one rounding; float32 sums of at most 576 products
        assert (run(x) - exact).abs().max() <= unit * exact.abs().max()
