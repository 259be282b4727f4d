"""Seconds and gigabytes of a random Llama on a device: for ``gpu.py``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

from upslope.model.gauge import wait_for

BIG = {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14} | {
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
}
"""The shape of Qwen2.5-0.5B: 494 million weights."""
LITTLE = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 4} | {
    "num_key_value_heads": 2,
    "vocab_size": 2048,
    "tie_word_embeddings": True,
}
PROMPT = 150
RATE = 1e-6


def random_llama(shape: dict[str, Any], device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    """A model of that shape made where it will compute, and pocket's tokenizer for its special tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from upslope.model.pocket import build_tokenizer

    tokenizer = build_tokenizer()
    special = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
    config = LlamaConfig(**shape, **special, max_position_embeddings=2048)
    torch.manual_seed(0)
    with device:
        return LlamaForCausalLM(config).to(dtype), tokenizer


def timed(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """(seconds, what it returned)."""
    wait_for(device)
    begin = time.perf_counter()
    made = work()
    wait_for(device)
    return time.perf_counter() - begin, made


def peak_of(device: torch.device) -> float:
    """GB allocated at most since ``forget_peak``; of a CPU what the process held."""
    from upslope.training.memory import peak_gb

    return peak_gb(device)


def forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


class Workload:
    """Sampling P x G attempts of L tokens and learning from them, by upslope, on one model that stays in memory."""

    def __init__(self, device: torch.device, shape: dict[str, Any], sizes: tuple[int, int, int]) -> None:
        from upslope.algo.family import GRPO
        from upslope.learn.build import build_learner
        from upslope.learn.settings import LearnSettings
        from upslope.model.policy import Policy
        from upslope.model.precision import pick_dtype
        from upslope.rollout.base import Request
        from upslope.rollout.local import LocalSampler
        from upslope.types import Sampling

        self.device, (self.num, self.size, self.longest) = device, sizes
        model, tokenizer = random_llama(shape, device, torch.float32)
        self.weights = sum(p.numel() for p in model.parameters())
        self.dtype = pick_dtype("auto", model, device)
        # The end is banned, so that every attempt has its full length and both sides do the same work.
        self.sampling = Sampling(1.0, min_tokens=self.longest, max_tokens=self.longest)
        self.recipe = GRPO
        policy = Policy(model, tokenizer)
        settings = LearnSettings(lr=RATE, warmup=0)
        how = {"sampling": self.sampling, "num_updates": 9, "dtype": self.dtype}
        self.learner = build_learner(policy, self.recipe, settings, **how)  # type: ignore[arg-type]
        self.sampler = LocalSampler(policy)
        rows = range(3, 3 + PROMPT)
        self.prompts = [tuple((7 * i * t) % shape["vocab_size"] for t in rows) for i in range(1, self.num + 1)]
        self.requests = [Request(f"p/{i}", s, p) for i, p in enumerate(self.prompts) for s in range(self.size)]
        self.native = policy.native

    @property
    def num_tokens(self) -> int:
        return self.num * self.size * self.longest

    def sample(self, step: int) -> list[Any]:
        from upslope.rollout.address import Address

        self.learner.weights()  # gradients are freed before, as in a run
        return self.sampler.generate(self.requests, self.sampling, Address(0, "sample", step))

    def groups(self, rollouts: list[Any]) -> list[Any]:
        """Rewards by chance."""
        from dataclasses import replace

        from upslope.types import Group, Problem, Score

        scored = [replace(r, score=Score(float((7 * i) % 5 < 2))) for i, r in enumerate(rollouts)]
        parts = [scored[i : i + self.size] for i in range(0, len(scored), self.size)]
        return [Group(Problem(part[0].problem_id, ()), tuple(part)) for part in parts]

    def learn(self, rollouts: list[Any]) -> None:
        from upslope.algo.objective import Objective
        from upslope.learn.prepare import weigh

        batch = weigh(self.learner.prepare(self.recipe, self.groups(rollouts)), self.recipe)
        self.learner.gradient(Objective(self.recipe), batch)
        self.learner.step()

    def slowest(self, work: Callable[[], object], num: int = 8) -> list[dict[str, Any]]:
        """The operations of ``work`` that took the device longest, by its profiler."""
        from torch.profiler import ProfilerActivity, profile

        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.device.type == "cuda" else [])]
        with profile(activities=kinds) as seen:
            work()
            wait_for(self.device)
        key = "self_device_time_total" if self.device.type == "cuda" else "self_cpu_time_total"
        events = sorted(seen.key_averages(), key=lambda e: getattr(e, key), reverse=True)
        total = sum(getattr(e, key) for e in events) or 1
        rows = [(e.key, getattr(e, key) / 1e6, e.count, getattr(e, key) / total) for e in events[:num]]
        return [{"what": w, "seconds": round(s, 4), "calls": n, "share": round(p, 3)} for w, s, n, p in rows]


WITHOUT = {"sampling": "single launches", "learning": "padded rectangles"}
"""What each did before there were graphs, and flash kernels."""


@contextmanager
def without(name: str, load: Workload) -> Iterator[None]:
    """That way for a while."""
    from upslope.model import attention
    from upslope.rollout.local import LocalSampler

    if name == "learning":
        with mock.patch.object(attention, "calls_for", lambda *_: None):
            yield
        return
    sampler, load.sampler = load.sampler, LocalSampler(load.learner.policy, graphs=lambda _: None)
    try:
        yield
    finally:
        load.sampler = sampler


def transformers_generate(load: Workload) -> float:
    """Seconds of ``generate`` for as many attempts of the same length, all prompts in one batch."""
    with load.learner.policy.as_any_other() as model:
        ids = torch.tensor([r.prompt for r in load.requests], device=load.device)
        length = {"max_new_tokens": load.longest, "min_new_tokens": load.longest}
        mask = torch.ones_like(ids)
        how = {"attention_mask": mask, "do_sample": True, "top_k": 0, "top_p": 1.0, "use_cache": True, **length}
        with torch.no_grad():
            return timed(lambda: model.generate(ids, **how), load.device)[0]


def trl_step(load: Workload, folder: str) -> float:
    """Seconds of the second of two steps of TRL's GRPO trainer on a copy of the model, with rewards by chance."""
    import copy

    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    ends: list[float] = []

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            wait_for(load.device)
            ends.append(time.perf_counter())

    policy, rows = load.learner.policy, load.num * load.size
    each = min(32, rows)
    config = GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=each,
        gradient_accumulation_steps=rows // each,
        num_generations=load.size,
        max_completion_length=load.longest,
        max_steps=2,
        learning_rate=RATE,
        report_to=[],
        use_cpu=load.device.type == "cpu",
        bf16=load.dtype == torch.bfloat16,
        beta=0.0,
        temperature=1.0,
        gradient_checkpointing=False,
        save_strategy="no",
        disable_tqdm=True,
    )
    with policy.as_any_other() as model:
        own = copy.deepcopy(model).float()
    text = [{"prompt": policy.tokenizer.decode([i % 400 + 5 for i in prompt])} for prompt in load.prompts]
    GRPOTrainer(
        model=own,
        processing_class=policy.tokenizer,
        reward_funcs=lambda completions, **_: [float(len(str(c)) % 2) for c in completions],
        args=config,
        train_dataset=Dataset.from_list(text),
        callbacks=[Watch()],
    ).train()
    return ends[1] - ends[0]
