"""A checkpoint is an ordinary Hugging Face model: what transformers loads gives the logits that upslope gives."""

import pytest
import templated
import torch
from tiny import TOKENIZER, learner, model, policy, random_groups
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from upslope.algo.family import SFT
from upslope.algo.objective import Objective
from upslope.errors import UserError
from upslope.learn.prepare import passes
from upslope.model.adapter import add_adapter
from upslope.model.attention import planned
from upslope.model.layout import lay_out
from upslope.model.load import load, pick_device
from upslope.model.policy import Policy
from upslope.model.precision import pick_dtype
from upslope.record import checkpoint
from upslope.rollout.address import Address
from upslope.types import Sampling


def trained(dtype, tied):
    subject = learner(SFT, of=policy(dtype=torch.float32, tie_word_embeddings=tied), dtype=dtype)
    (minibatch,) = passes(subject.prepare(random_groups()), SFT, Address(0, "reuse"))
    SFT.update(subject, Objective(SFT), minibatch)
    return subject


def logits(subject: Policy, rollout):
    layout = lay_out([rollout], subject.device)
    with torch.no_grad(), planned(layout):
        return subject.model(input_ids=layout.id_K[None], position_ids=layout.position_K[None], use_cache=False).logits[
            0
        ]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checkpoint_opened_with_transformers_gives_upslopes_logits(tmp_path, dtype, tied):
    subject = trained(dtype, tied)
    optimizer = subject.optimizer
    folder = checkpoint.save(tmp_path, 1, subject.policy, optimizer.full_precision(), optimizer.state(), {})
    opened = AutoModelForCausalLM.from_pretrained(folder)
    assert opened.dtype == torch.float32, "masters are saved, not their roundings"
    rollout = random_groups()[0].rollouts[0]
    ids = torch.tensor([rollout.prompt + rollout.response[:-1]])
    with torch.no_grad():
        theirs = opened.to(dtype)(input_ids=ids).logits[0]
    # bf16: the two attentions add up in different orders; its spacing at 1 is 2^-7.
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(logits(subject.policy, rollout), theirs, rtol=0, atol=tolerance)
    assert AutoTokenizer.from_pretrained(folder).encode("Tom has 18") == TOKENIZER.encode("Tom has 18")


@pytest.mark.parametrize("family", ["llama3", "gemma", "qwen2.5", "smollm2"])
def test_whoever_opens_a_checkpoint_stops_where_the_chat_template_ends_a_turn(family, tmp_path):
    tokenizer = templated.tokenizer(family)
    made = model(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, pad_token_id=None)
    before = made.generation_config.eos_token_id
    saved = Policy(made, tokenizer)
    saved.save(tmp_path)
    listed = AutoModelForCausalLM.from_pretrained(tmp_path).generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(templated.END.get(family, "<|im_end|>"))}
    assert {*(listed if isinstance(listed, list) else [listed])} == ends == set(saved.end_ids)
    assert made.generation_config.eos_token_id == before


def test_an_adapters_directory_names_the_end_tokens_too(tmp_path):
    tokenizer = templated.tokenizer("qwen2.5")
    made = model(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, pad_token_id=None)
    Policy(made, tokenizer).save(tmp_path / "base")
    base, _ = load(str(tmp_path / "base"))
    adapted = Policy(add_adapter(base, rank=2, alpha=4, targets="all-linear", seed=0), tokenizer)
    adapted.save(tmp_path / "adapted")
    listed = GenerationConfig.from_pretrained(tmp_path / "adapted").eos_token_id
    assert {*(listed if isinstance(listed, list) else [listed])} == set(adapted.end_ids)
    assert len(adapted.end_ids) == 2
    assert Policy(*load(str(tmp_path / "adapted"))).end_ids == adapted.end_ids


def test_saving_leaves_the_policy_as_it_was(tmp_path):
    subject = trained(torch.bfloat16, tied=True)
    rollout = random_groups()[0].rollouts[0]
    before = logits(subject.policy, rollout)
    subject.policy.save(tmp_path, subject.optimizer.full_precision())
    assert torch.equal(logits(subject.policy, rollout), before)
    assert subject.policy.packs


def test_a_loaded_policy_scores_as_the_saved_one_did(tmp_path):
    subject = trained(torch.float32, tied=False)
    subject.policy.save(tmp_path, subject.optimizer.full_precision())
    again = Policy(*load(str(tmp_path)))
    rollouts = random_groups()[0].rollouts
    with torch.no_grad():
        a, b = (p.score(rollouts, Sampling(), 9)[0] for p in (subject.policy, again))
    assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("./no/such/dir", "no such directory"),
        ("/no/such/dir", "no such directory"),
        ("a/b/c", "no such directory"),
    ],
)
def test_a_missing_model_is_one_line(name, words):
    with pytest.raises(UserError, match=words):
        load(name)


def test_a_folder_that_is_no_model_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json"):
        load(str(tmp_path))


def test_a_hub_model_that_cannot_be_had_is_one_line(monkeypatch):
    with pytest.raises(UserError, match="cannot be loaded") as caught:
        load("nobody/nothing-of-this-name")
    assert "\n" not in str(caught.value)


def test_devices_and_dtypes():
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="cannot be used here"):
        pick_device("warp:3")
    small = policy().model
    assert pick_dtype("auto", small, torch.device("cpu")) == torch.float32, "narrow models do not gain from bf16"
    assert pick_dtype("bfloat16", small, torch.device("cpu")) == torch.bfloat16
