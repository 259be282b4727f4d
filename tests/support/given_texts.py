"""Documents as tokens in memory, and models that are known to the last digit."""

import json
import math

import numpy as np
import torch
from tiny import TOKENIZER, model

from upslope.model.chat_renderer import ChatRenderer

RENDERER = ChatRenderer.of(TOKENIZER)
END, START = RENDERER.end_ids[0], RENDERER.start_ids[0]
WORDS = ("Tom has 3 apples.", "Eva has 5 pens.", "Sam has 9 eggs and 4 pens.", "Leo has 2 boxes.")


class Given:
    """Documents of given tokens; satisfies ``upslope.training.blocks.TokenStore``."""

    def __init__(self, documents, num_bytes=None, held_out=(), fingerprint="given"):
        self.documents = [np.array(ids, dtype=np.int64) for ids in documents]
        self.length_D = np.array([len(ids) for ids in documents], dtype=np.int64)
        self.bytes_D = np.array(num_bytes or [len(ids) for ids in documents], dtype=np.int64)
        self.held_out_D = np.isin(np.arange(len(documents)), list(held_out))
        self.fingerprint = fingerprint

    def read(self, document, start=0, stop=None):
        return self.documents[document][start:stop]


def numbered(lengths):
    """Documents of which no two tokens are alike: token k of document d is 1000 d + k."""
    return [[1000 * d + k for k in range(length)] for d, length in enumerate(lengths)]


def write_texts(path, num, words=WORDS):
    """A file of ``num`` short documents of the pocket's words, a row each."""
    texts = [f"{words[i % len(words)]} " + " ".join(str(d) for d in range(i % 7)) + f" {i} ." for i in range(num)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def unigram(logp_V, **changes):
    """A model that gives token v the log-probability ``logp_V[v]``, whatever stands before it: every layer adds nothing
    to one hidden state h, and row v of the head is logp_v h / |h|^2."""
    made = model(vocab_size=len(logp_V), pad_token_id=None, eos_token_id=0, **changes)
    logp_V = torch.as_tensor(logp_V, dtype=torch.float64)
    assert abs(float(logp_V.exp().sum()) - 1) < 1e-12
    with torch.no_grad():
        for layer in made.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        made.model.embed_tokens.weight.copy_(torch.linspace(1, 2, made.config.hidden_size).expand(len(logp_V), -1))
        hidden_D = made.model(torch.tensor([[0]])).last_hidden_state[0, 0]
        made.lm_head.weight.copy_(logp_V[:, None] * hidden_D / hidden_D.square().sum())
    return made


def naive_nats(of, prompt, response):
    """-log p of a response after a prompt, by a plain call of the model, in float64."""
    ids = torch.tensor([[*prompt, *response]])
    logits_SV = of(input_ids=ids[:, :-1], use_cache=False).logits[0].double()
    logp_S = logits_SV.log_softmax(dim=1).gather(1, ids[0, 1:, None])[:, 0]
    return -logp_S[len(prompt) - 1 :].sum()  # with gradient


LN2 = math.log(2)
