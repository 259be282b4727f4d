"""Tiny random models of every architecture that the native path computes, and of every shape it comes in."""

import torch
from tiny import TOKENIZER, random_groups
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from upslope.types import Rollout

COMMON = {
    "vocab_size": len(TOKENIZER),
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
LLAMA, QWEN2, QWEN3, MISTRAL = (
    (LlamaForCausalLM, LlamaConfig),
    (Qwen2ForCausalLM, Qwen2Config),
    (Qwen3ForCausalLM, Qwen3Config),
    (MistralForCausalLM, MistralConfig),
)


def rope(kind, **more):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0} | more}


FAMILY = {
    "llama": (LLAMA, {}),
    "llama, tied embeddings": (LLAMA, {"tie_word_embeddings": True}),
    "llama, bias in attention": (LLAMA, {"attention_bias": True}),
    "llama, bias in mlp": (LLAMA, {"mlp_bias": True}),
    "llama, bias everywhere": (LLAMA, {"attention_bias": True, "mlp_bias": True}),
    "llama, heads deeper than the stream": (LLAMA, {"head_dim": 24}),
    "llama, heads that share nothing": (LLAMA, {"num_key_value_heads": 6}),
    "llama, linear": (LLAMA, rope("linear", factor=4.0)),
    "llama, llama3": (
        LLAMA,
        rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64),
    ),
    "llama, yarn": (LLAMA, rope("yarn", factor=4.0, original_max_position_embeddings=64)),
    "qwen2": (QWEN2, {}),
    "qwen3": (QWEN3, {"head_dim": 16}),
    "qwen3, bias, all share one": (QWEN3, {"head_dim": 8, "attention_bias": True, "num_key_value_heads": 1}),
    "mistral": (MISTRAL, {"sliding_window": None}),
    "mistral, head_dim": (MISTRAL, {"sliding_window": None, "head_dim": 32}),
}


def made(name_or_kind, seed=0, **changes):
    (kind, config), more = FAMILY[name_or_kind] if isinstance(name_or_kind, str) else (name_or_kind, {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config(**COMMON | more | changes))
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms start at 1 and biases at 0, which would hide them
                parameter.data += 0.3 * torch.randn(parameter.shape)
    return model.eval()


def rollouts():
    """Ragged groups, some of them of one; long ones whose segments exceed 64; the padding token in the text."""
    found = [r for g in (*random_groups(4, 3, longest=20), *random_groups(2, 1, seed=1)) for r in g.rollouts]
    tokens = [7 * i % len(TOKENIZER) for i in range(200)]
    longer = [(tuple(tokens[:70]), tuple(tokens[k : k + n])) for k, n in ((3, 80), (11, 1), (40, 25))]
    longer.append((tuple(tokens[5:10]), (*tokens[10:90], 0, 0, *tokens[90:100])))
    found += [Rollout("long", i, p, r, (True,) * len(r), None, 0, "stop", "") for i, (p, r) in enumerate(longer)]
    assert any(0 in r.prompt for r in found) and any(0 in r.response[:-1] for r in found)
    return found


def weigh(hidden_RD):
    weight = torch.randn(hidden_RD.shape, generator=torch.Generator().manual_seed(3))
    return (hidden_RD * weight.to(hidden_RD.dtype)).sum()


def slopes(body, hidden_RD):
    """(hidden states, the gradients of all parameters that have one, as one vector)."""
    body.zero_grad()
    weigh(hidden_RD).backward()
    return hidden_RD.detach().double(), torch.cat([p.grad.double().flatten() for p in body.parameters()])
