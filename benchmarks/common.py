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


BETAS, CLIP = (0.9, 0.99), 1.0
"""AdamW's, and the largest gradient norm, on both sides of a comparison of imitation."""


def plain_training(rate: float, steps: int, rows: int, each: int) -> dict[str, Any]:
    """What Trainers of transformers and of TRL are told, so that a step is what upslope's learner does at a
    constant rate: ``steps`` of ``rows`` rows in their order, ``each`` of them in a forward pass, on the CPU."""
    return {
        "per_device_train_batch_size": each,
        "gradient_accumulation_steps": rows // each,
        "max_steps": steps,
        "learning_rate": rate,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused",
        "adam_beta1": BETAS[0],
        "adam_beta2": BETAS[1],
        "weight_decay": 0.0,
        "max_grad_norm": CLIP,
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "report_to": [],
        "use_cpu": True,
        "save_strategy": "no",
        "disable_tqdm": True,
    }


def marking(callback: type, now: Callable[[], Any], marks: list[Any]) -> Any:
    """A Trainer's ``callback`` that notes when the first step begins and when each ends."""

    class Watch(callback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if not marks:
                marks.append(now())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append(now())

    return Watch()


def learner_steps(
    model: str,
    recipe_name: str,
    dtype: str,
    rate: float,
    steps: int,
    groups_of: Callable[[Any, int], list[Any]],
    now: Callable[[], Any],
) -> tuple[Any, list[float], list[Any]]:
    """The learner that a run of upslope has, on the groups that ``groups_of`` makes of policy and step, which is part
    of a step: the model, the losses, and when the first step began and each ended."""
    import torch

    from upslope.algo.family import FAMILY
    from upslope.algo.objective import Objective
    from upslope.learn.build import build_learner
    from upslope.learn.prepare import passes
    from upslope.learn.settings import LearnSettings
    from upslope.model.load import load
    from upslope.model.policy import Policy
    from upslope.rollout.address import Address
    from upslope.training.memory import Keeper, bound_kernel_caches, keep_freed_memory
    from upslope.training.session import repeat_bits
    from upslope.types import Sampling

    keep_freed_memory()  # as the command does
    bound_kernel_caches()
    repeat_bits()
    policy = Policy(*load(model))
    recipe = FAMILY[recipe_name].recipe
    settings = LearnSettings(lr=rate, warmup=0, beta1=BETAS[0], beta2=BETAS[1], clip=CLIP)
    learner = build_learner(
        policy, recipe, settings, sampling=Sampling(), num_updates=steps, dtype=getattr(torch, dtype)
    )
    keeper = Keeper()
    learner.watch = lambda done, total: keeper.check("micro-batch")
    objective, losses, marks = Objective(recipe), [], [now()]
    for step in range(steps):
        batch = learner.prepare(recipe, groups_of(policy, step))
        for part in passes(batch, recipe, Address(0, recipe_name, step)):
            losses.append(recipe.update(learner, objective, part).stats["loss"])
        marks.append(now())
    return policy.model, losses, marks


def show_gaps(found: Mapping[str, Sequence[Result]], spell: str = "") -> None:
    """How far each side's losses are from the first one's; ``spell``: a format in which they are said as well."""
    first = next(iter(found))
    for name, results in found.items():
        losses = results[0]["losses"]
        gaps = [abs(a - b) for a, b in zip(losses, found[first][0]["losses"], strict=True)]
        said = f"{' '.join(format(loss, spell) for loss in losses)}; " if spell else ""
        print(f"  losses   {name:<28} {said}differ from {first}'s by {max(gaps):.1e} at most")


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
