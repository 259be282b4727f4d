"""What must hold on any device, beside the same on the CPU: for ``gpu.py``. Each check yields (what, found, bound)."""

from __future__ import annotations

import copy
import importlib.util
import random
import warnings
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch

Found = tuple[str, float, float]
"""What was compared, the largest gap, and the most that rounding may make of it."""


def tiny_model(**changes: Any) -> tuple[Any, Any]:
    """A random Llama with grouped keys, far from uniform, in float32 on the CPU; and its tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from upslope.model.pocket import build_tokenizer

    tokenizer = build_tokenizer()
    config: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.1,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**config | changes)), tokenizer


def groups_of(vocabulary: int, num: int, size: int, prompt: int, longest: int) -> list[Any]:
    """Random ragged attempts with random rewards; ``num`` problems, ``size`` attempts each."""
    from upslope.types import Group, Problem, Rollout, Score

    rng = random.Random(0)
    made = []
    for index in range(num):
        given = tuple(rng.randrange(vocabulary) for _ in range(prompt))
        rollouts = []
        for sample in range(size):
            said = tuple(rng.randrange(vocabulary) for _ in range(rng.randint(1, longest)))
            mask, logp = (True,) * len(said), (-1.0,) * len(said)
            score = Score(float(rng.random() < 0.5))
            rollouts.append(Rollout(f"p/{index}", sample, given, said, mask, logp, 0, "stop", "", score))
        made.append(Group(Problem(f"p/{index}", ()), tuple(rollouts)))
    return made


def gradient(model: Any, tokenizer: Any, recipe: Any, groups: Any, dtype: torch.dtype, **settings: Any) -> Any:
    """(masters' gradients by name, on the CPU in float64; the policy) of one update by a recipe."""
    from upslope.algo.objective import Objective
    from upslope.learn.build import build_learner
    from upslope.learn.prepare import weigh
    from upslope.learn.settings import LearnSettings
    from upslope.model.policy import Policy
    from upslope.types import Sampling

    torch.manual_seed(1)  # a critic's head
    policy = Policy(model, tokenizer)
    learn = LearnSettings(lr=1e-3, warmup=0, **settings)
    learner = build_learner(policy, recipe, learn, sampling=Sampling(), num_updates=99, dtype=dtype)
    if learner.critic is not None:  # past its warm-up, in which the policy has no gradient
        learner.critic.optimizer.num_done = learner.critic.slot.warmup
    learner.gradient(Objective(recipe), weigh(learner.prepare(recipe, groups), recipe))
    masters = learner.optimizer.masters.items()
    return {name: m.grad.cpu().double() for name, m in masters if m.grad is not None}, policy


def largest(found: dict[str, Any], expected: dict[str, Any]) -> float:
    """The largest gap, as a share of the largest entry of its tensor."""
    gaps = [(found[n] - e).abs().max() / e.abs().max().clamp(min=1e-30) for n, e in expected.items() if e.abs().max()]
    return float(max(gaps))


def gradients(device: torch.device) -> Iterator[Found]:
    """Of recipes with every kind of part, in float32 and bfloat16, beside float64 on the CPU."""
    from upslope.algo.family import FAMILY

    base, tokenizer = tiny_model()
    groups = groups_of(len(tokenizer), 4, 3, 5, 12)
    for name in ("sft", "reinforce", "ppo", "grpo", "dapo", "trpo"):
        recipe = FAMILY[name].recipe
        expected, _ = gradient(copy.deepcopy(base).double(), tokenizer, recipe, groups, torch.float64)
        for dtype, bound in ((torch.float32, 1e-3), (torch.bfloat16, 0.2)):
            if dtype == torch.bfloat16 and "curvature" in recipe.needs:
                continue
            found, _ = gradient(copy.deepcopy(base).to(device), tokenizer, recipe, groups, dtype)
            yield f"gradient of {name} in {str(dtype)[6:]}", largest(found, expected), bound
    recipe = FAMILY["grpo"].recipe
    expected, _ = gradient(copy.deepcopy(base).to(device), tokenizer, recipe, groups, torch.float32)
    for how in ({"micro_batch": 1}, {"checkpoint_activations": True}):
        other, _ = gradient(copy.deepcopy(base).to(device), tokenizer, recipe, groups, torch.float32, **how)
        yield f"gradient of grpo with {how}", largest(other, expected), 1e-4


def attempts(device: torch.device) -> Iterator[Found]:
    """Sampled on the device, by looks apart and one by one, and on the CPU; and the learner's own scores of them."""
    from upslope.model.policy import Policy
    from upslope.model.scores import token_scores
    from upslope.rollout.address import Address
    from upslope.rollout.base import Request
    from upslope.rollout.local import LocalSampler
    from upslope.types import Sampling

    base, tokenizer = tiny_model()
    requests = [Request(f"p/{i}", s, (3 + i, 7, 9 + i % 3)) for i in range(6) for s in range(4)]
    sampling, here = Sampling(1.0, max_tokens=40), Address(0, "sample", 0)
    policies = {
        "cpu": Policy(copy.deepcopy(base), tokenizer),
        "there": Policy(copy.deepcopy(base).to(device), tokenizer),
    }
    on_cpu = LocalSampler(policies["cpu"]).generate(requests, sampling, here)
    found = LocalSampler(policies["there"]).generate(requests, sampling, here)
    by_one = LocalSampler(policies["there"], look_every=1).generate(requests, sampling, here)
    few = LocalSampler(policies["there"], max_rows=5).generate(requests, sampling, here)
    for what, others in (("the CPU", on_cpu), ("a look after every token", by_one), ("five rows at once", few)):
        # A draw that lies within rounding of a boundary may fall on either side, so a few may differ.
        differ = sum(a.response != b.response for a, b in zip(found, others, strict=True)) / len(found)
        yield f"share of attempts that differ from {what}", differ, 0.1
    with torch.no_grad():
        states = policies["there"].states(found)
        scored = token_scores(policies["there"], states, sampling).logp_R.double().cpu()
    drawn = torch.tensor([x for r in found for x in r.logp or ()], dtype=torch.float64)
    yield "log-probabilities: sampler less learner", float((scored - drawn).abs().max()), 1e-3


def memory(device: torch.device) -> Iterator[Found]:
    """The device's gauge, and an update that does not fit at first."""
    from upslope.algo.family import FAMILY
    from upslope.model import policy as policies
    from upslope.model.gauge import gauge_of

    gauge = gauge_of(device)
    if gauge is not None:
        before = gauge.free()
        held = torch.empty(2**28, dtype=torch.uint8, device=device)
        yield "256 MiB seen by the gauge, relative error", abs((before - gauge.free()) / held.numel() - 1), 0.1
        del held
    base, tokenizer = tiny_model()
    groups, recipe = groups_of(len(tokenizer), 4, 3, 5, 12), FAMILY["grpo"].recipe
    expected, _ = gradient(copy.deepcopy(base).to(device), tokenizer, recipe, groups, torch.float32)
    states = policies.Policy.states

    def limited(self: Any, rollouts: Any) -> Any:
        if len(rollouts) > 6 and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("as if there were no room")
        return states(self, rollouts)

    policies.Policy.states = limited  # type: ignore[method-assign]
    try:
        with warnings.catch_warnings(record=True) as lines:
            warnings.simplefilter("always")
            found, _ = gradient(copy.deepcopy(base).to(device), tokenizer, recipe, groups, torch.float32)
    finally:
        policies.Policy.states = states  # type: ignore[method-assign]
    told = sum("out of memory while learning" in str(line.message) for line in lines)
    yield "gradient after running out of memory", largest(found, expected), 1e-4
    yield "halvings that were not told", abs(told - 1), 0


def kernels(device: torch.device) -> Iterator[Found]:
    """Triton's, as a whole trunk's states and gradients, beside plain torch's there; nothing where it does not run."""
    if importlib.util.find_spec("triton") is None or device.type != "cuda":
        return
    from upslope.model.layout import lay_out
    from upslope.model.llama.trunk import Trunk
    from upslope.native import torch_ops, triton_ops

    base, tokenizer = tiny_model()
    rollouts = [r for group in groups_of(len(tokenizer), 4, 3, 40, 60) for r in group.rollouts]
    for dtype, bound in ((torch.float32, 1e-3), (torch.bfloat16, 0.2)):
        model = copy.deepcopy(base).to(device, dtype)
        found: dict[str, dict[str, Any]] = {}
        for name, ops in (("triton", triton_ops), ("torch", torch_ops)):
            model.zero_grad()
            states = Trunk(model.model, ops).states(lay_out(rollouts, device))
            torch.manual_seed(2)
            (states * torch.randn_like(states)).sum().backward()  # type: ignore[no-untyped-call]
            found[name] = {n: p.grad.cpu().double() for n, p in model.named_parameters() if p.grad is not None}
            found[name]["states"] = states.detach().cpu().double()
        yield f"a trunk on Triton's kernels in {str(dtype)[6:]}", largest(found["triton"], found["torch"]), bound
    logits = torch.randn(64, 50_000, device=device)
    uniform = torch.rand(64, device=device, dtype=torch.float64)
    differ = triton_ops.draw(logits, uniform, 0.8)[0] != torch_ops.draw(logits, uniform, 0.8)[0]
    yield "share of draws that differ on Triton's kernels", float(differ.double().mean()), 0.05


def merged(device: torch.device) -> Iterator[Found]:
    """Attention in learning by flash kernels: whether they are used, and beside padded rectangles; on a GPU alone."""
    from upslope.algo.family import FAMILY
    from upslope.model import attention

    if device.type != "cuda":
        return
    base, tokenizer = tiny_model()
    groups, recipe = groups_of(len(tokenizer), 6, 4, 30, 70), FAMILY["grpo"].recipe
    found, policy = gradient(copy.deepcopy(base).to(device), tokenizer, recipe, groups, torch.bfloat16)
    yield f"flash kernels refused ({'; '.join(policy.notes) or 'not'})", float(bool(policy.notes)), 0
    with mock.patch.object(attention, "calls_for", lambda *_: None):
        padded, _ = gradient(copy.deepcopy(base).to(device), tokenizer, recipe, groups, torch.bfloat16)
    exact, _ = gradient(copy.deepcopy(base).double(), tokenizer, recipe, groups, torch.float64)
    gaps = largest(found, exact), largest(padded, exact)
    yield "gradient by flash kernels in bfloat16", gaps[0], 0.2
    yield "its gap, as a share of that by padded rectangles", gaps[0] / max(gaps[1], 1e-9), 2


def captured(device: torch.device) -> Iterator[Found]:
    """Positions replayed from graphs, beside the same run one by one there; on a GPU alone."""
    from upslope.model.policy import Policy
    from upslope.rollout.address import Address
    from upslope.rollout.base import Request
    from upslope.rollout.captured import graphs_of
    from upslope.rollout.local import LocalSampler
    from upslope.types import Sampling

    if graphs_of(device) is None:
        return
    base, tokenizer = tiny_model()
    policy, here = Policy(base.to(device), tokenizer), Address(0, "sample", 0)
    lines: list[str] = []
    policy.native, policy.budgets.say = False, lines.append
    requests = [Request(f"p/{i}", s, (3 + i, 7, 9 + i % 3)) for i in range(6) for s in range(8)]
    for sampling in (Sampling(max_tokens=100), Sampling(0.8, top_k=40, top_p=0.9, min_tokens=20, max_tokens=100)):
        for rows in (0, 9):
            found, expected = (
                LocalSampler(policy, max_rows=rows, graphs=graphs).generate(requests, sampling, here)
                for graphs in (graphs_of, lambda _: None)
            )
            differ = sum(a.response != b.response for a, b in zip(found, expected, strict=True)) / len(found)
            yield f"share of replayed attempts that differ, {rows or 'all'} rows, top-k {sampling.top_k}", differ, 0.05
    yield f"steps that could not be recorded ({'; '.join(lines) or 'none'})", len(lines), 0
