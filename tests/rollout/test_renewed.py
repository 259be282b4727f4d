"""New weights that arrive while attempts are written, beside one attempt after the other with two models."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from family import made
from naive import ENDS, HERE, SAMPLING, flat, prompted
from tiny import TOKENIZER, drawn, problems
from transformers import DynamicCache

from upslope.model.decoder import PlainDecoder, SharedPromptDecoder
from upslope.model.hf import cache_keyword, use_attention
from upslope.model.policy import Policy
from upslope.model.precision import cast_weights
from upslope.model.table_decoder import TableDecoder
from upslope.native import build
from upslope.rollout.draw import draw
from upslope.rollout.local import LocalSampler

PROMPTS = [(7,), (9, 30, 4), (7,), (12, 5, 40, 41, 8, 9, 77), (9, 30, 4), (3, 8)]
"""By problem; equal ones among them, of which one begins before the new weights and one after."""
OLD, NEW = 3, 5
KINDS = [
    pytest.param(TableDecoder, marks=pytest.mark.skipif(bool(build.why_not()), reason=build.why_not())),
    SharedPromptDecoder,
    PlainDecoder,
]


def model(version, dtype):
    subject = made("llama", version, initializer_range=0.1)
    cast_weights(subject, dtype)
    return subject


def weights(version, dtype):
    return dict(model(version, dtype).named_parameters())


def written(kind, at, **settings):
    """Attempts of a sampler that has other weights from asking number ``at`` on, and the two models."""
    dtype = torch.float32 if kind is TableDecoder else torch.float64
    subject = Policy(model(OLD, dtype), TOKENIZER)
    subject.native = subject.native and kind is TableDecoder
    subject.renderer = replace(subject.renderer, end_ids=ENDS)
    prompted(subject, PROMPTS)
    if kind is PlainDecoder:
        use_attention(subject.model, "sdpa")
    num_asked = 0

    def renewed():
        nonlocal num_asked
        num_asked += 1
        if num_asked == at:
            sampler.load(weights(NEW, dtype), NEW)
        return num_asked == at

    sampler = LocalSampler(subject, packed=kind is not PlainDecoder, renewed=renewed, **settings)
    sampler.version = OLD
    found = flat(drawn(subject, problems(6), 3, SAMPLING, HERE, by=sampler))
    return found, {OLD: model(OLD, dtype), NEW: model(NEW, dtype)}


@torch.no_grad()
def alone(models, rollout, versions):
    """The attempt again: each token by the model of its version, over the keys and values of those before it."""
    cache, ids = DynamicCache(), list(rollout.prompt)
    uniforms = torch.from_numpy(HERE.uniforms([(rollout.problem_id, rollout.sample)], SAMPLING.max_tokens))
    if ids[:-1]:
        models[versions[0]](input_ids=torch.tensor([ids[:-1]]), use_cache=True, **{cache_keyword(models[OLD]): cache})
    newest, tokens, logps = ids[-1], [], []
    for place, version in enumerate(versions):
        out = models[version](input_ids=torch.tensor([[newest]]), use_cache=True, **{cache_keyword(models[OLD]): cache})
        token, logp = draw(out.logits[:, -1], torch.tensor([place]), uniforms[:, place], SAMPLING, torch.tensor(ENDS))
        newest = int(token)
        tokens.append(newest)
        logps.append(float(logp))
    return tuple(tokens), logps


@pytest.mark.parametrize("kind", KINDS)
def test_each_token_is_drawn_from_the_weights_of_its_version(kind):
    """Four rows, refilled from eighteen requests; new weights come after five tokens. What was begun before goes on
    over the keys and values it has; what begins later is the new model's alone, its prompt too, though another row had
    computed it. Draws are by position, whoever makes them."""
    found, models = written(kind, at=6, max_rows=4)
    mixed = 0
    for rollout in found:
        versions = rollout.versions or (rollout.version,) * len(rollout.response)
        assert len(versions) == len(rollout.response) and versions[-1] == rollout.version
        assert all(a <= b for a, b in pairwise(versions)) and set(versions) <= {OLD, NEW}
        assert (rollout.versions is None) == (len(set(versions)) == 1)
        mixed += len(set(versions)) > 1
        tokens, logps = alone(models, rollout, versions)
        assert rollout.response == tokens
        assert rollout.logp == pytest.approx(logps, abs=1e-4 if kind is TableDecoder else 1e-10)
    assert mixed >= 2 and {OLD, NEW} <= {r.version for r in found}


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_are_there_before_the_first_token_leave_no_trace(kind):
    found, models = written(kind, at=1)
    assert {(r.version, r.versions) for r in found} == {(NEW, None)}
    for rollout in found[:4]:
        assert rollout.response == alone(models, rollout, (NEW,) * len(rollout.response))[0]


def test_without_new_weights_nothing_is_kept_by_token():
    found, _ = written(SharedPromptDecoder, at=0)
    assert {(r.version, r.versions) for r in found} == {(OLD, None)}
