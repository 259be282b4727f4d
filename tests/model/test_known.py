"""Tokens that the tokenizer or the embedding does not have."""

from __future__ import annotations

import pytest
import torch
from naive import flat
from tiny import TOKENIZER, drawn, model, problems

from upslope.errors import UserError
from upslope.model.chat_renderer import ChatRenderer
from upslope.model.known import NeverDrawn, unknown_ids
from upslope.model.pocket import build_tokenizer
from upslope.model.policy import Policy
from upslope.rollout.address import Address
from upslope.types import Sampling

PADDED = len(TOKENIZER) + 40
HERE = Address(0, "sample")


@pytest.mark.parametrize("packed", [True, False])
def test_what_the_tokenizer_does_not_know_is_never_drawn_and_counts_for_nothing(packed):
    subject = Policy(model(vocab_size=PADDED), TOKENIZER)
    if not packed:
        subject.release()
        subject.packs = False
    sampling = Sampling(2.0, max_tokens=12)
    rollouts = flat(drawn(subject, problems(4), 8, sampling, HERE, packed=packed))
    assert max(token for r in rollouts for token in r.response) < len(TOKENIZER)
    found, _ = subject.score(rollouts, sampling, 12)
    states = subject.states(rollouts)
    logits = subject.head(states.source_RX)
    assert bool((logits[:, len(TOKENIZER) :] == -torch.inf).all())
    for row, r in zip(found.tolist(), rollouts, strict=True):
        assert row[: len(r.logp)] == pytest.approx(r.logp, abs=1e-9)
    found.sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in subject.model.parameters() if p.grad is not None)


def test_holes_are_unknown_too_and_ends_are_known():
    class Holes:
        def get_vocab(self):
            return {"a": 0, "b": 2, "far": 9}

    assert unknown_ids(Holes(), 6, (4,)).tolist() == [1, 3, 5]
    assert unknown_ids(object(), 6, (4,)).tolist() == []
    logits = NeverDrawn(unknown_ids(Holes(), 6, (4,)), 6).ban_(torch.zeros(1, 6))
    assert torch.isinf(logits)[0].tolist() == [False, True, False, True, False, True]


def test_a_text_with_a_token_that_the_model_has_no_row_for_is_refused():
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["<think>"])
    subject = Policy(model(), tokenizer)
    assert subject.notes and "'<think>'" in subject.notes[-1]
    assert isinstance(subject.renderer, ChatRenderer)
    assert subject.renderer.prompt_ids([{"role": "user", "content": "hm"}])
    with pytest.raises(UserError, match=r"token '<think>', number \d+ of the tokenizer, and the model's embedding has"):
        subject.renderer.prompt_ids([{"role": "user", "content": "<think>"}])
