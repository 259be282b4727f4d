"""What the comparisons share: a process for every measurement, the same prompts for all sides, ceilings, and the
printing. Only the standard library is imported here, so that a peer's own interpreter can run a script's worker.

A script that compares measures one side in a process of its own (``python SCRIPT --worker SIDE ...``), which prints one
JSON object as its last line. The sides take turns, and the best of each is compared.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

QUIET = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
Result = dict[str, Any]
Measure = Callable[[], Result]


def parser(doc: str | None, *, shape: str | None = None) -> argparse.ArgumentParser:
    """Of a script that takes a model and questions, and perhaps a shape."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("model", help="a Hugging Face directory")
    made.add_argument("data", help="JSON lines with `question` and `answer`, as GSM8K's train.jsonl")
    if shape is not None:
        made.add_argument("shape", nargs="?", default=shape, help=f"problems x samples x tokens (default {shape})")
    made.add_argument("--rounds", type=int, default=3, help="measurements of every side, in turn (default 3)")
    made.add_argument("--threads", type=int, default=0, help="CPU threads of every side; 0: what each one chooses")
    made.add_argument("--worker", help=argparse.SUPPRESS)
    return made


def sizes(text: str) -> tuple[int, int, int]:
    """Problems, samples and tokens.

    >>> sizes("4x8x128")
    (4, 8, 128)
    """
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)x([1-9]\d*)", text)
    if found is None:
        sys.exit(f"{text!r} is not of the form PxGxL, for example 4x8x128")
    problems, samples, tokens = map(int, found.groups())
    return problems, samples, tokens


def rows(data: str, num: int) -> list[dict[str, Any]]:
    """The first rows of the data."""
    found = [json.loads(line) for line in Path(data).read_text(encoding="utf-8").splitlines()[:num]]
    if len(found) < num:
        sys.exit(f"{data} has {len(found)} rows, not {num}")
    return found


def prompts(tokenizer: Any, questions: Sequence[str]) -> list[list[int]]:
    """Token ids of the questions as chats, up to where the assistant begins."""
    chats = [[{"role": "user", "content": question}] for question in questions]
    texts = [tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) for chat in chats]
    return [list(tokenizer(text, add_special_tokens=False).input_ids) for text in texts]


def noisy_reward(completions: Sequence[Any], answer: Sequence[str], **_: Any) -> list[float]:
    """1 for the right last number, and a hundredth for every different character: hardly a group is without a
    gradient, so that all sides do the same work at every step."""
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    last = [(re.findall(r"-?\d+", text) or [None])[-1] for text in texts]
    return [
        float(found == truth) + 0.01 * len(set(text)) for text, found, truth in zip(texts, last, answer, strict=True)
    ]


def peak_gb() -> float:
    """The most memory this process has held, in 10^9 bytes."""
    units = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * units / 1e9


def tell(result: Result) -> None:
    """A worker's last word."""
    print(json.dumps(result), flush=True)


def run(
    command: Sequence[str], *, threads: int = 0, env: Mapping[str, str] | None = None, cwd: str | None = None
) -> str:
    """Standard output of a command in a process of its own; its errors are shown if it fails."""
    fixed = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    with tempfile.TemporaryFile("w+") as errors:
        whole = os.environ | QUIET | fixed | dict(env or {})
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=whole, cwd=cwd)
        if done.returncode:
            errors.seek(0)
            sys.exit(f"{' '.join(command)}\nfailed:\n{errors.read()[-4000:]}")
    return done.stdout


def run_json(command: Sequence[str], **how: Any) -> Result:
    """The object that a command prints on its last line; libraries may have written before."""
    found: Result = json.loads(run(command, **how).strip().splitlines()[-1])
    return found


def worker(script: str, side: str, words: Sequence[str], *, python: str = sys.executable, threads: int = 0) -> Measure:
    """How to measure one side: this script again, as a worker, by the interpreter that has that side installed."""
    own = str(Path(__file__).resolve().parent.parent)  # this checkout, wherever the script is called from
    path = os.pathsep.join(filter(None, (own, os.environ.get("PYTHONPATH")))) if python == sys.executable else ""
    command = [python, str(Path(script).resolve()), *words, "--worker", side]
    return lambda: run_json(command, threads=threads, env={"PYTHONPATH": path})


def show_ceilings(threads: int = 0) -> None:
    """What the machine can do at most, measured now."""
    code = (
        "import json, torch; from upslope.lab.bench.ceiling import measure_ceiling;"
        "from upslope.lab.bench.figures import ceiling_figures, machine_figures;"
        "cpu = torch.device('cpu'); found = measure_ceiling(cpu, (torch.float32, torch.bfloat16));"
        "print(json.dumps(machine_figures(cpu, torch.float32) | ceiling_figures(found)))"
    )
    own = str(Path(__file__).resolve().parent.parent)
    found = run_json([sys.executable, "-c", code], threads=threads, env={"PYTHONPATH": own})
    print(
        f"{found['cpu']}, {found['threads']} threads, torch {found['torch']}: products {found['gflops_fp32']:.0f} "
        f"GFLOP/s in fp32, {found['gflops_bf16']:.0f} in bf16; memory {found['memory_gb_per_s']:.1f} GB/s",
        flush=True,
    )


def take_turns(sides: Mapping[str, Measure], num_rounds: int, line: Callable[[Result], str]) -> dict[str, list[Result]]:
    """Measure all sides once, then all again, and so on; every result is printed as it comes."""
    found: dict[str, list[Result]] = {name: [] for name in sides}
    for turn in range(num_rounds):
        for name, measure in sides.items():
            found[name].append(measure())
            print(f"  round {turn + 1}  {name:<28} {line(found[name][-1])}", flush=True)
    return found


def compare(found: Mapping[str, Sequence[Result]], key: str, unit: str, *, against: str, least: bool = False) -> None:
    """The best of every side, and its ratio to the best of ``against``: costs (``least``) over costs, or the other
    way round for rates, so that more than 1 always means that ``against`` is better."""
    best = {name: (min if least else max)(r[key] for r in results) for name, results in found.items()}
    for name, value in best.items():
        ratio = value / best[against] if least else best[against] / value
        said = f"{ratio:.2f} times {against}'s" if least else f"{against} has {ratio:.2f} times this"
        print(f"  best     {name:<28} {value:,.4g} {unit}" + ("" if name == against else f"   {said}"), flush=True)
