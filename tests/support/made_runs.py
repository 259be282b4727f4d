"""Run folders made of nothing: as large as a test wants them, with every column there is."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import tomli_w

from upslope.record.attempts import EVAL_SCHEMA, STEP_SCHEMA, write
from upslope.record.journal import JOURNAL, plain

SETTINGS: dict[str, Any] = {
    "name": "made",
    "seed": 0,
    "model": "models/small",
    "steps": 100,
    "recipe": {"name": "grpo", "regulariser": {"kind": "no_penalty"}, "reuse": {"kind": "reuse", "epochs": 1}},
    "task": {"name": "gsm8k"},
    "sample": {"temperature": 1.0, "max_tokens": 64},
    "learn": {"dtype": "float32", "lr": 1e-4, "clip": 1.0},
}


def healthy(step: int, steps: int) -> dict[str, Any]:
    """A line of a run that goes well: the reward rises, the rest is as it should be."""
    share = step / max(steps - 1, 1)
    return {
        "reward": 0.2 + 0.5 * share + 0.02 * math.sin(step),
        "accuracy": 0.2 + 0.5 * share,
        "length": 20 - 2 * share,
        "truncated": 0.02,
        "equal_groups": 0.3,
        "num_rollouts": 64,
        "num_tokens": 1280,
        "loss": 0.01,
        "grad_norm": 0.5,
        "lr": 1e-4,
        "entropy": 1.0 - 0.4 * share,
        "logp_gap_mean": 1e-6,
        "kl_step": 0.004,
        "ratio_max": 1.5,
        "tokens_per_s": 900.0,
        "seconds": {"sample": 1.0, "update": 0.5},
        "spent": 1.5 * (step + 1),
    }


def made_run(
    folder: Path,
    steps: int = 20,
    *,
    settings: Mapping[str, Any] | None = None,
    rows: Mapping[str, Any] | None = None,
    problems: int = 4,
    samples: int = 4,
    tokens: int = 12,
    attempts: bool = True,
    words: str = "so 3 + 4 = 7",
    **columns: Any,
) -> Path:
    """A run of ``steps`` steps with attempts and two evaluations. ``rows``: what every line says otherwise (a function
    of the step, or a value); ``columns``: what every attempt says otherwise."""
    (folder / "rollouts").mkdir(parents=True)
    told = SETTINGS | {"name": folder.name, "steps": steps} | dict(settings or {})
    (folder / "run.toml").write_bytes(tomli_w.dumps(told).encode())
    lines = [evaluation(0, 0.2)]
    for step in range(steps):
        line = {"kind": "step", "step": step} | healthy(step, steps)
        for key, value in (rows or {}).items():
            line[key] = value(step) if callable(value) else value
        lines.append(plain(line))
        if attempts:
            table = made_attempts(step, problems, samples, tokens, words, **columns)
            write(folder / "rollouts" / f"step-{step:06d}.parquet", table)
    lines.append(evaluation(steps, 0.7))
    (folder / JOURNAL).write_text("".join(json.dumps(line) + "\n" for line in lines))
    if attempts:
        for step in (0, steps):
            rows_of = made_attempts(step, problems, 1, tokens, words).select(EVAL_SCHEMA.names)
            write(folder / "rollouts" / f"eval-{step:06d}.parquet", rows_of)
    return folder


def evaluation(step: int, value: float) -> dict[str, Any]:
    greedy = {"value": value, "low": value - 0.05, "high": value + 0.05, "num_problems": 128}
    return {"kind": "eval", "step": step, "greedy": greedy, "seconds": 2.0}


def made_attempts(step: int, problems: int, samples: int, tokens: int, words: str, **columns: Any) -> pa.Table:
    """A step's attempts: of every problem the first sample is right, of every fourth problem all of them are."""
    rows = []
    for problem in range(problems):
        for sample in range(samples):
            number = problem * samples + sample
            reward = float(sample == 0 or problem % 4 == 3)
            pieces = [f" w{(number * 7 + place * 13 + step) % 97}" for place in range(tokens)]
            numbers = [math.sin(number + place + step) for place in range(tokens)]
            row = {
                "problem": f"p{problem + step * problems}" if problem else "p-again",
                "sample": sample,
                "prompt_text": f"What is {problem} + {step}?",
                "response_text": f"{words} in attempt {number} of step {step}" + "".join(pieces),
                "prompt": [1, 2, 3],
                "response": list(range(tokens)),
                "prompt_pieces": ["What", " is", f" {problem}?"],
                "response_pieces": pieces,
                "mask": [place % 6 != 5 for place in range(tokens)],
                "version": step,
                "ended": "stop" if number % 5 else "length",
                "reward": reward,
                "extracted": str(number),
                "kept": True,
                "advantage": [reward - 0.5] * tokens,
                "sampler_logp": [-abs(value) for value in numbers],
                "learner_logp": [-abs(value) - 1e-6 for value in numbers],
                "entropy": [abs(value) for value in numbers],
                "ratio": [1.0 + 0.1 * value for value in numbers],
                "clipped": [value > 0.9 for value in numbers],
                "reference_logp": [-abs(value) - 0.1 for value in numbers],
                "push": [0.01 * value for value in numbers],
                "weight": [1 / 64] * tokens,
                "after_logp": [-abs(value) + 0.01 * value for value in numbers],
                "top_tokens": [[place, place + 1] for place in range(tokens)],
                "top_pieces": [[pieces[place], " other"] for place in range(tokens)],
                "top_logp": [[-0.1, -2.0]] * tokens,
            }
            row |= {key: value(number) if callable(value) else value for key, value in columns.items()}
            rows.append({"right": row["reward"] is not None and row["reward"] >= 1} | row)
    arrays = [pa.array([row.get(field.name) for row in rows], type=field.type) for field in STEP_SCHEMA]
    return pa.Table.from_arrays(arrays, schema=STEP_SCHEMA)
