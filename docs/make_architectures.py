"""Write docs/architectures.md: every causal architecture of the installed transformers, built small from its config,
and how upslope runs it.

    python docs/make_architectures.py            all of them, in some minutes
    python docs/make_architectures.py NAME ...   only these, to the terminal
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from upslope.errors import UserError
from upslope.model.plain import whole_pass
from upslope.model.pocket import build_tokenizer
from upslope.model.policy import Policy
from upslope.rollout.address import Address
from upslope.rollout.base import Request
from upslope.rollout.local import LocalSampler
from upslope.types import Rollout, Sampling

PAGE = Path(__file__).resolve().parent / "architectures.md"
MOST_WEIGHTS = 20_000_000
NEW_TOKENS, LONGEST = 20, 37
WIDE = 12
"""Sliding windows and chunks: shorter than the rows that are sampled."""
SMALL: dict[str, Any] = {
    "vocab_size": len(build_tokenizer()),
    "hidden_size": 32, "d_model": 32, "n_embd": 32, "embedding_size": 32, "word_embed_proj_dim": 32, "emb_dim": 32,
    "intermediate_size": 48, "ffn_dim": 48, "n_inner": 48, "d_ff": 48, "dff": 48, "ffn_hidden_size": 48,
    "decoder_ffn_dim": 48, "encoder_ffn_dim": 48, "feed_forward_size": 48, "intermediate_size_mlp": 48,
    "num_hidden_layers": 2, "n_layer": 2, "num_layers": 2, "n_layers": 2, "decoder_layers": 2, "encoder_layers": 2,
    "num_decoder_layers": 2, "num_encoder_layers": 2, "num_blocks": 2,
    "num_attention_heads": 4, "n_head": 4, "num_heads": 4, "n_heads": 4, "decoder_attention_heads": 4,
    "encoder_attention_heads": 4, "num_decoder_attention_heads": 4, "num_encoder_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "attention_head_dim": 8, "dim_head": 8, "kv_channels": 8,
    "max_position_embeddings": 256, "n_positions": 256, "n_ctx": 256, "max_seq_len": 256, "max_target_positions": 256,
    "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "top_k_experts": 2,
    "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "moe_shared_expert_intermediate_size": 16,
    "expert_ffn_hidden_size": 16, "expert_ffn_size": 16, "moe_num_experts": 4, "moe_k": 2, "moe_topk": 2,
    "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "num_dense_layers": 1, "zero_expert_num": 1,
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8,
    "index_n_heads": 2, "index_head_dim": 8, "index_topk": WIDE, "o_lora_rank": 8, "o_groups": 2, "qk_head_dim": 8,
    "sliding_window": WIDE, "sliding_window_size": WIDE, "attention_chunk_size": WIDE, "attention_window_size": WIDE,
    "local_attention": WIDE, "window_size": WIDE,
    "state_size": 8, "ssm_state_size": 8, "mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_head": 16,
    "mamba_head_dim": 16, "mamba_num_heads": 4, "mamba_n_groups": 1, "n_groups": 1, "mamba_chunk_size": 8,
    "chunk_size": 8, "expand": 2, "mamba_expand": 2, "mamba_headdim": 16, "n_mamba_heads": 2, "mamba_ngroups": 1,
    "mamba_d_ssm": 64, "mamba_dt_rank": 4, "time_step_rank": 4, "lru_width": 32,
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "block_size": 8, "conv_L_cache": 3, "query_pre_attn_scalar": 8, "cross_attention_hidden_size": 32,
    "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": len(build_tokenizer()), "laurel_rank": 4,
    "altup_num_inputs": 2, "num_kv_shared_layers": 0, "global_head_dim": 8, "adapter_rank": 4,
    "attention_hidden_size": 32, "moe_layer_start_index": 0, "num_meta_tokens": 0, "rotary_dim": 4, "use_cache": True,
}  # fmt: skip
"""What makes a model small, by the names that configs have for it; those that a config does not have are left out."""
ENCODERS = [
    "bert",
    "bert-generation",
    "big_bird",
    "camembert",
    "data2vec-text",
    "electra",
    "ernie",
    "megatron-bert",
    "prophetnet",
    "rembert",
    "roberta",
    "roberta-prelayernorm",
    "roc_bert",
    "roformer",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
]
"""These are told that they are decoders."""
ODD: dict[str, dict[str, Any]] = {
    "mamba2": {"num_heads": 4, "head_dim": 16},
    "llama4_text": {"no_rope_layers": [1, 0]},
    "recurrent_gemma": {"num_key_value_heads": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "minimax": {"layer_types": ["linear_attention", "full_attention"]},
    "phi3": {"pad_token_id": 0, "sliding_window": None},
    "glm": {"eos_token_id": [1]}, "glm4": {"eos_token_id": [1]}, "phi4_multimodal": {"eos_token_id": [1]},
    "bamba": {"attn_layer_indices": [1]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "dots1": {"n_shared_experts": 1},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "reformer": {
        "axial_pos_shape": [16, 16], "axial_pos_embds_dim": [8, 24], "attention_head_size": 8, "is_decoder": True,
        "attn_layers": ["local", "lsh"], "local_attn_chunk_length": 8, "lsh_attn_chunk_length": 8, "num_buckets": 4,
    },
}  # fmt: skip
"""What single architectures need besides."""


class Figures(NamedTuple):
    """What came of an architecture."""

    name: str
    kind: str
    """``fast``, ``plain``, ``refused``, ``wrong``, ``crashed``, or ``not built``."""
    how: str
    greedy: str = ""
    gap: float | None = None


def small_config(name: str) -> Any:
    """The architecture's config with everything in it that has a known name made small."""
    kind = CONFIG_MAPPING[name]
    return kind(**_small(kind(), name))


def _small(default: Any, name: str) -> dict[str, Any]:
    known = vars(default)
    found = {key: value for key, value in SMALL.items() if key in known or key in getattr(default, "attribute_map", {})}
    for key, value in found.items():
        if isinstance(known.get(key), list) and not isinstance(value, list):
            found[key] = [value] * 2
    for key, value in list(known.items()):
        if key in ("layer_types", "layers_block_type", "mlp_layer_types", "block_types", "attn_layers") and value:
            found[key] = _two_kinds(value)
        elif isinstance(value, PreTrainedConfig):
            found[key] = _small(value, "")
    if "qk_rope_head_dim" in known:  # keys and values of low rank (DeepSeek)
        found |= {key: value for key, value in {"head_dim": 4, "num_key_value_heads": 4}.items() if key in known}
    if name.removesuffix("_text") in ENCODERS:
        found["is_decoder"] = True
    return found | ODD.get(name, {})


def _two_kinds(kinds: Sequence[Any]) -> list[Any]:
    """Two layers, of two kinds where there are two; whole attention, if any, is the last."""
    different = list(dict.fromkeys(kinds))[:2]
    different.sort(key=lambda kind: kind == "full_attention")
    return (different * 2)[:2] if len(different) == 1 else different


def build(name: str) -> Any:
    """A small model with weights wide enough that every feature matters."""
    config = small_config(name)
    with torch.device("meta"):
        size = AutoModelForCausalLM.from_config(copy.deepcopy(config)).num_parameters()
    if size > MOST_WEIGHTS:
        raise ValueError(f"{size:,} weights are left")
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.15)
    return model


def measured(name: str) -> Figures:
    """Greedy attempts and log-probabilities of the sampler and the learner against the model itself, one row at a
    time, in one pass."""
    try:
        model = build(name)
        itself = copy.deepcopy(model)
    except Exception as error:
        return Figures(name, "not built", _line(error))
    try:
        policy = Policy(model, build_tokenizer())
    except UserError as error:
        return Figures(name, "refused", _line(error))
    except Exception as error:
        return Figures(name, "crashed", _line(error))
    try:
        return _compared(name, policy, itself)
    except Exception as error:
        return Figures(name, "crashed", _line(error))


def _compared(name: str, policy: Policy, itself: Any) -> Figures:
    room = min(LONGEST, policy.max_positions)  # of some, rows are right up to a length
    num = min(NEW_TOKENS, room // 2)
    lengths = [min(length, room - num) for length in (5, 2, 9, 17, 3, 12)]
    prompts = [tuple(3 + (7 * i + n) % 90 for i in range(length)) for n, length in enumerate(lengths)]
    requests = [Request(f"p/{n}", 0, prompt) for n, prompt in enumerate(prompts)]
    sampler = LocalSampler(policy)
    greedy = sampler.generate(requests, Sampling(0.0, max_tokens=num), Address(0, "sample"))
    same = sum(_is_greedy(itself, rollout) for rollout in greedy)
    sampling = Sampling(max_tokens=num)
    drawn = sampler.generate(requests, sampling, Address(1, "sample"))
    logp_NT, _ = policy.score(drawn, sampling, num)
    gap = 0.0
    for row, rollout in zip(logp_NT, drawn, strict=True):
        own = _logps(itself, rollout, policy)
        for found in (row[: len(own)].detach().double(), torch.tensor(rollout.logp)):
            gap = max(gap, float((found - own).abs().max()))
    torch.autograd.backward(logp_NT.sum())
    slopes = [p.grad for p in policy.model.parameters() if p.grad is not None]
    sound = bool(slopes) and all(bool(torch.isfinite(slope).all()) for slope in slopes)
    how = "".join(policy.notes).partition(": ")[2] or (
        "native kernels" if policy.native else "packed, transformers' layers"
    )
    kind = ("fast" if policy.packs else "plain") if same == len(prompts) and gap < 1e-4 and sound else "wrong"
    return Figures(name, kind, how if sound else f"{how}; its gradient is not finite", f"{same} of {len(prompts)}", gap)


@torch.no_grad()
def _logits(itself: Any, rollout: Rollout) -> Any:
    return whole_pass(itself, (*rollout.prompt, *rollout.response[:-1]))[len(rollout.prompt) - 1 :].double()


def _is_greedy(itself: Any, rollout: Rollout) -> bool:
    """Whether every token is the likeliest one, but for rounding."""
    logits = _logits(itself, rollout)[:, : SMALL["vocab_size"]]
    chosen = logits.gather(1, torch.tensor(rollout.response)[:, None])[:, 0]
    return bool((logits.max(dim=1).values - chosen <= 1e-4).all())


def _logps(itself: Any, rollout: Rollout, policy: Policy) -> Any:
    logits = policy.never.ban_(_logits(itself, rollout))
    return logits.log_softmax(-1).gather(1, torch.tensor(rollout.response)[:, None])[:, 0]


def _line(error: Exception) -> str:
    text = next(iter(str(error).strip().splitlines()), "")
    return (text if isinstance(error, UserError) else f"{type(error).__name__}: {text}")[:240]


def page(found: Sequence[Figures]) -> str:
    """The page."""
    count = Counter(f.kind for f in found)
    built = len(found) - count["not built"]
    head = f"""<!-- Written by docs/make_architectures.py. Do not edit. -->

# Architectures

transformers {transformers.__version__} names {len(found)} causal architectures. {built} of them were built from their
config alone, 2 layers of width 32, with wide random weights and, where the config has one, a window of {WIDE} tokens.
`python docs/make_architectures.py` tries them all and writes this page.

| | |
|---|---|
| exact on the fast path (packed) | {count["fast"]} |
| exact on the plain path | {count["plain"]} |
| refused in one line | {count["refused"]} |
| wrong | {count["wrong"]} |
| crashed | {count["crashed"]} |

Exact: six greedy attempts to prompts of unequal length are the likeliest tokens of the model itself, called one row at
a time without a cache; and for six sampled attempts the log-probabilities of the sampler and of the learner differ
from the model's own by less than 1e-4 (the gap is the largest difference, float32), with a finite gradient.

Which path a model takes is tried when it is opened, on a few short rows and beyond the windows that its config names;
nothing is believed of its name. What the plain path says of a model is said once, at the start of a run. A model that
looks ahead beyond such a length runs up to it: longer rows are refused before the first step.

"""
    rows = [f for f in found if f.kind != "not built"]
    table = ["| architecture | path | how | greedy | gap |", "|---|---|---|---|---|"]
    for f in rows:
        gap = "" if f.gap is None else f"{f.gap:.0e}"
        table.append(f"| {f.name} | {f.kind} | {f.how.replace('|', '/')} | {f.greedy} | {gap} |")
    rest = [f"- {f.name}: {f.how}" for f in found if f.kind == "not built"]
    return head + "\n".join([*table, "", f"## Not built small ({len(rest)})", "", *rest]) + "\n"


def every(names: Sequence[str], kept: Path | None) -> Iterator[Figures]:
    """One after the other, each told as it comes; what ``kept`` has already is not tried again."""
    lines = kept.read_text(encoding="utf-8").splitlines() if kept is not None and kept.exists() else []
    known = {found.name: found for found in (Figures(*json.loads(line)) for line in lines)}
    for name in names:
        found = known[name] if name in known else measured(name)
        if name not in known:
            print(found.kind.ljust(9), name.ljust(24), found.greedy, found.gap, found.how, file=sys.stderr, flush=True)
            if kept is not None:
                with kept.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(found) + "\n")
        yield found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument(
        "--kept", type=Path, help="a file of figures, which is added to: what it has is not tried again"
    )
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    found = list(every(given.names or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES), given.kept))
    if not given.names:
        PAGE.write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
