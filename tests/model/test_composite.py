"""Models whose config is made of several: what describes the text is found in the text's own part."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny import TOKENIZER, random_groups
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, LlavaConfig, LlavaForConditionalGeneration

from upslope.model import admission, attention, precision
from upslope.model.hf import attention_in_use, text_config
from upslope.model.policy import Policy
from upslope.model.value import value_model
from upslope.types import Sampling

TEXT = {
    "vocab_size": len(TOKENIZER),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
SEES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SEES |= {"image_size": 16, "patch_size": 8}


def gemma3():
    """Layers with a sliding window, so it takes the ordinary way."""
    return Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config=TEXT | {"sliding_window": 8},
            vision_config=SEES,
            mm_tokens_per_image=4,
            image_token_index=5,
            boi_token_index=6,
            eoi_token_index=7,
        )
    )


def llava():
    """A Llama beside a vision tower: its text layers can be packed."""
    return LlavaForConditionalGeneration(
        LlavaConfig(
            text_config=TEXT | {"model_type": "llama"},
            vision_config=SEES | {"model_type": "clip_vision_model"},
            image_token_index=5,
        )
    )


def made(kind):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind().double().eval()


def rollouts():
    """Without the tokens that stand for images."""
    found = [r for g in random_groups(3, 2) for r in g.rollouts]
    return [r for r in found if not {5, 6, 7} & {*r.prompt, *r.response}]


@pytest.mark.parametrize(("kind", "packs"), [(gemma3, False), (llava, True)])
def test_a_composite_model_is_measured_by_its_text(kind, packs):
    model = made(kind)
    assert not hasattr(model.config, "hidden_size"), "this config is no composite one"
    subject = Policy(model, TOKENIZER)
    assert subject.packs is packs
    assert (subject.width, subject.max_positions, subject.vocabulary) == (2 * 32, 256, len(TOKENIZER))
    assert subject.cache_bytes == 2 * 2 * 2 * 8 * 8  # layers, keys and values, heads, depth, bytes
    assert value_model(model, own_copy=True).head.in_features == 32


@pytest.mark.parametrize("kind", [gemma3, llava])
def test_a_composite_model_is_scored_as_transformers_does_it(kind):
    plain, subject = made(kind), Policy(made(kind), TOKENIZER)
    assert len(rollouts()) > 3
    logp_NT, _ = subject.score(rollouts(), Sampling(), 9)
    for row, rollout in zip(logp_NT, rollouts(), strict=True):
        logits = plain(input_ids=torch.tensor([rollout.prompt + rollout.response])).logits[0, len(rollout.prompt) - 1 :]
        expected = logits[:-1].log_softmax(-1).gather(1, torch.tensor(rollout.response)[:, None])[:, 0]
        torch.testing.assert_close(row[: len(expected)], expected, rtol=0, atol=1e-10)


def test_only_the_attention_over_text_is_chosen():
    model = made(llava)
    towers = model.config.vision_config._attn_implementation
    assert admission.admit(model)
    assert attention_in_use(model) == attention_in_use(model.base_model) == attention.NAME
    assert model.config.vision_config._attn_implementation == towers != attention.NAME


def test_the_width_that_decides_the_precision_is_the_texts(monkeypatch):
    monkeypatch.setattr(precision, "cpu_gains_by_bf16", lambda: True)
    model, cpu = made(llava), torch.device("cpu")
    assert precision.pick_dtype("auto", model, cpu) == torch.float32
    text_config(model).hidden_size = precision.NARROWEST_FOR_BF16
    assert precision.pick_dtype("auto", model, cpu) == torch.bfloat16


def test_a_plain_config_is_its_own_and_one_of_no_library_too():
    own = SimpleNamespace(hidden_size=3)
    assert text_config(SimpleNamespace(config=own)) is own
    config = LlavaConfig().text_config
    assert text_config(SimpleNamespace(config=config)) is config
