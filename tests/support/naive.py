"""Sampling the naive way, and a policy whose attempts end at different times: what samplers are compared with."""

from dataclasses import dataclass, replace

import tiny
import torch
from tiny import TOKENIZER

from upslope.model.chat_renderer import ChatRenderer
from upslope.rollout.address import Address
from upslope.rollout.draw import draw
from upslope.types import Sampling

HERE = Address(0, "sample", 5)
SAMPLING = Sampling(max_tokens=12)
ENDS = tuple(range(1, 180, 15))
"""Several end tokens, so that a random model ends some attempts early and lets others run into the limit."""


def policy(*args, **kwargs):
    made = tiny.policy(*args, **kwargs)
    made.renderer = replace(made.renderer, end_ids=ENDS)
    return made


@dataclass(frozen=True)
class Prompted(ChatRenderer):
    """Prompts are given as tokens, by the text of the first message."""

    by_text: dict

    def prompt_ids(self, messages):
        return self.by_text[messages[0]["content"]]


def prompted(subject, prompts):
    """The policy, whose problem i of ``tiny.problems`` now has prompt i."""
    by_text = {p.messages[0]["content"]: ids for p, ids in zip(tiny.problems(len(prompts)), prompts, strict=True)}
    subject.renderer = Prompted(subject.renderer.tokenizer, subject.renderer.end_ids, by_text)
    return subject


def naive(plain, problem, sample, sampling):
    """Sample one attempt without cache, batch or shared prompt."""
    return continued(plain, list(ChatRenderer.of(TOKENIZER).prompt_ids(problem.messages)), problem, sample, sampling)


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
