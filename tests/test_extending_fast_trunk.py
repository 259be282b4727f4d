"""The example of a fast trunk from outside: registered, admitted, sampled and learned with, refused when wrong."""

import functools
from pathlib import Path

import pytest
import torch
from naive import ENDS, HERE, SAMPLING, continued, flat
from tiny import TOKENIZER, drawn, problems, random_groups
from transformers import GPT2Config, GPT2LMHeadModel

from upslope.model.fast_trunks import register_fast_trunk, unregister_fast_trunk
from upslope.model.policy import Policy
from upslope.model.precision import cast_weights
from upslope.model.scores import token_scores
from upslope.native import build, torch_ops
from upslope.plugins import load_object
from upslope.types import Sampling

FILE = Path(__file__).parent.parent / "examples" / "extending" / "fast_trunk.py"


@functools.cache
def example():
    """The file's module attributes; importing it registers the trunk, and every test begins without it."""
    modules = {}
    load_object(f"{FILE}:gpt2_trunk", "fast trunk", modules)
    (module,) = modules.values()
    unregister_fast_trunk(module.gpt2_trunk)
    return module


@pytest.fixture
def registered():
    """For this test alone; other tests' GPT-2 stay with transformers."""
    register_fast_trunk(example().gpt2_trunk)
    yield example()
    unregister_fast_trunk(example().gpt2_trunk)


def gpt2(dtype=torch.float32, **changes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT2LMHeadModel(
            GPT2Config(
                **{"vocab_size": len(TOKENIZER), "n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 256}
                | {"initializer_range": 0.1, "eos_token_id": 1, "bos_token_id": 1}
                | changes
            )
        )
        for parameter in model.parameters():
            if parameter.dim() == 1:  # biases start at 0, which would hide them
                parameter.data += 0.3 * torch.randn(parameter.shape)
    cast_weights(model, dtype)
    return model.eval()


def policy(dtype=torch.float32, **changes):
    subject = Policy(gpt2(dtype, **changes), TOKENIZER)
    subject.end_ids = ENDS
    return subject


def rollouts():
    return [r for g in random_groups(4, 3, longest=20) for r in g.rollouts]


def test_importing_the_file_registers_it_and_others_do_without(registered):
    assert type(policy().fast_trunk) is registered.Gpt2Trunk
    unregister_fast_trunk(registered.gpt2_trunk)
    try:
        assert policy().fast_trunk is None
    finally:
        register_fast_trunk(registered.gpt2_trunk)
    text = FILE.read_text(encoding="utf-8")
    assert "@register_fast_trunk\ndef gpt2_trunk" in text


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_scores_and_gradients_are_transformers(registered, dtype, checkpointing):
    """Float64 goes through torch's ops, float32 through the kernels where there are any."""
    found = []
    for native in (True, False):
        subject = policy(dtype)
        assert subject.native
        subject.native, subject.checkpointing = native, checkpointing and native
        scores = token_scores(subject, subject.states(rollouts()), Sampling(0.9))
        scores.logp_R.sum().backward()
        slopes = torch.cat([p.grad.flatten() for p in subject.model.parameters()])
        found.append((scores.logp_R.detach(), scores.entropy_R, slopes))
    bound = 1e-5 if dtype == torch.float32 else 1e-12
    for mine, theirs in zip(*found, strict=True):
        assert (mine - theirs).norm() <= bound * theirs.norm()


@pytest.mark.parametrize("max_rows", [3, 0])
def test_attempts_are_those_of_transformers_a_token_at_a_time(registered, max_rows, monkeypatch):
    subject, plain = policy(), gpt2()
    made = []
    decoder = registered.Gpt2Trunk.decoder
    monkeypatch.setattr(registered.Gpt2Trunk, "decoder", lambda *args: made.append(args) or decoder(*args))
    rollouts = flat(drawn(subject, problems(4), 3, SAMPLING, HERE, max_rows=max_rows))
    assert made and len({len(r.response) for r in rollouts}) > 3
    for rollout in rollouts[::2]:
        (problem,) = (p for p in problems(4) if p.id == rollout.problem_id)
        prompt = list(subject.renderer.prompt_ids(problem.messages))
        tokens, logps, ended = continued(plain, prompt, problem, rollout.sample, SAMPLING)
        assert (rollout.response, rollout.ended) == (tuple(tokens), ended)
        assert rollout.logp == pytest.approx(logps, abs=1e-5)
    with torch.no_grad():
        learned = token_scores(subject, subject.states(rollouts), SAMPLING).logp_R
    assert learned.tolist() == pytest.approx([x for r in rollouts for x in r.logp], abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_trunk_that_is_wrong_is_refused_and_the_model_is_right(registered, dtype, monkeypatch):
    expected = policy(dtype)
    expected.native = False
    monkeypatch.setattr(registered.Gpt2Trunk, "_embedded", lambda self, id_X, _: self._body.wte(id_X))
    subject = policy(dtype)
    assert not subject.native and subject.fast_trunk is None
    with torch.no_grad():
        assert torch.equal(subject.states(rollouts()).hidden_RD, expected.states(rollouts()).hidden_RD)


def test_the_next_one_is_asked_where_the_newest_is_wrong(registered):
    class Wrong(registered.Gpt2Trunk):
        def states(self, layout, *, checkpointing=False):
            return super().states(layout, checkpointing=checkpointing) * 1.1

    def wrong(body):
        return Wrong(body) if registered.gpt2_trunk(body) else None

    register_fast_trunk(wrong)
    try:
        assert type(policy().fast_trunk) is registered.Gpt2Trunk
    finally:
        unregister_fast_trunk(wrong)


@pytest.mark.parametrize("change", ["scale_attn_by_inverse_layer_idx", "scale_attn_weights", "depth"])
def test_what_is_not_written_there_does_not_take_it(registered, change):
    changes = {
        "scale_attn_by_inverse_layer_idx": {"scale_attn_by_inverse_layer_idx": True},
        "scale_attn_weights": {"scale_attn_weights": False},
        "depth": {"n_head": 16},
    }[change]
    assert policy(**changes).fast_trunk is None


@pytest.mark.skipif(bool(build.why_not()), reason=build.why_not())
def test_the_environment_takes_the_kernels_away_and_torch_is_used(registered, monkeypatch):
    monkeypatch.setenv("UPSLOPE_NATIVE", "0")
    trunk = policy().fast_trunk
    assert trunk is not None and trunk._ops is torch_ops
