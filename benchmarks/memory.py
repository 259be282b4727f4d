"""Memory that a process holds while texts have ever other lengths: with upslope's cure, without it, and as glibc and
torch do by themselves.

    python benchmarks/memory.py MODEL_DIR [--layers 4] [--turns 24] [--rows 8] [--work update]

``MODEL_DIR`` gives the tokenizer and, with ``--layers 0``, the model too; else the model is a random one of SmolLM2's
width. A turn is one SFT update of some rows with prompts of 60 to 160 and responses of 50 to 200 random tokens
(``--work update``), or four attempts at each of some prompts (``--work rollout``). Gigabytes are 10^9 bytes resident at
the end of a turn; seconds are of all turns but the first. Peaks inside a turn are not seen here.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from typing import Any

from common import Result, take_turns, tell, worker

WIDTH, VOCABULARY = 576, 49152
SIDES = ("glibc's own", "kept", "kept, few shapes", "upslope")
"""What is added one after the other: ``keep_freed_memory``, ``bound_kernel_caches``, ``Keeper``."""


def random_llama(num_layers: int) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3, "num_hidden_layers": num_layers}
    return LlamaForCausalLM(
        LlamaConfig(hidden_size=WIDTH, intermediate_size=1536, vocab_size=VOCABULARY, tie_word_embeddings=True, **heads)
    )


def turns(options: argparse.Namespace, check: Callable[[str], None]) -> Callable[[int], None]:
    """A function that does one turn."""
    import torch

    from upslope.algo.family import FAMILY
    from upslope.algo.objective import Objective
    from upslope.learn.build import build_learner
    from upslope.learn.prepare import passes
    from upslope.learn.settings import LearnSettings
    from upslope.model.load import load
    from upslope.model.policy import Policy
    from upslope.rollout.address import Address
    from upslope.rollout.engine import Engine
    from upslope.types import Group, Problem, Rollout, Sampling, Score

    model, tokenizer = load(options.model)
    policy = Policy(random_llama(options.layers) if options.layers else model, tokenizer)
    del model
    recipe, settings, rng = FAMILY["sft"].recipe, LearnSettings(lr=1e-5), random.Random(0)
    learner = build_learner(
        policy, recipe, settings, sampling=Sampling(), num_updates=options.turns, dtype=torch.bfloat16
    )
    learner.watch = lambda done, total: check("micro-batch")
    engine, objective = Engine(policy), Objective(recipe)

    def some(least: int, most: int) -> tuple[int, ...]:
        return tuple(rng.randrange(3, policy.vocabulary) for _ in range(rng.randint(least, most)))

    def update(turn: int) -> None:
        groups = []
        for row in range(options.rows):
            name, prompt, response = f"{turn}/{row}", some(60, 160), some(50, 200)
            mask = (True,) * len(response)
            rollout = Rollout(name, 0, prompt, response, mask, None, 0, "stop", "", Score(1.0))
            groups.append(Group(Problem(name, ()), (rollout,)))
        for part in passes(learner.prepare(recipe, groups), recipe, Address(0, "memory", turn)):
            recipe.update(learner, objective, part)

    def rollout(turn: int) -> None:
        texts = [" ".join(map(str, some(20, 60))) for _ in range(options.rows)]
        problems = [Problem(f"{turn}/{i}", ({"role": "user", "content": t},)) for i, t in enumerate(texts)]
        engine.generate(problems, 4, Sampling(max_tokens=rng.randint(50, 200)), Address(0, "memory", turn))
        check("sample")

    return {"update": update, "rollout": rollout}[options.work]


def measure(options: argparse.Namespace) -> Result:
    """In a worker: all turns, with so much of the cure as the side says."""
    from upslope.train.memory import Keeper, bound_kernel_caches, keep_freed_memory, resident
    from upslope.train.session import repeat_bits

    level = SIDES.index(options.worker)
    if level > 0:
        keep_freed_memory()
    if level > 1:
        bound_kernel_caches()
    keeper = Keeper()
    repeat_bits()
    turn = turns(options, keeper.check if level > 2 else lambda kind: None)
    held, begin = [], 0.0
    for number in range(options.turns):
        if number == 1:
            begin = time.perf_counter()
        turn(number)
        held.append(resident() / 1e9)
    return {"gb": held, "seconds": (time.perf_counter() - begin) / max(options.turns - 1, 1)}


def line(found: Result) -> str:
    every = max(1, len(found["gb"]) // 8)
    return f"{' '.join(f'{gb:.2f}' for gb in found['gb'][::every])}  {found['gb'][-1]:.2f} GB; {found['seconds']:.2f} s"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model", help="a Hugging Face directory")
    arguments.add_argument("--layers", type=int, default=4, help="of a random model; 0: the model itself (default 4)")
    arguments.add_argument("--turns", type=int, default=24, help="(default 24)")
    arguments.add_argument("--rows", type=int, default=8, help="demonstrations or prompts a turn (default 8)")
    arguments.add_argument("--work", choices=("update", "rollout"), default="update")
    arguments.add_argument("--sides", default=":".join(SIDES), help="separated by colons (default: all)")
    arguments.add_argument("--rounds", type=int, default=1, help="measurements of every side, in turn (default 1)")
    arguments.add_argument("--threads", type=int, default=0, help="CPU threads of every side; 0: torch's choice")
    arguments.add_argument("--worker", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.worker:
        tell(measure(options))
        return
    words = [options.model]
    words += [w for name in ("layers", "turns", "rows", "work") for w in (f"--{name}", str(getattr(options, name)))]
    sides = {name: worker(__file__, name, words, threads=options.threads) for name in options.sides.split(":")}
    print(f"GB resident at the end of some of {options.turns} turns, and of the last; seconds a turn")
    take_turns(sides, options.rounds, line)


if __name__ == "__main__":
    main()
