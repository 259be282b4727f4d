"""What upslope relies on of transformers, tried one by one; and that nothing of ours is in a model's keywords."""

from __future__ import annotations

import inspect
import threading

import pytest
import torch
from safetensors.torch import save_file
from tiny import TOKENIZER, drawn, group, learner, model, policy, problems, random_groups
from transformers import AttentionInterface, AutoTokenizer, DynamicCache

from upslope.algo.family import REINFORCE
from upslope.algo.objective import Objective
from upslope.learn.prepare import passes
from upslope.model import attention, hf
from upslope.model.adapter import add_adapter
from upslope.model.layout import lay_out
from upslope.model.load import load
from upslope.rollout.address import Address
from upslope.types import Sampling

IDS = torch.tensor([[5, 9, 3, 7, 4]])


def rollouts():
    return [r for g in random_groups(2) for r in g.rollouts]


def test_a_registered_function_is_the_attention_of_every_layer():
    """It is given the layer's number, queries, keys and values, no mask, and the scale of the scores."""
    seen = []
    eager = AttentionInterface()["sdpa"]

    def ours(module, query, key, value, attention_mask, **kwargs):
        seen.append((module.layer_idx, query.shape, key.shape, attention_mask, kwargs["scaling"]))
        return eager(module, query, key, value, None, **kwargs | {"is_causal": True})

    hf.register_attention("upslope-test", ours)
    subject = model()
    expected = subject(input_ids=IDS, use_cache=False).logits
    assert hf.can_choose_attention(subject)
    assert hf.attention_in_use(subject) == "sdpa"
    hf.use_attention(subject, "upslope-test")
    assert hf.attention_in_use(subject) == hf.attention_in_use(subject.base_model) == "upslope-test"
    torch.testing.assert_close(subject(input_ids=IDS, use_cache=False).logits, expected, rtol=0, atol=1e-12)
    assert seen == [(layer, (1, 4, 5, 8), (1, 2, 5, 8), None, 8**-0.5) for layer in (0, 1)]


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_keyword_of_the_cache_is_one_that_the_model_takes(wrapped):
    """Without a warning, which would be an error here: the name is not one on its way out."""
    subject = model().eval()
    if wrapped:
        pytest.importorskip("peft")
        subject = add_adapter(subject, rank=2, alpha=4.0, targets="all-linear", seed=0)
    whole = subject(input_ids=IDS, use_cache=False).logits
    cache = DynamicCache()
    keyword = hf.cache_keyword(subject)
    for at in range(IDS.shape[1]):
        out = subject(input_ids=IDS[:, at : at + 1], use_cache=True, **{keyword: cache})
        torch.testing.assert_close(out.logits[:, 0], whole[:, at], rtol=0, atol=1e-12)
    assert cache.get_seq_length() == IDS.shape[1]


def test_a_model_with_only_the_older_name_gets_the_older_name():
    class Older:
        def forward(self, input_ids, past_key_values=None):
            pass

    class Newer:
        def forward(self, input_ids, cache=None, past_key_values=None):
            pass

    assert (hf.cache_keyword(Older()), hf.cache_keyword(Newer())) == ("past_key_values", "cache")


@pytest.mark.parametrize("packed", [True, False])
def test_every_keyword_is_one_that_the_models_forward_names(packed, monkeypatch):
    """What a model does not name it hands on, layer by layer, until it meets something of the same name."""
    subject = policy()
    if not packed:
        hf.use_attention(subject.model, "sdpa")
        subject.packs = False
    calls = []
    for module in (subject.model, subject.model.base_model):
        names, forward = set(inspect.signature(module.forward).parameters), module.forward

        def noted(*args, names=names, forward=forward, **kwargs):
            calls.append(set(kwargs) - names)
            return forward(*args, **kwargs)

        monkeypatch.setattr(module, "forward", noted)
    subject.states(rollouts())
    subject.distributions(rollouts(), Sampling())
    subject.hidden(subject.model.base_model, rollouts())
    drawn(subject, problems(2), 2, Sampling(max_tokens=4), Address(0, "sample"), packed=packed)
    assert len(calls) > 6
    assert not set().union(*calls)


def test_layers_are_computed_again_under_the_plan_they_ran_under():
    """The backward pass comes when the caller has left the context, and may find another one there."""
    wanted = learner(REINFORCE)
    again = learner(REINFORCE)
    again.policy.checkpoint_activations()
    other = lay_out(group("x", [1, 2], [[3], [4, 5]], [0, 1]).rollouts, torch.device("cpu"))
    for subject in (wanted, again):
        (minibatch,) = passes(subject.prepare(random_groups()), REINFORCE, Address(0, "reuse"))
        with attention.planned(other):
            subject.gradient(Objective(REINFORCE), minibatch)
    for expected, found in zip(wanted.optimizer.masters.values(), again.optimizer.masters.values(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=0, atol=1e-12)


def test_the_plan_of_one_thread_is_not_seen_in_another():
    subject, both, found = policy(), threading.Barrier(2, timeout=30), {}
    expected = {n: subject.score(rollouts()[:n], Sampling(), 9)[0] for n in (1, 4)}

    def score(num):
        layout = lay_out(rollouts()[:num], subject.device)
        with torch.no_grad(), attention.planned(layout):
            both.wait()
            logits = subject.model(**layout.call()).logits[0]
            both.wait()
        found[num] = logits.log_softmax(dim=1).gather(1, layout.target_R[:, None])[:, 0]

    threads = [threading.Thread(target=score, args=(num,)) for num in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for num, logp_NT in expected.items():
        mask_NT = logp_NT != 0
        torch.testing.assert_close(found[num], logp_NT[mask_NT], rtol=0, atol=1e-12)


def test_a_call_without_a_plan_is_an_error_and_no_silent_full_attention():
    with pytest.raises(RuntimeError, match="needs a layout or a cache"):
        policy().model(input_ids=IDS, use_cache=False)


@pytest.mark.parametrize("write", ["weights", "tokenizer"])
def test_what_the_system_says_through_rust_is_an_error_of_the_system(write, tmp_path):
    """Both are told to write into a folder that is not there."""
    place = tmp_path / "nowhere" / "file"
    with pytest.raises(FileNotFoundError) as error, hf.system_errors(tmp_path):
        if write == "weights":
            save_file({"x": torch.zeros(1)}, place)
        else:
            TOKENIZER.backend_tokenizer.save(str(place))
    assert error.value.filename == str(tmp_path)


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(ValueError, match=r"^error 28$"), hf.system_errors(tmp_path):
        raise ValueError("error 28")


def test_a_tokenizer_that_was_loaded_is_written_as_it_was(tmp_path):
    """transformers notes in it that it came from a directory, and offline: what it notes is what we take out."""
    policy().save(tmp_path / "first")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "first", local_files_only=True)
    assert {name for name in hf.LOADED_FROM if loaded.init_kwargs.get(name)} == set(hf.LOADED_FROM)
    load(str(tmp_path / "first"))[1].save_pretrained(tmp_path / "second")
    files = [{p.name: p.read_bytes() for p in (tmp_path / name).glob("*token*")} for name in ("first", "second")]
    assert files[0] == files[1] and "tokenizer_config.json" in files[0]
