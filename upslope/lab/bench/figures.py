"""From timed steps to the figures that are shown: rates, and their shares of what the machine can do."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from upslope.lab.bench.ceiling import SHORT, Ceiling
from upslope.lab.bench.flops import forward_flop, learning_flop
from upslope.lab.bench.measure import Timed
from upslope.model.policy import Policy
from upslope.native.build import why_not


def rollout_figures(steps: Sequence[Timed], model: nn.Module, gflops: float) -> dict[str, float]:
    """Of the fastest sampling. The prompt's pass is in the seconds, its tokens are not counted."""
    best = min(steps, key=lambda step: step.by_phase["sample"])
    seconds = best.by_phase["sample"]
    rate = best.response_tokens / seconds
    return {
        "tokens_per_s": rate,
        "share_of_ceiling": rate * forward_flop(model) / (gflops * 1e9),
        "seconds": seconds,
        "tokens": best.response_tokens,
    }


def learn_figures(steps: Sequence[Timed], model: nn.Module, gflops: float) -> dict[str, float]:
    """Of the fastest way from scored attempts to their gradient."""
    best = min(steps, key=lambda step: step.learning)
    rate = best.learnt_tokens / best.learning
    return {
        "tokens_per_s": rate,
        "response_tokens_per_s": best.passes * best.response_tokens / best.learning,
        "share_of_ceiling": rate * learning_flop(model) / (gflops * 1e9),
        "seconds": best.learning,
        "tokens": best.learnt_tokens,
    }


def step_figures(steps: Sequence[Timed], peak: float) -> dict[str, Any]:
    """Of the fastest whole step, whose phases add up to it. ``peak``: ``training.memory.peak_gb`` after the last."""
    best = min(steps, key=lambda step: step.seconds)
    return {
        "seconds": best.seconds,
        "tokens_per_s": best.response_tokens / best.seconds,
        "peak_gb": peak,
        "optimizer_share": best.by_phase["optimizer"] / best.seconds,
        "seconds_by_phase": best.by_phase,
    }


def ceiling_figures(ceiling: Ceiling) -> dict[str, float]:
    rates = {f"gflops_{SHORT[dtype]}": rate for dtype, rate in ceiling.gflops.items()}
    return rates | {"memory_gb_per_s": ceiling.memory_gb_per_s}


def kernels_of(policy: Policy) -> str:
    """``native`` if the policy runs on the kernels, else why it does not."""
    if policy.fast_trunk is not None:
        return "native"
    return why_not() or "not native: made for other models, precisions or devices, or not in agreement with this one"


def machine_figures(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """What was measured on: figures of two machines are not to be compared."""
    return {
        "cpu": cpu_model(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dtype": str(dtype).removeprefix("torch."),
    }


def cpu_model() -> str:
    """The processor's name as it gives it itself, where the system tells."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text(encoding="utf-8", errors="replace").splitlines() if told.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
