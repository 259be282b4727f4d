"""Seconds of a GRPO step and the most memory: TRL's trainer and upslope's loop in turn, on the same prompts and reward.

    pip install trl==1.16.0 datasets     # into this environment, or one of its own: --trl-python PATH
    python benchmarks/step.py MODEL_DIR train.jsonl [PxGxL] [--settings trl-bf16-8,trl-bf16-32,upslope-auto]

A setting of TRL's is trl-PRECISION-ROWS: fp32, or bf16 by autocast over float32 weights, and the rows of a forward
pass (``per_device_train_batch_size``; gradients are accumulated to the whole batch). A setting of upslope's is
upslope-DTYPE (``learn.dtype``). Both: group z-score advantages, no penalty, one update a batch, temperature 1, the P
problems of the data's first rows at every step, and a reward with a little noise, so that hardly a group is without
a gradient (``common.noisy_reward``).

Attempts end at the end token on both sides, so their mean length differs by chance: seconds for a generated token are
printed beside seconds a step. A step lasts from the end of one update to the end of the next (upslope: of its line of
the journal), so that nothing a trainer does in between is left out; the first one warms up and is not counted. Peak
memory is that of the whole process up to the last step. Seconds by phase are those of upslope's journal.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

from common import (
    Measure,
    Result,
    compare,
    noisy_reward,
    parser,
    peak_gb,
    rows,
    show_ceilings,
    sizes,
    take_turns,
    tell,
    worker,
)

INSTRUCTION = " Think step by step and finish with '#### <number>'."
SETTINGS = "trl-bf16-8,trl-bf16-32,trl-fp32-8,upslope-auto"
RATE = 1e-6


def problems(data: str, num: int) -> list[dict[str, Any]]:
    """Rows that both sides read: a chat, and the right answer for the reward."""
    return [
        {
            "prompt": [{"role": "user", "content": row["question"] + INSTRUCTION}],
            "answer": row["answer"].split("####")[1].strip(),
            "split": "train",
        }
        for row in rows(data, num)
    ]


def trl_steps(options: argparse.Namespace) -> Result:
    """In a worker: TRL's trainer for some steps."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    _, precision, size = options.worker.split("-")
    num_problems, num_samples, num_tokens = sizes(options.shape)
    num_rows = num_problems * num_samples
    each = min(int(size), num_rows)
    ends: list[float] = []

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=each,
            gradient_accumulation_steps=num_rows // each,
            num_generations=num_samples,
            max_completion_length=num_tokens,
            max_steps=options.steps + 1,
            learning_rate=RATE,
            logging_steps=1,
            report_to=[],
            use_cpu=True,
            bf16=precision == "bf16",
            beta=0.0,
            temperature=1.0,
            gradient_checkpointing=False,
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32),
            processing_class=AutoTokenizer.from_pretrained(options.model),
            reward_funcs=noisy_reward,
            args=config,
            train_dataset=Dataset.from_list(problems(options.data, num_problems)),
            callbacks=[Watch()],
        )
        trainer.train()
    logged = [row["completions/mean_length"] for row in trainer.state.log_history if "completions/mean_length" in row]
    return result(ends, logged, num_rows, peak_gb())


def upslope_steps(options: argparse.Namespace) -> Result:
    """In a worker: a run of upslope's own loop, with its journal and its files of attempts."""
    from upslope.config import load_settings
    from upslope.training.memory import keep_freed_memory
    from upslope.training.start import launch
    from upslope.training.view import NullView

    num_problems, num_samples, num_tokens = sizes(options.shape)
    ends: list[float] = []
    journal: list[Any] = []

    class Watch(NullView):
        def step(self, row: Any) -> None:
            ends.append(time.perf_counter())
            journal.append(row)

    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.jsonl"
        lines = [json.dumps(row) + "\n" for row in problems(options.data, num_problems)]
        data.write_text("".join(lines), encoding="utf-8")
        settings = {
            "recipe": {"name": "grpo"},
            "recipe.regulariser": "no_penalty",
            "recipe.sample.group_size": num_samples,
            "model": options.model,
            "task.name": "user",
            "task.data": str(data),
            "task.rewards": [f"{Path(__file__).resolve().with_name('common.py')}:noisy_reward"],
            "problems": num_problems,
            "steps": options.steps + 1,
            "sample.max_tokens": num_tokens,
            "learn.lr": RATE,
            "learn.dtype": options.worker.partition("-")[2],
            "learn.measure_every": 0,
            "eval.problems": 0,
            "save.every": 0,
            "out": folder,
        }
        keep_freed_memory()  # as the command does
        launch(load_settings(options=settings), Watch)
    rows_after = journal[1:]
    phases = {n: round(mean(r["seconds"].get(n, 0.0) for r in rows_after), 3) for n in rows_after[0]["seconds"]}
    lengths = [row["length"] for row in journal]
    return result(ends, lengths, num_problems * num_samples, journal[-1]["memory_gb"]) | {"phases": phases}


def result(ends: list[float], lengths: list[float], num_rows: int, peak: float) -> Result:
    """Best seconds of a step, from the end of one to the end of the next, and of a generated token."""
    seconds = [after - before for before, after in pairwise(ends)]
    each = [s / (num_rows * length) for s, length in zip(seconds, lengths[1:], strict=True)]
    return {
        "seconds": min(seconds),
        "all": seconds,
        "ms_per_token": 1000 * min(each),
        "length": mean(lengths[1:]),
        "peak_gb": peak,
    }


def line(found: Result) -> str:
    times = ", ".join(f"{s:.2f}" for s in found["all"])
    phases = "  ".join(f"{name} {seconds}" for name, seconds in found.get("phases", {}).items())
    return (
        f"steps {times} s; {found['ms_per_token']:.2f} ms a token; mean length {found['length']:.1f}; "
        f"peak {found['peak_gb']:.2f} GB  {phases}"
    )


def side(name: str, options: argparse.Namespace) -> Measure:
    if not re.fullmatch(r"trl-(fp32|bf16)-[1-9]\d*|upslope-(auto|float32|bfloat16)", name):
        raise SystemExit(f"{name!r} is neither trl-fp32-ROWS, trl-bf16-ROWS nor upslope-auto, -float32, -bfloat16")
    num_problems, num_samples, _ = sizes(options.shape)
    num_rows, size = num_problems * num_samples, name.rpartition("-")[2]
    if name.startswith("trl") and num_rows % min(int(size), num_rows):
        raise SystemExit(f"{name}: {size} rows do not divide the {num_rows} of the shape")
    python = options.trl_python if name.startswith("trl") else sys.executable
    words = [options.model, options.data, options.shape, "--steps", str(options.steps)]
    return worker(__file__, name, words, python=python, threads=options.threads)


def main() -> None:
    arguments = parser(__doc__, shape="4x8x128")
    arguments.add_argument("--settings", default=SETTINGS, help=f"separated by commas (default {SETTINGS})")
    arguments.add_argument("--steps", type=int, default=2, help="of every run, after one that warms up (default 2)")
    arguments.add_argument("--trl-python", default=sys.executable, help="the interpreter of an environment with TRL")
    options = arguments.parse_args()
    if options.worker:
        tell(trl_steps(options) if options.worker.startswith("trl") else upslope_steps(options))
        return
    names = options.settings.split(",")
    sides = {name: side(name, options) for name in names}
    print(f"\nGRPO step, at most {options.shape} tokens, {options.model}")
    show_ceilings(options.threads)
    found = take_turns(sides, options.rounds, line)
    for against in [name for name in names if name.startswith("upslope")][:1]:
        compare(found, "seconds", "s a step", against=against, least=True)
        compare(found, "ms_per_token", "ms a generated token", against=against, least=True)
        compare(found, "peak_gb", "GB at most", against=against, least=True)


if __name__ == "__main__":
    main()
