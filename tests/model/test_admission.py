"""What a model is tried with before it runs: each kind of architecture once, against the model itself, one row at a
time, in one pass without a cache."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace

import pytest
import torch
import transformers
from tiny import TOKENIZER
from transformers import AutoModelForCausalLM

from upslope.errors import UserError
from upslope.forks import Fork
from upslope.model import admission, probing
from upslope.model.hf import use_attention
from upslope.model.layout import Tokens
from upslope.model.lengths import named_reaches, pieces, turns
from upslope.model.plain import row_by_itself, whole_pass
from upslope.model.policy import Policy
from upslope.rollout.address import Address
from upslope.rollout.base import Request
from upslope.rollout.local import LocalSampler
from upslope.types import Sampling

SIZE = {
    "vocab_size": len(TOKENIZER), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1,
}  # fmt: skip
LONGROPE = {
    "original_max_position_embeddings": 12,
    "rope_parameters": {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 4.0, 8.0],
                        "rope_theta": 10000.0, "original_max_position_embeddings": 12},
}  # fmt: skip
MLA = {"n_routed_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8, "n_group": 1, "topk_group": 1,
       "first_k_dense_replace": 1, "q_lora_rank": None, "kv_lora_rank": 8, "qk_rope_head_dim": 4,
       "qk_nope_head_dim": 8, "v_head_dim": 6}  # fmt: skip
KINDS = {
    "a layer that attends twice": ("DiffLlama", {}),
    "values narrower than keys": ("DeepseekV2", MLA),
    "convolutions": ("Lfm2", {"block_dim": 16, "conv_L_cache": 3, "layer_types": ["conv", "full_attention"],
                              "block_auto_adjust_ff_dim": False}),
    "a recurrence alone": ("Mamba2", {"state_size": 4, "expand": 2, "num_heads": 4, "head_dim": 8, "n_groups": 1,
                                      "chunk_size": 4}),
    "a cache of its own": ("MiniMax", {"head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1,
                                       "layer_types": ["linear_attention", "full_attention"], "block_size": 4}),
    "a window": ("Mistral", {"sliding_window": 6}),
    "angles by length": ("Phi3", LONGROPE),
    "no cache": ("OpenAIGPT", {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}),
}  # fmt: skip
PACKED = {"values narrower than keys", "angles by length"}
PROMPTS = [tuple(3 + (7 * i + n) % 90 for i in range(length)) for n, length in enumerate((5, 1, 9, 14, 3))]


@functools.cache
def built(kind: str):
    name, changes = KINDS[kind]
    own = SIZE if name != "OpenAIGPT" else {"vocab_size": len(TOKENIZER)}
    config = getattr(transformers, f"{name}Config")(**own | changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        for weight in model.parameters():
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, std=0.2)
    return model


def attempts(policy: Policy, sampling: Sampling):
    policy.renderer = policy.renderer.__class__(
        TOKENIZER, tuple(range(20, 100, 3))
    )  # so that rows end at different times
    requests = [Request(f"p/{n}", 0, prompt) for n, prompt in enumerate(PROMPTS)]
    return LocalSampler(policy).generate(requests, sampling, Address(0, "sample"))


@torch.no_grad()
def own_logps(itself, rollout):
    """Of each token, by a pass over what stands before it and nothing else."""
    before = [whole_pass(itself, (*rollout.prompt, *rollout.response[:n]))[-1] for n in range(len(rollout.response))]
    return torch.stack(before).log_softmax(-1).gather(1, torch.tensor(rollout.response)[:, None])[:, 0].double()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_sampled_and_scored_is_what_the_model_itself_says(kind):
    """Rows of unequal length, which leave one by one, beyond windows and turns."""
    itself, policy = built(kind), Policy(copy.deepcopy(built(kind)), TOKENIZER)
    assert policy.packs is (kind in PACKED)
    assert len(policy.notes) == (kind not in PACKED) and all("plain path" in note for note in policy.notes)
    sampling = Sampling(max_tokens=10)
    drawn = attempts(policy, sampling)
    assert len({len(r.response) for r in drawn}) > 1
    assert max(len(r.prompt) + len(r.response) for r in drawn) > 12
    with torch.no_grad():
        logp_NT, _ = policy.score(drawn, sampling, 10)
    for row, rollout in zip(logp_NT, drawn, strict=True):
        own = own_logps(itself, rollout)
        torch.testing.assert_close(torch.tensor(rollout.logp, dtype=torch.float64), own, rtol=0, atol=2e-5)
        torch.testing.assert_close(row[: len(own)].double(), own, rtol=0, atol=2e-5)


def test_a_short_row_does_not_depend_on_its_neighbours():
    """LongRoPE takes the angles of the longest row of a pass for all of them."""
    policy = Policy(copy.deepcopy(built("angles by length")), TOKENIZER)
    assert turns(policy.model) == (12,)
    short, long = (Tokens(PROMPTS[0], (9,) * n, (True,) * n) for n in (4, 20))
    with torch.no_grad():
        alone, _ = policy.score([short], Sampling(), 20)
        beside, _ = policy.score([short, long], Sampling(), 20)
    torch.testing.assert_close(beside[0], alone[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("packed", [True, False])
def test_a_forked_attempt_has_the_angles_of_each_of_its_prompts(packed):
    """Behind a prompt of its own a fork is a row of its own: short where that is short, cut where it gets long."""
    policy = Policy(copy.deepcopy(built("angles by length")), TOKENIZER)
    if not packed:
        use_attention(policy.model, "sdpa")
        policy.packs = policy.native = False
        policy.plain = admission.plain_way(policy.model)
    response, mask = tuple(range(20, 34)), (True,) * 4 + (False,) + (True,) * 9
    forked = Tokens(PROMPTS[2], response, mask, (Fork(5, PROMPTS[0]), Fork(9, PROMPTS[3])))
    alone = [Tokens(PROMPTS[2], response[:5], mask[:5]), Tokens(PROMPTS[0], response[5:9], mask[5:9])]
    alone.append(Tokens(PROMPTS[3], response[9:], mask[9:]))
    assert {len(r.prompt) + len(r.response) - 1 > 12 for r in alone} == {True, False}
    other = Tokens(PROMPTS[1], (9,) * 14, (True,) * 14)
    with torch.no_grad():
        both, _ = policy.score([other, forked, other], Sampling(), 14)
        apart = [policy.score([row], Sampling(), len(row.response))[0][0] for row in alone]
        own = [row_by_itself(built("angles by length"), row, (12,)).log_softmax(-1) for row in alone]
    torch.testing.assert_close(both[1], torch.cat(apart), rtol=0, atol=1e-5)
    said = torch.cat(own)[range(14), list(response)] * torch.tensor(mask)
    torch.testing.assert_close(both[1], said, rtol=0, atol=2e-5)


def test_a_row_is_cut_where_its_angles_turn():
    row = Tokens((1, 2), (3, 4, 5, 6), (True, False, True, True))
    first, second = pieces([Tokens((1,), (2,), (True,)), row], [4])
    assert [(p.row, p.tokens.response, p.tokens.mask) for p in first] == [
        (0, (2,), (True,)),
        (1, (3, 4, 5), (True, False, True)),
    ]
    assert [(p.row, p.tokens.response, p.tokens.mask) for p in second] == [(1, row.response, (False,) * 3 + (True,))]


def test_rows_are_put_together_where_they_can_be():
    ways = {kind: admission.plain_way(built(kind)) for kind in KINDS if kind not in PACKED}
    assert {ways[kind].keeps for kind in ("a window", "convolutions", "a layer that attends twice")} == {"all rows"}
    assert ways["no cache"].keeps == "nothing"
    assert all(way.side_by_side for kind, way in ways.items() if kind != "a recurrence alone")


def test_states_are_kept_by_row_where_padding_would_reach_them():
    """A model whose padding is not masked is sampled, and scored if need be, a row at a time."""
    itself = copy.deepcopy(built("a window"))
    forward = type(itself).forward

    class Unmasked(type(itself)):
        def forward(self, input_ids=None, attention_mask=None, cache=None, **more):
            return forward(self, input_ids=input_ids, cache=cache, **more)

    itself.__class__ = Unmasked
    way = admission.plain_way(itself)
    assert way.keeps == "a row"
    assert "sampled a row at a time" in way.told("X")


def test_what_a_config_names_is_found():
    config = transformers.MistralConfig(sliding_window=6, max_position_embeddings=64)
    assert named_reaches(config) == (6,)
    assert named_reaches(transformers.MistralConfig(sliding_window=64, max_position_embeddings=64)) == ()
    assert named_reaches(transformers.Qwen2Config(max_window_layers=2)) == ()
    assert named_reaches(transformers.GPTNeoConfig(window_size=5, max_position_embeddings=64)) == (5,)
    assert turns(built("a window")) == ()


def test_what_would_take_long_is_not_tried_and_is_told_of(monkeypatch):
    monkeypatch.setattr(probing, "MOST_WORK", {"cpu": 0})
    way = admission.plain_way(copy.deepcopy(built("a window")))
    assert way.untried == 6
    assert way.told("X").endswith("not tried beyond 6 tokens")


class Odd(transformers.LlamaForCausalLM):
    """A Llama of which ``how`` is wrong."""

    how = ""
    _supports_attention_backend = False

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        if self.how == "raises":
            raise KeyError("pixel_values")
        if self.how == "chance":
            out.logits = out.logits + torch.randn_like(out.logits)
        if self.how == "later":
            out.logits = out.logits + out.logits[:, -1:]
        if self.how == "NaN":
            out.logits = out.logits * torch.nan
        if self.how == "no gradient" and torch.is_grad_enabled():
            raise AssertionError("make sure to use model.train()")
        return out


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raises", r"called with tokens alone it raises KeyError: 'pixel_values'"),
        ("chance", r"called twice with the same tokens it gives other logits"),
        ("later", r"what it says of a token depends on later ones"),
        ("NaN", r"its logits are not finite"),
        ("no gradient", r"raises AssertionError: make sure"),
    ],
)
def test_what_cannot_be_run_at_all_is_refused_in_one_line(how, message):
    model = Odd(transformers.LlamaConfig(**SIZE)).eval()
    model.how = how
    with pytest.raises(UserError, match=message) as refused:
        Policy(model, TOKENIZER)
    assert "\n" not in str(refused.value)


class LongLater(transformers.LlamaForCausalLM):
    """A Llama that looks ahead in rows of more than ``config.window_size`` tokens, or of ``sound_to``."""

    sound_to = None
    _supports_attention_backend = False

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        if out.logits.shape[1] > (self.sound_to or self.config.window_size):
            out.logits = out.logits + out.logits[:, -1:]
        return out


@pytest.mark.parametrize(("window", "sound_to", "longest"), [(20, None, 20), (4, None, 4), (30, 16, 13)])
def test_a_model_that_is_sound_in_short_rows_alone_runs_in_those(window, sound_to, longest):
    """Up to a length that its config names, or, where it errs before that, as long as what was tried."""
    model = LongLater(transformers.LlamaConfig(**SIZE, window_size=window)).eval()
    model.sound_to = sound_to
    policy = Policy(model, TOKENIZER)
    assert policy.max_positions == longest
    (note,) = policy.notes
    assert f"right in rows of at most {longest} tokens" in note and "depends on later ones" in note
    prompt = PROMPTS[1]
    request = Request("p", 0, prompt)
    fits = Sampling(max_tokens=longest - len(prompt))
    (drawn,) = LocalSampler(policy).generate([request], fits, Address(0, "sample"))
    torch.testing.assert_close(torch.tensor(drawn.logp), own_logps(model, drawn).float(), rtol=0, atol=2e-5)
    with pytest.raises(UserError, match=rf"do not fit the model's {longest} positions"):
        LocalSampler(policy).generate([request], replace(fits, max_tokens=longest), Address(0, "sample"))


def test_a_sparse_layer_that_looks_ahead_beyond_its_choice_runs_up_to_it():
    """DeepSeek-V3.2 chooses its tokens before later ones are hidden."""
    sparse = MLA | {"q_lora_rank": 8, "index_topk": 12, "index_n_heads": 2, "index_head_dim": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(transformers.DeepseekV32Config(**SIZE | sparse), dtype=torch.float32)
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.2)
    assert Policy(model, TOKENIZER).max_positions == 12


def test_a_row_by_itself_is_one_pass_where_nothing_turns():
    model, row = built("a window"), Tokens((5, 6, 7), (8, 9), (True, True))
    with torch.no_grad():
        torch.testing.assert_close(row_by_itself(model, row, ()), whole_pass(model, (5, 6, 7, 8))[2:])
