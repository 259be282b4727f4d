"""Attention in two halves merged by log-sum-exp: the same outputs and gradients as over a mask, for any layout."""

from __future__ import annotations

import pytest
import torch
from reference_calls import ReferenceCalls
from tiny import gradients, largest_gap, learner, policy, random_groups

from upslope.algo.family import GRPO
from upslope.learn.prepare import weigh
from upslope.model import attention
from upslope.model.attention import packed
from upslope.model.layout import Tokens, lay_out, lay_out_prompts
from upslope.model.merged import merge, merged_attention

CPU = torch.device("cpu")
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def rows(*lengths):
    """A row for every (prompt, response); prompts of equal length are equal."""
    return [Tokens(tuple(range(3, 3 + p)), tuple(range(r)), (True,) * r) for p, r in lengths]


LAYOUTS = {
    "one prompt and its only response": rows((5, 4)),
    "one token alone": rows((1, 1)),
    "two branches": rows((5, 4), (5, 7)),
    "a branch of one token, and responses of one, which lay out none": rows((4, 2), (4, 1), (4, 1), (2, 1), (2, 1)),
    "stems with and without branches": rows((3, 9), (6, 4), (6, 2), (6, 8), (2, 5), (1, 3), (1, 6), (7, 2)),
    "unequal lengths": rows((23, 2), (23, 31), (1, 17), (1, 2), (40, 1)),
}


def with_gradients(way, *shapes, dtype):
    generator = torch.Generator().manual_seed(1)
    *leaves, weight = (torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes)
    given = [leaf.requires_grad_() for leaf in leaves]
    out = way(*given)
    return [out.detach(), *torch.autograd.grad(out, given, weight.transpose(0, 1))]


def largest(found, expected):
    """As a share of the largest entry, or of 1: a token that sees one key has no gradient of its score."""
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1)) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("heads", "keys"), [(4, 2), (3, 3), (6, 1)])
@pytest.mark.parametrize("name", LAYOUTS)
def test_it_is_the_attention_over_a_mask(name, heads, keys, dtype):
    layout, calls = lay_out(LAYOUTS[name], CPU), ReferenceCalls()
    shapes = [(number, layout.num_tokens, 8) for number in (heads, keys, keys, heads)]
    for scale in (None, 0.7):
        found = with_gradients(
            lambda *given: merged_attention(*given, layout.halves, scale, calls),  # noqa: B023
            *shapes,
            dtype=dtype,
        )
        expected = with_gradients(lambda *given: packed(*given, layout, scale), *shapes, dtype=dtype)  # noqa: B023
        assert largest(found, expected) < TOLERANCE[dtype]
    assert calls.causal == [True, False, True, False] if layout.branches else [True, True]


def test_every_token_lies_in_one_segment_and_branches_ask_their_own_stem():
    layout = lay_out(LAYOUTS["stems with and without branches"], CPU)
    own, stems = layout.halves
    assert own.begin_S.tolist() == [0, 11, 17, 20, 21, 28, 34, 35, 37, 42, 50]
    assert (own.longest, stems.asked.longest, stems.read.longest) == (11, 11, 6)
    assert stems.asked.begin_S.tolist() == [0, 11, 18] and stems.read.begin_S.tolist() == [0, 6, 7]
    assert stems.asking_X.tolist() == [*range(17, 28), *range(35, 42)]
    assert stems.read_Y.tolist() == [*range(11, 17), 34]
    assert lay_out_prompts([(3, 4), (5,)], CPU).halves.stems is None


def test_two_halves_make_the_whole_where_one_of_them_weighs_nothing():
    """exp(l) is the weight: lse 0 and log 3 are shares of 1/4 and 3/4, and a half far below adds nothing at all."""
    out, lse = merge(
        torch.tensor([[[1.0]], [[5.0]]]),
        torch.tensor([[0.0, 900.0]]),
        torch.tensor([[[3.0]], [[torch.e]]]),
        torch.tensor([[3.0, -900.0]]).log().nan_to_num(-900.0),
    )
    assert out.flatten().tolist() == pytest.approx([0.25 * 1 + 0.75 * 3, 5.0])
    assert lse.flatten().tolist() == pytest.approx([1.3862943611198906, 900.0])


def learnt(recompute, **settings):
    """The gradient of one update by transformers' layers, whose attempts branch in threes."""
    subject = policy()
    if recompute:
        subject.checkpoint_activations()
    bound = learner(GRPO, of=subject, **settings)
    bound.gradient(bound.objective, weigh(bound.prepare(random_groups(3)), GRPO))
    return gradients(bound)


@pytest.mark.parametrize("how", [{"recompute": False}, {"recompute": True}, {"recompute": False, "micro_batch": 2}])
def test_a_model_learns_the_same_by_it(how, monkeypatch):
    """In float64, where transformers' layers compute."""
    expected = learnt(**how)
    made = []

    def calls_for(query, key, value, more, plain):
        assert plain is packed and "dropout" in more
        made.append(ReferenceCalls())
        return made[-1]

    monkeypatch.setattr(attention, "calls_for", calls_for)
    assert largest_gap(learnt(**how), expected) < 1e-10
    assert any(False in calls.causal for calls in made)
