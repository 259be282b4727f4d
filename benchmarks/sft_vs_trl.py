"""An SFT step: TRL's SFTTrainer and upslope's learner in turn, on the same rows in the same order at the same rate.
Loss by loss, tokens a second, and the most memory.

    pip install trl==1.16.0 datasets     # into this environment, or one of its own: --trl-python PATH
    python benchmarks/sft_vs_trl.py MODEL_DIR train.jsonl [--rows 16] [--steps 2] [--settings A,B,...]

A setting of TRL's is trl-PRECISION-ROWS: fp32, or bf16 by autocast over float32 weights, and the rows of a forward
pass (gradients are accumulated to the whole batch). A setting of upslope's is upslope-DTYPE (``learn.dtype``). Both
sides get the very token ids: a row's question as a chat, and its answer with the end token, of which every token counts
and no other. Both: AdamW with the same betas, no weight decay, a constant rate, gradients clipped at 1, the mean over
all the batch's answer tokens as loss. A step ends with its update; the first one warms up and is not counted in the
speed. In float32 the losses differ by rounding alone, so the largest difference from the first side's is printed.
Tokens are those of questions and answers. Peak memory is that of the whole process.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from itertools import pairwise
from typing import Any

from common import (
    Measure,
    Result,
    compare,
    learner_steps,
    marking,
    parser,
    peak_gb,
    plain_training,
    prompts,
    rows,
    show_ceilings,
    show_gaps,
    take_turns,
    tell,
    worker,
)

SETTINGS = "trl-fp32-4,trl-fp32-16,upslope-float32"
RATE = 1e-5


def tokens(options: argparse.Namespace, tokenizer: Any) -> list[tuple[list[int], list[int]]]:
    """(prompt, answer) of every row that is learnt from, in order."""
    found = rows(options.data, options.rows * (options.steps + 1))
    asked = prompts(tokenizer, [row["question"] for row in found])
    answers = [list(tokenizer(row["answer"], add_special_tokens=False).input_ids) for row in found]
    return [(p, [*a, tokenizer.eos_token_id]) for p, a in zip(asked, answers, strict=True)]


def trl_steps(options: argparse.Namespace) -> Result:
    """In a worker: TRL's trainer for some steps."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    _, precision, size = options.worker.split("-")
    each = min(int(size), options.rows)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    pairs = tokens(options, tokenizer)
    dataset = Dataset.from_list([{"input_ids": p + a, "labels": [-100] * len(p) + a} for p, a in pairs])
    marks: list[float] = []

    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            max_length=None,
            bf16=precision == "bf16",
            gradient_checkpointing=False,
            **plain_training(RATE, options.steps + 1, options.rows, each),
        )
        trainer = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32),
            processing_class=tokenizer,
            args=config,
            train_dataset=dataset,
            callbacks=[marking(TrainerCallback, time.perf_counter, marks)],
        )
        trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return result(options, pairs, losses, marks)


def upslope_steps(options: argparse.Namespace) -> Result:
    """In a worker: the learner that a run has, on the same tokens."""
    from transformers import AutoTokenizer

    from upslope.types import Group, Problem, Rollout, Score

    pairs = tokens(options, AutoTokenizer.from_pretrained(options.model))

    def groups_of(_: Any, step: int) -> list[Group]:
        groups = []
        for row, (prompt, answer) in enumerate(pairs[step * options.rows : (step + 1) * options.rows]):
            mask = (True,) * len(answer)
            shown = Rollout(str(row), 0, tuple(prompt), tuple(answer), mask, None, 0, "stop", "", Score(1.0))
            groups.append(Group(Problem(str(row), ()), (shown,)))
        return groups

    dtype = options.worker.partition("-")[2]
    _, losses, marks = learner_steps(options.model, "sft", dtype, RATE, options.steps + 1, groups_of, time.perf_counter)
    return result(options, pairs, losses, marks)


def result(
    options: argparse.Namespace, pairs: list[tuple[list[int], list[int]]], losses: list[float], marks: list[float]
) -> Result:
    """Losses of all steps, and the best tokens a second of those after the first."""
    counts = [
        sum(len(p) + len(a) for p, a in pairs[step * options.rows : (step + 1) * options.rows])
        for step in range(options.steps + 1)
    ]
    rates = [count / (after - before) for count, (before, after) in zip(counts, pairwise(marks), strict=True)]
    return {"losses": losses, "rates": rates, "tokens_per_s": max(rates[1:] or rates), "peak_gb": peak_gb()}


def line(found: Result) -> str:
    losses = " ".join(f"{loss:.6f}" for loss in found["losses"])
    rates = " ".join(f"{rate:.1f}" for rate in found["rates"])
    return f"losses {losses}; {rates} tokens/s; peak {found['peak_gb']:.2f} GB"


def side(name: str, options: argparse.Namespace) -> Measure:
    if not re.fullmatch(r"trl-(fp32|bf16)-[1-9]\d*|upslope-(float32|bfloat16)", name):
        raise SystemExit(f"{name!r} is neither trl-fp32-ROWS, trl-bf16-ROWS nor upslope-float32, -bfloat16")
    size = name.rpartition("-")[2]
    if name.startswith("trl") and options.rows % min(int(size), options.rows):
        raise SystemExit(f"{name}: {size} rows do not divide the {options.rows} of a step")
    python = options.trl_python if name.startswith("trl") else sys.executable
    words = [options.model, options.data, "--rows", str(options.rows), "--steps", str(options.steps)]
    return worker(__file__, name, words, python=python, threads=options.threads)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--settings", default=SETTINGS, help=f"separated by commas (default {SETTINGS})")
    arguments.add_argument("--rows", type=int, default=16, help="demonstrations a step (default 16)")
    arguments.add_argument("--steps", type=int, default=2, help="of every run, after one that warms up (default 2)")
    arguments.add_argument("--trl-python", default=sys.executable, help="the interpreter of an environment with TRL")
    options = arguments.parse_args()
    if options.worker:
        tell(trl_steps(options) if options.worker.startswith("trl") else upslope_steps(options))
        return
    sides = {name: side(name, options) for name in options.settings.split(",")}
    show_ceilings(options.threads)
    found = take_turns(sides, options.rounds, line)
    own = next(reversed(found))
    show_gaps(found)
    compare(found, "tokens_per_s", "tokens/s", against=own)
    compare(found, "peak_gb", "GB", against=own, least=True)


if __name__ == "__main__":
    main()
