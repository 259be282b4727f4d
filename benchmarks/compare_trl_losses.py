"""Our losses beside those of an installed TRL, on the same random numbers. Writes a table.

    pip install trl==1.16.0
    python benchmarks/compare_trl_losses.py [--seeds 5]

Nothing of TRL is written down again here: its own ``GRPOTrainer._compute_loss`` runs, on a stand-in for the trainer
whose model answers with our log-probabilities. Compared are the loss and its gradient by every log-probability (and by
every entropy). tests/algo/test_trl.py asserts what this table shows.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from upslope.algo.aggregate import ConstantLength, token_mean
from upslope.algo.correction import MaskedWeights, TruncatedWeights
from upslope.algo.family import CISPO, DAPO, DR_GRPO, GRPO, GSPO
from upslope.algo.objective import Objective
from upslope.algo.outcome import Scored
from upslope.algo.recipe import Recipe
from upslope.algo.regulariser import K3, EntropyBonus, no_penalty
from upslope.algo.surrogate import ClippedRatio
from upslope.types import Batch

LIMIT = 12
"""Longest completion that sampling allows; no row below is that long."""


@dataclass(frozen=True)
class Numbers:
    """What a loss is computed from; junk where the mask is False."""

    mask_NT: Tensor
    logp_NT: Tensor
    entropy_NT: Tensor
    old_NT: Tensor
    reference_NT: Tensor
    sampler_NT: Tensor
    advantage_N: Tensor

    def rows(self, chosen: slice) -> Numbers:
        return Numbers(**{name: value[chosen] for name, value in vars(self).items()})


def numbers(seed: int, *, moved: float = 0.4) -> Numbers:
    """Ragged random rows, one of them without any token. ``moved`` is how far log-ratios lie from zero."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    lengths_N = torch.tensor([9, 1, 4, 0, 7, 2, 8, 5])
    mask_NT = torch.arange(10) < lengths_N[:, None]
    mask_NT[0, 3:5] = False  # tokens that a tool wrote
    logp_NT = -normal(8, 10).abs()
    row_N1, column_NT = normal(8, 1), normal(8, 10)
    return Numbers(
        mask_NT=mask_NT,
        logp_NT=logp_NT,
        entropy_NT=normal(8, 10).abs(),
        old_NT=logp_NT + moved * (row_N1 + column_NT),
        reference_NT=logp_NT + 0.5 * normal(8, 10),
        sampler_NT=logp_NT + moved * (row_N1 + column_NT) + 0.6 * normal(8, 10),
        advantage_N=normal(8),
    )


@dataclass(frozen=True)
class Case:
    """One loss under both names."""

    name: str
    recipe: Recipe
    normaliser: str
    """What the sum over tokens is divided by, in both."""
    loss_type: str = "grpo"
    trainer: dict[str, Any] = field(default_factory=dict)
    """Attributes of TRL's trainer that are not those of the stand-in."""
    config: dict[str, Any] = field(default_factory=dict)
    """The same for its GRPOConfig."""
    moved: float = 0.4
    """How far the ratios have moved; a clip range a hundred times narrower wants a move as small."""
    importance: Callable[[Tensor], Tensor] | None = None
    """From old over sampler, by token, to TRL's ``importance_sampling_ratio``, as its generation step makes it."""


PLAIN = GRPO.patch(regulariser=no_penalty)
PENALTY = K3(0.04)
WIDE = {"epsilon_low": 0.2, "epsilon_high": 0.28}
NARROW = {"epsilon_low": 3e-4, "epsilon_high": 4e-4, "importance_sampling_level": "sequence"}
ROWS = "tokens of the row, then rows"
TOKENS = "all tokens of the batch"
CONSTANT = f"rows x {LIMIT} (longest completion allowed)"

CASES = (
    Case("grpo", PLAIN, ROWS),
    Case("grpo, penalty k3", GRPO, ROWS, trainer={"beta": 0.04}),
    Case(
        "grpo, penalty k3 weighted by the ratio",
        GRPO.patch(regulariser=K3(0.04, weighted=True)),
        ROWS,
        trainer={"beta": 0.04},
        config={"use_bias_correction_kl": True},
    ),
    Case(
        "grpo, dual clip at 1.5",
        PLAIN.patch(surrogate=ClippedRatio(dual=1.5)),
        ROWS,
        config={"delta": 1.5},
    ),
    Case("bnpo", PLAIN.patch(aggregate=token_mean), TOKENS, "bnpo"),
    Case("bnpo, penalty k3", GRPO.patch(aggregate=token_mean), TOKENS, "bnpo", {"beta": 0.04}),
    Case(
        "bnpo, entropy bonus",
        PLAIN.patch(aggregate=token_mean, regulariser=EntropyBonus(0.03)),
        TOKENS,
        "bnpo",
        {"_entropy_bonus_enabled": True, "entropy_coef": 0.03},
    ),
    Case("dapo", DAPO, TOKENS, "dapo", WIDE),
    Case("dapo, penalty k3", DAPO.patch(regulariser=PENALTY), TOKENS, "dapo", WIDE | {"beta": 0.04}),
    Case(
        "dapo, sampler's weights cut at 1.2",
        DAPO.patch(correction=TruncatedWeights(1.2)),
        TOKENS,
        "dapo",
        WIDE | {"use_vllm": True},
        importance=lambda ratio_NT: ratio_NT.clamp(max=1.2),
    ),
    Case(
        "dapo, penalty k3, sampler's weights masked",
        DAPO.patch(correction=MaskedWeights(0.7, 1.5), regulariser=PENALTY),
        TOKENS,
        "dapo",
        WIDE | {"use_vllm": True, "beta": 0.04},
        importance=lambda ratio_NT: ratio_NT.masked_fill((ratio_NT < 0.7) | (ratio_NT > 1.5), 0.0),
    ),
    Case(
        "dr_grpo",
        DR_GRPO.patch(aggregate=ConstantLength(LIMIT)),
        CONSTANT,
        "dr_grpo",
    ),
    Case("dr_grpo, penalty k3", DR_GRPO.patch(regulariser=PENALTY), CONSTANT, "dr_grpo", {"beta": 0.04}),
    Case("cispo", CISPO, TOKENS, "cispo", {"epsilon_high": 5.0}, moved=1.5),
    Case(
        "cispo, penalty k3",
        CISPO.patch(regulariser=PENALTY),
        TOKENS,
        "cispo",
        {"epsilon_high": 5.0, "beta": 0.04},
        moved=1.5,
    ),
    Case("gspo", GSPO, ROWS, "grpo", NARROW, moved=1e-3),
    Case("gspo, penalty k3", GSPO.patch(regulariser=PENALTY), ROWS, "grpo", NARROW | {"beta": 0.04}, moved=1e-3),
    Case("gspo by tokens", GSPO.patch(aggregate=token_mean), TOKENS, "dapo", NARROW, moved=1e-3),
)


@dataclass(frozen=True)
class Found:
    """A loss and its gradients by log-probability and by entropy."""

    loss: float
    slope_NT: Tensor
    entropy_slope_NT: Tensor

    def gap(self, other: Found) -> tuple[float, float]:
        """(difference of the losses, largest difference of the gradients)."""
        pairs = ((self.slope_NT, other.slope_NT), (self.entropy_slope_NT, other.entropy_slope_NT))
        return abs(self.loss - other.loss), max(float((a - b).abs().max()) for a, b in pairs)


def differentiated(loss: Tensor, logp_NT: Tensor, entropy_NT: Tensor) -> Found:
    slopes = torch.autograd.grad(loss, (logp_NT, entropy_NT), allow_unused=True, materialize_grads=True)
    return Found(loss.item(), *slopes)


def batch_of(given: Numbers, recipe: Recipe) -> Batch:
    """A batch as ``prepare`` and ``weigh`` would leave it, by hand."""
    num = len(given.mask_NT)
    batch = Batch(
        rollouts=(None,) * num,  # type: ignore[arg-type]
        mask_NT=given.mask_NT,
        reward_N=torch.zeros(num, dtype=torch.float64),
        group_N=torch.zeros(num, dtype=torch.long),
        truncated_N=torch.zeros(num, dtype=torch.bool),
        limit=LIMIT,
        sampler_logp_NT=given.sampler_NT,
        old_logp_NT=given.old_NT,
        reference_logp_NT=given.reference_NT,
        advantage_NT=torch.where(given.mask_NT, given.advantage_N[:, None], 0.0),
    )
    return Batch(**vars(batch) | {"weight_NT": recipe.aggregate(batch)})


def ours(recipe: Recipe, given: Numbers) -> Found:
    logp_NT, entropy_NT = given.logp_NT.clone().requires_grad_(), given.entropy_NT.clone().requires_grad_()
    losses, _ = Objective(recipe)(Scored(logp_NT, entropy_NT), batch_of(given, recipe))
    return differentiated(losses.policy, logp_NT, entropy_NT)


def stand_in(case: Case, logp_NT: Tensor, entropy_NT: Tensor, accumulation: int) -> SimpleNamespace:
    """What ``_compute_loss`` reads of a GRPOTrainer: one process, training, TRL's defaults unless the case differs."""
    plain: dict[str, Any] = {
        "_get_per_token_logps_and_entropies": lambda *args, **kwargs: (logp_NT, entropy_NT, None),
        "_metrics": {"train": defaultdict(list)},
        "_entropy_bonus_enabled": False,
        "use_adaptive_entropy": False,
        "model": SimpleNamespace(training=True),
        "accelerator": SimpleNamespace(
            num_processes=1, sync_gradients=True, gather=lambda x: x, reduce=lambda x, reduction: x
        ),
        "aux_loss_enabled": False,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "importance_sampling_level": "token",
        "loss_type": case.loss_type,
        "beta": 0.0,
        "epsilon_low": 0.2,
        "epsilon_high": 0.2,
        "use_vllm": False,
        "vllm_importance_sampling_correction": True,
        "max_completion_length": LIMIT,
        "current_gradient_accumulation_steps": accumulation,
    }
    config = {"delta": None, "use_bias_correction_kl": False, "steps_per_generation": accumulation}
    return SimpleNamespace(**plain | case.trainer, args=SimpleNamespace(**config | case.config))


def theirs(case: Case, given: Numbers, num_parts: int = 1) -> Found:
    """TRL's loss; in ``num_parts`` micro-batches of equally many rows if asked, whose gradients it adds up."""
    from trl import GRPOTrainer

    logp_NT, entropy_NT = given.logp_NT.clone().requires_grad_(), given.entropy_NT.clone().requires_grad_()
    size = len(logp_NT) // num_parts
    total = torch.zeros((), dtype=logp_NT.dtype)
    for part in (slice(i * size, (i + 1) * size) for i in range(num_parts)):
        rows = given.rows(part)
        inputs = {
            "prompt_ids": torch.zeros(size, 1, dtype=torch.long),
            "prompt_mask": torch.ones(size, 1, dtype=torch.long),
            "completion_ids": torch.zeros(rows.mask_NT.shape, dtype=torch.long),
            # `completion_mask` is the rectangle up to the end token; `tool_mask` takes out what a tool wrote.
            "completion_mask": torch.ones_like(rows.mask_NT, dtype=torch.long),
            "tool_mask": rows.mask_NT.long(),
            "advantages": rows.advantage_N,
            "old_per_token_logps": rows.old_NT,
            "ref_per_token_logps": rows.reference_NT,
            "num_items_in_batch": given.mask_NT.sum(),
        }
        if case.importance is not None:
            inputs["importance_sampling_ratio"] = case.importance(torch.exp(rows.old_NT - rows.sampler_NT))
        trainer = stand_in(case, logp_NT[part], entropy_NT[part], num_parts)
        total = total + GRPOTrainer._compute_loss(trainer, None, inputs)
    return differentiated(total, logp_NT, entropy_NT)


def worst(case: Case, seeds: range) -> tuple[float, float]:
    """The largest gaps over some seeds, in loss and in gradient."""
    gaps = [ours(case.recipe, g).gap(theirs(case, g)) for g in (numbers(s, moved=case.moved) for s in seeds)]
    return max(loss for loss, _ in gaps), max(slope for _, slope in gaps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    import trl

    print(f"TRL {trl.__version__}, float64, {len(seeds)} seeds of 8 rows; largest differences\n")
    print("| loss | TRL's loss_type | divided by | loss | gradient |\n|---|---|---|---|---|")
    for case in CASES:
        loss, slope = worst(case, seeds)
        print(f"| {case.name} | {case.loss_type} | {case.normaliser} | {loss:.0e} | {slope:.0e} |")


if __name__ == "__main__":
    main()
