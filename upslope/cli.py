"""The command line; what each command does is said in its own docstring."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from upslope import __version__
from upslope.errors import Stopped, UserError
from upslope.native.threads import ask_for_same_bits
from upslope.tasks.builtin import tasks_help

app = typer.Typer(
    help="Train language models by reinforcement learning with rewards that can be checked.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)

TaskName = Annotated[str | None, typer.Option("--task", help=tasks_help())]
Data = Annotated[str | None, typer.Option(help="Folder with train.* and test.*, or one file: JSONL, CSV, Parquet ...")]
EvalData = Annotated[str | None, typer.Option(help="File of held-out problems.")]
Rewards = Annotated[list[str] | None, typer.Option("--reward", help="FILE.py:FUNCTION; repeat for several.")]
Weights = Annotated[list[float] | None, typer.Option("--reward-weight", help="One for each --reward.")]


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        print(f"upslope {__version__}")
        raise typer.Exit


@app.command()
def train(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN.toml] [KEY=VALUE]...", help="A run file, and overrides.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="See `upslope recipes`.")] = None,
    task: TaskName = None,
    data: Data = None,
    eval_data: EvalData = None,
    reward: Rewards = None,
    reward_weight: Weights = None,
    model: Annotated[str | None, typer.Option(help="Directory, hub id, run folder, or pocket[:STAGE].")] = None,
    steps: Annotated[int | None, typer.Option(help="Turns of the loop.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Stop after this much training time.")] = None,
    seed: Annotated[int | None, typer.Option(help="Every random draw is a function of it.")] = None,
    name: Annotated[str | None, typer.Option(help="The run's folder under --out.")] = None,
    out: Annotated[str | None, typer.Option(help="Where runs go (default: runs).")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue this run folder; takes no other setting.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of the live view.")] = False,
) -> None:
    """Train. Without arguments: the pocket model on pocket word problems, by reinforcement learning.

    Any setting can be given as KEY=VALUE with a dotted key, such as learn.lr=1e-4 or recipe.sample.group_size=16;
    every setting with its meaning is in docs/settings.md and in a run's run.toml.
    """
    from upslope.config import load_settings
    from upslope.inspect.report import print_before_after, summary_lines, write_report
    from upslope.inspect.terminal import TerminalView
    from upslope.training.memory import keep_freed_memory
    from upslope.training.start import launch

    given = {
        "recipe": {"name": recipe} if recipe else None,
        "task.name": task,
        "task.data": data,
        "task.eval_data": eval_data,
        "task.rewards": reward or None,
        "task.reward_weights": reward_weight or None,
        "model": model,
        "steps": steps,
        "minutes": minutes,
        "seed": seed,
        "name": name,
        "out": out,
    }
    options = {k: v for k, v in given.items() if v is not None}
    if resume is not None:
        if options or arguments:
            raise UserError("--resume continues a run with its own run.toml and takes no other setting")
        resume = resume if resume.name else resume.resolve()  # --resume . inside a run folder
        settings = replace(load_settings(resume / "run.toml"), out=str(resume.parent), name=resume.name)
    else:
        files = [a for a in arguments or [] if a.endswith(".toml") and "=" not in a]
        if len(files) > 1:
            raise UserError(f"one run file at a time, not {' and '.join(files)}")
        overrides = [a for a in arguments or [] if a not in files]
        settings = load_settings(Path(files[0]) if files else None, overrides, options)
    keep_freed_memory()
    console = Console()
    try:
        folder = launch(settings, lambda: TerminalView(console, plain=plain or None), resume=resume is not None)
    except KeyboardInterrupt:
        print("upslope: stopped at once; the newest checkpoint is kept", file=sys.stderr)
        raise typer.Exit(130) from None
    write_report(folder)
    print_before_after(console, folder)
    for line in summary_lines(folder):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


@app.command(name="eval")
def evaluate_model(
    model: Annotated[str, typer.Argument(help="Directory, hub id, run folder, or pocket[:STAGE].")],
    task: TaskName = None,
    data: Data = None,
    eval_data: EvalData = None,
    reward: Rewards = None,
    reward_weight: Weights = None,
    samples: Annotated[int, typer.Option(help="Attempts a problem for pass@k; 0: greedy only.")] = 0,
    problems: Annotated[int, typer.Option(min=1, help="At most so many held-out problems.")] = 512,
    temperature: Annotated[float, typer.Option(help="Of the sampled attempts.")] = 1.0,
    max_tokens: Annotated[int | None, typer.Option(help="Longest attempt (the run's own, else the task's).")] = None,
    seed: Annotated[int | None, typer.Option(help="Of draws and pocket's problems (the run's own, else 0).")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    device: str = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Accuracy on held-out problems: greedy, and pass@k, each with its 95 % interval.

    A run folder is evaluated on its own task, if none is given. An attempt is right if its reward is at least 1.
    """
    from upslope.config import load_settings
    from upslope.evaluation import evaluate_command

    given = {
        "task.name": task,
        "task.data": data,
        "task.eval_data": eval_data,
        "task.rewards": reward or None,
        "task.reward_weights": reward_weight or None,
        "sample.max_tokens": max_tokens,
        "seed": seed,
    }
    options = {k: v for k, v in given.items() if v is not None} | {
        "model": model,
        "device": device,
        "learn.dtype": dtype,
        "eval.problems": problems,
        "eval.samples": samples,
        "eval.temperature": temperature,
    }
    own = Path(model) / "run.toml"  # a run is evaluated on its own task, unless another is given
    if task is None and data is None and reward is None:
        if not own.exists() and model.partition(":")[0] != "pocket":
            raise UserError(f"which task? give --task or --data and --reward; {model} is no run folder that could say")
        settings = load_settings(own if own.exists() else None, options=options)
    else:
        settings = load_settings(options=options)
    evaluate_command(settings, as_json=as_json)


@app.command()
def score(
    responses: Annotated[
        Path | None, typer.Argument(help="JSON lines with `response`; standard input if none.")
    ] = None,
    task: TaskName = None,
    data: Data = None,
    eval_data: EvalData = None,
    reward: Rewards = None,
    reward_weight: Weights = None,
    seed: int = 0,
) -> None:
    """Score given responses, so that a reward can be examined before a run.

    Each line has `response` and either the `id` of a problem or the data set's own columns. Standard output is the
    same lines with `reward` and `extracted` added; the summary goes to standard error.
    """
    from upslope.tasks.registry import open_task
    from upslope.tasks.scoring import score_file

    opened = open_task(
        task or ("user" if reward else None),
        data=data,
        eval_data=eval_data,
        rewards=tuple(reward or ()),
        reward_weights=tuple(reward_weight or ()),
        seed=seed,
    )
    score_file(opened, responses if responses is not None else sys.stdin, sys.stdout, sys.stderr)


@app.command()
def recipes() -> None:
    """The named recipes with their lineage: each is its parent plus a patch."""
    from upslope.algo.family import FAMILY
    from upslope.algo.recipe import diff

    table = Table("recipe", "patch of", "changes", "cures", box=None, padding=(0, 2, 0, 0))
    for name, branch in FAMILY.items():
        parent = FAMILY[branch.parent].recipe if branch.parent else None
        changed = ", ".join(diff(parent, branch.recipe)) if parent else "(the defaults of every slot)"
        table.add_row(name, branch.parent or "-", changed, branch.cures)
    _wide().print(table)


@app.command()
def diff(first: str, second: str) -> None:
    """The slots in which two recipes (names, or FILE.py:NAME) differ, and nothing else."""
    from upslope.algo.recipe import diff as difference
    from upslope.training.start import resolve_recipe

    table = Table("slot", first, second, box=None, padding=(0, 2, 0, 0))
    for slot, (old, new) in difference(resolve_recipe({"name": first}), resolve_recipe({"name": second})).items():
        table.add_row(slot, old, new)
    _wide().print(table)


def _wide() -> Console:
    """A console that does not fold tables where nobody's screen sets a width."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="A run folder, of a running run too.")]) -> None:
    """Draw report.png from a run folder and print what it shows."""
    from upslope.inspect.report import print_before_after, summary_lines, write_report

    write_report(run)
    console = Console()
    print_before_after(console, run)
    for line in summary_lines(run):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


@app.command()
def prove(
    only: Annotated[list[str] | None, typer.Option(help="A claim's number or name; repeat for several.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list on standard output.")] = False,
) -> None:
    """Check the mathematics by exact enumeration, through the functions that train; exit 1 if a claim fails.

    Tiny policies, every response and every group counted with its exact probability, float64: no sampling error.
    """
    from upslope.prove.command import prove_command

    if not prove_command(only, as_json):
        raise typer.Exit(1)


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="One JSON list on standard output.")] = False) -> None:
    """Look whether this machine has what training needs; exit 1 if something will not work.

    Versions against the allowed ranges, processor and precision, kernels, memory, disk, GPU, hub.
    """
    from upslope.doctor import doctor_command

    if not doctor_command(as_json=as_json):
        raise typer.Exit(1)


@app.command()
def bench(
    model: Annotated[str, typer.Option(help="Directory, hub id, run folder, or pocket[:STAGE].")] = "pocket",
    shape: Annotated[
        str | None, typer.Option(metavar="PxGxL", help="Problems, samples, tokens (64x8x32 for pocket, else 4x8x128).")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="See `upslope recipes`.")] = None,
    task: TaskName = None,
    data: Annotated[str | None, typer.Option(help="Prompts from GSM8K's files (default: built in).")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float64.")] = "auto",
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
    from upslope.lab.bench.command import bench_command

    given = {
        "recipe": {"name": recipe} if recipe else None,
        "task.name": task or ("gsm8k" if data else None),
        "task.data": data,
    }
    options = {k: v for k, v in given.items() if v is not None} | {
        "model": model,
        "learn.dtype": dtype,
        "device": device,
        "threads": threads,
    }
    bench_command(load_settings(options=options), shape, repeat, as_json=as_json)


@app.command()
def ladder(
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="For every run.")] = None,
    task: TaskName = None,
    data: Data = None,
    eval_data: EvalData = None,
    reward: Rewards = None,
    reward_weight: Weights = None,
    model: Annotated[str, typer.Option(help="The start of all: directory, hub id, run folder, pocket.")] = "pocket",
    recipes: Annotated[str | None, typer.Option(help="Names, separated by commas (see `upslope recipes`).")] = None,
    seeds: Annotated[int, typer.Option(help="Runs a recipe.")] = 3,
    tokens: Annotated[int, typer.Option(help="Generated (or imitated) tokens a run.")] = 150_000,
    reuse_tokens: Annotated[int, typer.Option(help="The same for batches reused 1, 4, 16 times; 0: none.")] = 60_000,
    reuse_seeds: Annotated[int, typer.Option(help="Runs of each of those.")] = 1,
    noise_batches: Annotated[int, typer.Option(help="Batches for the gradient's variance; 0: none.")] = 32,
    noise_problems: Annotated[int, typer.Option(help="Problems in each of those.")] = 16,
    lr: Annotated[float | None, typer.Option(help="Learning rate of all (default: the settings').")] = None,
    out: Annotated[Path, typer.Option(help="Where runs, pictures and report.md go.")] = Path("runs/ladder"),
) -> None:
    """Run the family side by side: the same start, the same budget of tokens, several seeds; write one report.

    Runs one after another and takes the better part of an hour on two cores with the defaults; after Ctrl-C the same
    command goes on where it was.
    """
    from upslope.lab.ladder.command import ladder_command
    from upslope.lab.ladder.plan import RECIPES

    report_path = ladder_command(
        task,
        data=data,
        eval_data=eval_data,
        rewards=tuple(reward or ()),
        reward_weights=tuple(reward_weight or ()),
        model=model,
        recipes=tuple(name.strip() for name in recipes.split(",")) if recipes else RECIPES,
        seeds=seeds,
        tokens=tokens,
        reuse_tokens=reuse_tokens,
        reuse_seeds=reuse_seeds,
        noise_batches=noise_batches,
        noise_problems=noise_problems,
        lr=lr,
        out=out,
        overrides=tuple(overrides or ()),
    )
    print(f"report      {report_path}")


def main() -> None:
    """Entry point: a mistake a user can mend is one line and exit code 2, never a traceback."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if "OMP_WAIT_POLICY" not in os.environ:
        # How long an idle thread keeps asking for work (read when torch is loaded). By default for milliseconds, which
        # on a machine that has something else to do halves the speed; briefly costs nothing where it has not.
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    ask_for_same_bits()  # before torch is loaded
    try:
        app()  # Ctrl-C and a closed pipe are typer's: exit codes 130 and 1, nothing printed
    except (KeyboardInterrupt, ImportError) as error:
        if not _interrupted(error):
            raise
        sys.exit(130)
    except Stopped as stopped:
        print(f"stopped; {stopped}")
        sys.exit(130)
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        _fail(f"{error.filename}: {error.strerror}")


def _interrupted(error: BaseException | None) -> bool:
    """Whether it began with Ctrl-C, which transformers turns into an error of its own while it is being imported."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _fail(message: str) -> None:
    print(f"upslope: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
