"""Pretraining: transformers' Trainer and upslope's learner in turn, from the same new Llama, on the same blocks in the
same order. Loss by loss, tokens a second, processor seconds, and the most memory.

    python benchmarks/pretrain_vs_trainer.py OUT --text FILE... [--steps 4] [--rounds 3] [--threads 1]

OUT gets a tokenizer of the text, a new:llama (10.4 million weights), the rows, and ``pretrain_vs_trainer.json``. Both
sides read --rows rows a step. A row is a block, a token and the --length tokens after it, which are predicted, across
documents (``recipe.sample.across``): equal rows are what Trainer is best at. With --apart, a row is a document's piece
of a block, as is upslope's default; Trainer fills its rows up to the longest of a pass. trainer-ROWS is Trainer with so
many rows in a forward pass (gradients are accumulated to the whole step). Both: float32, the fused AdamW with the same
betas, no weight decay, a constant rate, gradients clipped at 1, the mean over the step's tokens as loss. A step ends
with its update; the first one warms up and is not counted in the speed.

Tokens are those predicted. Processor seconds are those of all threads: where others use the machine too they say more
than the clock. The share of the products is tokens a processor second times the FLOP of a token
(``upslope.lab.bench.flops``: six for every weight in a product; attention's own products are left out), over the rate
of square products by the same measure, in the same process right after. Peak memory is that of the whole process,
libraries included.
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
from typing import Any

from common import (
    Measure,
    Result,
    compare,
    learner_steps,
    marking,
    peak_gb,
    plain_training,
    run,
    show_ceilings,
    show_gaps,
    take_turns,
    tell,
    worker,
)

SETTINGS = "trainer-4,trainer-16,upslope"
RATE = 1e-3
Marks = list[tuple[float, float]]
"""The clock and the processor's time at the ends of steps."""


def now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def make(options: argparse.Namespace) -> Result:
    """In a worker: the model and the rows."""
    from upslope.model.load import load
    from upslope.model.new import new_model
    from upslope.model.policy import Policy
    from upslope.model.settings import NewModelSettings
    from upslope.training.blocks import TextBlocks
    from upslope.training.corpora import opened_text
    from upslope.training.task_settings import TaskSettings

    out, words = options.out, options.out / "tokenizer"
    new = NewModelSettings(tokenizer=str(words), layers=options.layers, width=options.width)
    model, tokenizer = new_model("new:llama", new, seed=0)
    for part in (model, tokenizer):
        part.save_pretrained(out / "model")
    model, tokenizer = load(str(out / "model"))
    text = opened_text(TaskSettings(text=tuple(options.text)), model, tokenizer, lambda said: None)
    if text is None:
        raise SystemExit("no text; give --text")
    renderer = Policy(model, tokenizer).renderer
    across = not options.apart
    blocks = TextBlocks(text.corpora, text.weights, 0, length=options.length, across=across, renderer=renderer)
    groups = blocks.take(0, options.rows * (options.steps + 1))  # a block is one row at least
    rows = [rollout.prompt + rollout.response for group in groups for rollout in group.rollouts]
    (out / "rows.json").write_text(json.dumps(rows[: options.rows * (options.steps + 1)]))
    return {"weights": model.num_parameters()}


def rows_of(options: argparse.Namespace) -> list[list[int]]:
    """Token ids of all rows of all steps; the first of a row is not predicted."""
    found: list[list[int]] = json.loads((options.out / "rows.json").read_text())
    return found


def trainer_steps(options: argparse.Namespace) -> Result:
    """In a worker: Trainer for some steps."""
    import torch
    import transformers as hf

    each = int(options.worker.partition("-")[2])
    rows = [{"input_ids": row, "labels": row} for row in rows_of(options)]
    marks: Marks = []

    with tempfile.TemporaryDirectory() as folder:
        config = hf.TrainingArguments(output_dir=folder, **plain_training(RATE, options.steps + 1, options.rows, each))
        model = hf.AutoModelForCausalLM.from_pretrained(options.out / "model", dtype=torch.float32)
        filled = hf.DataCollatorForSeq2Seq(hf.AutoTokenizer.from_pretrained(options.out / "model"))
        marked = marking(hf.TrainerCallback, now, marks)
        trainer = hf.Trainer(model=model, args=config, train_dataset=rows, data_collator=filled, callbacks=[marked])
        trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return result(options, model, losses, marks)


def upslope_steps(options: argparse.Namespace) -> Result:
    """In a worker: the learner that a run has, on the same tokens; making rollouts of them is part of a step."""
    from upslope.training.blocks import as_group

    rows = rows_of(options)

    def groups_of(policy: Any, step: int) -> list[Any]:
        groups = []
        for number in range(step * options.rows, (step + 1) * options.rows):
            ids = tuple(rows[number])
            groups.append(as_group(f"row/{number}", [(ids[:1], ids[1:])], policy.renderer.end_ids))
        return groups

    model, losses, marks = learner_steps(
        str(options.out / "model"), "pretrain", "float32", RATE, options.steps + 1, groups_of, now
    )
    return result(options, model, losses, marks)


def result(options: argparse.Namespace, model: Any, losses: list[float], marks: Marks) -> Result:
    """Losses of all steps, and the figures of those after the first."""
    peak = peak_gb()
    import torch

    from upslope.lab.bench.flops import learning_flop

    rows, num = rows_of(options), options.rows
    tokens = [sum(len(row) - 1 for row in rows[i : i + num]) for i in range(0, len(rows), num)]
    taken = [(after[0] - before[0], after[1] - before[1]) for before, after in pairwise(marks)]
    rates = [count / clock for count, (clock, _) in zip(tokens, taken, strict=True)]
    worked = [count / processor for count, (_, processor) in zip(tokens, taken, strict=True)]
    gflops = product_rate()
    return {
        "losses": losses,
        "tokens": tokens,
        "rates": rates,
        "processor_s": [processor for _, processor in taken],
        "tokens_per_s": max(rates[1:]),
        "tokens_per_processor_s": max(worked[1:]),
        "share_of_ceiling": max(worked[1:]) * learning_flop(model) / (gflops * 1e9),
        "gflops_per_processor_s": gflops,
        "peak_gb": peak,
        "threads": torch.get_num_threads(),
    }


def product_rate() -> float:
    """GFLOP of square float32 products a processor second, the best of some tries."""
    import torch

    from upslope.lab.bench.ceiling import SIDE, TRIES

    a, b = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    spent = []
    for _ in range(TRIES + 1):
        begin = time.process_time()
        torch.mm(a, b)
        spent.append(time.process_time() - begin)
    return 2 * SIDE**3 / min(spent) / 1e9


def line(found: Result) -> str:
    rates = " ".join(f"{rate:,.0f}" for rate in found["rates"])
    worked = " ".join(f"{seconds:.2f}" for seconds in found["processor_s"])
    share = f"{found['share_of_ceiling']:.0%} of {found['gflops_per_processor_s']:.0f} GFLOP"
    return f"{rates} tokens/s; processor {worked} s: {share} a second; peak {found['peak_gb']:.2f} GB"


def side(name: str, options: argparse.Namespace) -> Measure:
    if not re.fullmatch(r"trainer-[1-9]\d*|upslope", name):
        raise SystemExit(f"{name!r} is neither trainer-ROWS nor upslope")
    if name.startswith("trainer") and options.rows % int(name.partition("-")[2]):
        raise SystemExit(f"{name}: these rows do not divide the {options.rows} of a step")
    words = [str(options.out), "--steps", str(options.steps), "--rows", str(options.rows)]
    return worker(__file__, name, words, threads=options.threads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--text", action="append", default=[], help="as upslope's --text; repeatable")
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--rows", type=int, default=16, help="a step (default 16)")
    parser.add_argument("--length", type=int, default=255, help="tokens that a block predicts (default 255)")
    parser.add_argument("--apart", action="store_true", help="rows are documents' pieces of blocks")
    parser.add_argument("--steps", type=int, default=4, help="of every run, after one that warms up (default 4)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of every side, in turn (default 3)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of every side; 0: what each one chooses")
    parser.add_argument("--settings", default=SETTINGS, help=f"separated by commas (default {SETTINGS})")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work = {"make": make, "upslope": upslope_steps}.get(options.worker, trainer_steps)
        tell(work(options))
        return
    sides = {name: side(name, options) for name in options.settings.split(",")}
    options.out.mkdir(parents=True, exist_ok=True)
    if not (options.out / "tokenizer" / "tokenizer.json").exists():
        words = [*options.text, "--vocab", str(options.vocab), "-o", str(options.out / "tokenizer")]
        own = str(Path(__file__).resolve().parent.parent)
        run([sys.executable, "-m", "upslope.cli", "tokenizer", *words], env={"PYTHONPATH": own})
    made = worker(__file__, "make", sys.argv[1:], threads=options.threads)()
    print(f"new:llama of {made['weights']:,} weights; {options.rows} rows of at most {options.length} tokens a step")
    show_ceilings(options.threads)
    results = take_turns(sides, options.rounds, line)
    own = next(reversed(results))
    show_gaps(results, ".4f")
    compare(results, "tokens_per_s", "tokens/s", against=own)
    compare(results, "tokens_per_processor_s", "tokens/processor second", against=own)
    compare(results, "peak_gb", "GB", against=own, least=True)
    (options.out / "pretrain_vs_trainer.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
