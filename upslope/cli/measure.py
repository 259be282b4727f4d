"""``upslope eval``, ``score`` and ``bench``: how good a model is, what a reward says, what a step costs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from upslope.cli.options import (
    Data,
    Dtype,
    EnvironmentSpec,
    EvalData,
    MaxTokens,
    ModelName,
    Overrides,
    RewardSpecs,
    RewardWeights,
    Seed,
    TaskName,
    TextSources,
    ToolSpecs,
    Trust,
    app,
)
from upslope.errors import UserError
from upslope.model.names import folder_and_best, is_pocket


@app.command(name="eval")
def evaluate_model(
    model: ModelName,
    overrides: Overrides = None,
    task: TaskName = None,
    data: Data = None,
    eval_data: EvalData = None,
    reward: RewardSpecs = None,
    reward_weight: RewardWeights = None,
    text: TextSources = None,
    tools: ToolSpecs = None,
    environment: EnvironmentSpec = None,
    samples: Annotated[int, typer.Option(help="Attempts a problem for pass@k; 0: greedy only.")] = 0,
    problems: Annotated[
        int | None,
        typer.Option(min=1, help="At most so many held-out problems.", show_default="all of --data, else 512"),
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Of the sampled attempts.", show_default="1.0")] = None,
    max_tokens: MaxTokens = None,
    seed: Seed = None,
    dtype: Dtype = "auto",
    device: str = "auto",
    trust: Trust = False,
    attempts: Annotated[
        Path | None, typer.Option(help="File for every attempt, a JSON line each; what is there is not made again.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Accuracy on held-out problems: greedy, and pass@k, each with its 95 % interval.

    A run folder is evaluated on its own task, if none is given. A file given as --data is evaluated whole, unless it
    has a split column. An attempt is right if its reward is at least 1; task.right, or =right behind a --reward, say
    otherwise.
    Any setting can be given as KEY=VALUE, such as task.options.calculator=true. Stopped, the same command continues
    with --attempts FILE; upslope score reads that file.

    With --text, and of a run that read text alone: how well the text is predicted, in nats a token and bits per byte.
    All documents of --text count, and those of a run that it held out.
    """
    from upslope.config import load_settings
    from upslope.inspect.data_stream import prints_aside
    from upslope.lab.evaluation import SPEAKING, evaluate_command
    from upslope.lab.predicting import EVERY, HELD_OUT, predict_command
    from upslope.training.settings import MOST_ATTEMPTS
    from upslope.training.tables import task_options

    given = {"sample.max_tokens": max_tokens, "seed": seed}
    options = task_options(task, data, eval_data, reward, reward_weight, text, tools, environment)
    whole = data is not None or any(o.partition("=")[0].strip() == "task.data" for o in overrides or ())
    options |= {k: v for k, v in given.items() if v is not None} | {
        "model": model,
        "device": device,
        "learn.dtype": dtype,
        "eval.problems": problems or (MOST_ATTEMPTS if whole else 512),
        "eval.samples": samples,
        "eval.temperature": 1.0 if temperature is None else temperature,
    }
    require_read("eval", overrides, SPEAKING, held_out=True)
    named = task is not None or data is not None or bool(reward)
    by_itself = "--text is evaluated by itself; give it without --task, --data and --reward"
    if text and (named or eval_data is not None or reward_weight):
        raise UserError(by_itself)
    settings = load_settings(None if named or text else own_task(model, trust=trust), overrides or (), options)
    if text and (settings.task.name or settings.task.data):
        raise UserError(by_itself)
    if settings.task.text_alone:
        of_problems = {
            "--attempts": attempts,
            "--samples": samples or None,
            "--problems": problems,
            "--temperature": temperature,
            "--max-tokens": max_tokens,
        }
        for name, value in of_problems.items():
            if value is not None:
                raise UserError(f"{name} is for problems, and text alone has none; leave it out")
        require_read("eval --text" if text else "eval of text", overrides, EVERY if text else HELD_OUT)
        with prints_aside() if as_json else contextlib.nullcontext():
            predict_command(settings, every=bool(text), as_json=as_json)
        return
    note = learnt_from(model, settings.task.data) if whole and settings.task.eval_data is None else ""
    if note:
        print(note, file=sys.stderr)
    with prints_aside() if as_json else contextlib.nullcontext():
        evaluate_command(settings, attempts, whole=whole, as_json=as_json)


def learnt_from(model: str, data: str | None) -> str:
    """A line where a run is evaluated on the very file that it learnt from, of which it held some rows out; else
    empty."""
    from upslope.config import read_toml

    own = folder_and_best(model)[0] / "run.toml"
    task = read_toml(own).get("task", {}) if own.is_file() else {}
    file = task.get("data") if isinstance(task, dict) and not task.get("eval_data") else None
    same = isinstance(file, str) and data and Path(file).is_file() and Path(data).is_file()
    if not (same and Path(str(file)).samefile(str(data))):
        return ""
    return (
        f"{model} learnt from rows of {data}: all of it is evaluated now; without --data, the rows that it held out are"
    )


SCORING = ("name", "data", "eval_data", "columns", "rewards", "reward_weights", "options", "right")
"""The settings of a task that a score depends on,"""
TIMING = ("reward_timeout", "on_timeout", "reward_workers")
"""and how it is come by."""


OF_TRAINING = ("eval.every", "eval.patience", "sample.order", "task.also", "task.weights", "task.text_weights")
"""Settings that only a run can follow, in groups that others read too."""


def own_task(model: str, *, trust: bool) -> Path | None:
    """Where the task stands if none was given: in a run folder; with pocket it is pocket's. Raises UserError if nothing
    says it, or if it names code and was written elsewhere."""
    from upslope.config import read_toml
    from upslope.record.trust import require_trusted

    own = folder_and_best(model)[0] / "run.toml"
    if own.exists():
        require_trusted(own.parent, read_toml(own), trust=trust)
        return own
    if not is_pocket(model):
        raise UserError(f"which task? give --task or --data and --reward; {model} is no run folder that could say")
    return None


def require_read(command: str, overrides: Sequence[str] | None, read: Sequence[str], *, held_out: bool = False) -> None:
    """Raise UserError for a setting that a command would take and ignore; ``held_out``: it looks at no training
    problems."""
    from upslope.training.tables import names

    for override in overrides or ():
        key = override.partition("=")[0].strip()
        if held_out and key == "task.where":
            raise UserError(
                f"{key} chooses training problems, and upslope {command} looks at held-out ones; leave it out"
            )
        if names(OF_TRAINING, key):
            raise UserError(f"upslope {command} learns nothing, so {key} is of no use to it; leave it out")
        if not names(read, key):
            raise UserError(f"upslope {command} does not read {key}; it reads {', '.join(read)}")


@app.command(name="measure")
def measure_problems(
    model: ModelName,
    overrides: Overrides = None,
    task: TaskName = None,
    data: Data = None,
    eval_data: EvalData = None,
    reward: RewardSpecs = None,
    reward_weight: RewardWeights = None,
    to: Annotated[Path, typer.Option(help="The file of rows; continued if it is there.")] = Path("measured.jsonl"),
    samples: Annotated[int, typer.Option(min=1, help="Attempts a problem.")] = 8,
    temperature: Annotated[float, typer.Option(min=0, help="Of the attempts.")] = 1.0,
    max_tokens: MaxTokens = None,
    seed: Seed = None,
    dtype: Dtype = "auto",
    device: str = "auto",
    trust: Trust = False,
) -> None:
    """Measure how often a model solves each training problem.

    The file has a row a problem: the data's own columns, and num_samples, num_right, pass_rate, mean_reward,
    mean_length, cut. It is a data set again: task.where="0 < pass_rate < 0.8" trains where there is something to learn,
    and recipe.sample.kind=learnable begins with what it says. Stopped, the same command continues it.
    """
    from upslope.config import load_settings
    from upslope.lab.measuring import TRYING, measure_command
    from upslope.training.tables import task_options

    options = task_options(task, data, eval_data, reward, reward_weight) | {
        "model": model,
        "device": device,
        "learn.dtype": dtype,
        "eval.samples": samples,
        "eval.temperature": temperature,
    }
    given = {"sample.max_tokens": max_tokens, "seed": seed}
    options |= {k: v for k, v in given.items() if v is not None}
    require_read("measure", overrides, TRYING)
    named = task is not None or data is not None or bool(reward)
    own = None if named else own_task(model, trust=trust)
    measure_command(load_settings(own, overrides or (), options), to)


@app.command(name="score")
def score_responses(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RESPONSES] [KEY=VALUE]...", help="JSON lines with `response`, standard input if none; settings."
        ),
    ] = None,
    task: TaskName = None,
    data: Data = None,
    eval_data: EvalData = None,
    reward: RewardSpecs = None,
    reward_weight: RewardWeights = None,
    seed: int = 0,
) -> None:
    """Score given responses, so that a reward can be examined before a run.

    Each line has `response` and either the `id` of a problem or the data set's own columns. Standard output is the
    same lines with `reward` and `extracted` added; the summary goes to standard error.
    """
    from upslope.config import load_settings
    from upslope.inspect.data_stream import prints_aside
    from upslope.tasks.registry import open_task
    from upslope.tasks.scoring import score_file
    from upslope.training.tables import task_options

    files = [a for a in arguments or [] if "=" not in a]
    if len(files) > 1:
        raise UserError(f"one file of responses at a time, not {' and '.join(files)}")
    overrides = [a for a in arguments or [] if a not in files]
    require_read("score", overrides, [f"task.{name}" for name in (*SCORING, *TIMING)])
    settings = load_settings(None, overrides, task_options(task, data, eval_data, reward, reward_weight)).task
    with prints_aside() as out:
        opened = open_task(
            settings.name or ("user" if reward else None),
            **{name: getattr(settings, name) for name in (*SCORING, *TIMING) if name != "name"},
            seed=seed,
        )
        score_file(opened, Path(files[0]) if files else sys.stdin, out, sys.stderr)


@app.command(name="bench")
def measure_speed(
    model: Annotated[str, typer.Option(help="Directory, hub id, run folder, or pocket[:STAGE].")] = "pocket",
    shape: Annotated[
        str | None, typer.Option(metavar="PxGxL", help="Problems, samples, tokens (64x8x32 for pocket, else 4x8x128).")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="See `upslope recipes`.")] = None,
    task: TaskName = None,
    data: Annotated[str | None, typer.Option(help="Prompts from GSM8K's files (default: built in).")] = None,
    dtype: Dtype = "auto",
    device: str = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads; 0: torch's choice.")] = 0,
    repeat: Annotated[int, typer.Option(min=1, help="Steps measured; every figure is the best of them.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Measure sampling, learning and a whole step on this machine, beside what it can do at most.

    Attempts are exactly L tokens long and every group has a gradient, so that the work is the same everywhere.
    docs/speed.md says what is counted.
    """
    from upslope.config import load_settings
    from upslope.inspect.data_stream import prints_aside
    from upslope.lab.bench.command import bench_command

    given = {
        "recipe": {"name": recipe} if recipe is not None else None,
        "task.name": task or ("gsm8k" if data else None),
        "task.data": data,
    }
    options = {k: v for k, v in given.items() if v is not None} | {
        "model": model,
        "learn.dtype": dtype,
        "device": device,
        "threads": threads,
    }
    with prints_aside() if as_json else contextlib.nullcontext():
        bench_command(load_settings(options=options), shape, repeat, as_json=as_json)
