"""Sampling the naive way, and a policy whose attempts end at different times: what engines are compared with."""

import tiny
import torch
from tiny import TOKENIZER

from upslope.model import chat
from upslope.rollout.address import Address
from upslope.rollout.draw import draw
from upslope.types import Sampling

HERE = Address(0, "sample", 5)
SAMPLING = Sampling(max_tokens=12)
ENDS = tuple(range(1, 180, 15))
"""Several end tokens, so that a random model ends some attempts early and lets others run into the limit."""


def policy(*args, **kwargs):
    made = tiny.policy(*args, **kwargs)
    made.end_ids = ENDS
    return made


def naive(plain, problem, sample, sampling):
    """Sample one attempt without cache, batch or shared prompt."""
    return continued(plain, list(chat.prompt_ids(TOKENIZER, problem.messages)), problem, sample, sampling)


def continued(plain, ids, problem, sample, sampling):
    """The same after a prompt given as tokens."""
    uniforms = torch.from_numpy(HERE.uniforms([(problem.id, sample)], sampling.max_tokens))
    ends = torch.tensor(ENDS)
    tokens, logps = [], []
    for position in range(sampling.max_tokens):
        logits = plain(input_ids=torch.tensor([ids + tokens]), use_cache=False).logits[:, -1].detach()
        token, logp = draw(logits, torch.tensor([position]), uniforms[:, position], sampling, ends)
        tokens.append(int(token))
        logps.append(float(logp))
        if int(token) in ends:
            return tokens, logps, "stop"
    return tokens, logps, "length"


def flat(groups):
    return [r for g in groups for r in g]


def watched(subject, monkeypatch):
    """(rows of every pass that appends a token, tokens of every pass over prompts), filled as the model runs."""
    widths, prompts = [], []
    forward = subject.model.forward

    def counted(*args, **kwargs):
        into = prompts if "logits_to_keep" in kwargs else widths
        into.append(kwargs["input_ids"].numel())
        return forward(*args, **kwargs)

    monkeypatch.setattr(subject.model, "forward", counted)
    return widths, prompts
