"""What a learner in shards holds, beside one process, and that its gradient is the same.

    python benchmarks/sharded.py MODEL_DIR [--ranks 2] [--rows 4] [--tokens 64] [--recipe sft]

Both sides learn in float32 from rows of random tokens: two updates, each row a pass of its own, so that the second one
has all moments. Gigabytes are 10^9 bytes resident at most since the learner was built and freed memory was given back.
The first rank holds a whole policy besides, to write attempts with. The second update's gradients are compared, whole.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from common import Result, tell, worker

GRADIENT, STORE = "gradient.pt", "store"


def groups(options: argparse.Namespace, vocabulary: int, turn: int) -> list[Any]:
    from upslope.types import Group, Problem, Rollout, Score

    rng = random.Random(turn)
    made = []
    for row in range(options.rows):
        name = f"{turn}/{row}"
        given, said = (tuple(rng.randrange(3, vocabulary) for _ in range(options.tokens // 2)) for _ in range(2))
        rollout = Rollout(name, 0, given, said, (True,) * len(said), None, 0, "stop", "", Score(1.0))
        made.append(Group(Problem(name, ()), (rollout,)))
    return made


def peak() -> int:
    """Most bytes resident since ``forget_peak``; Linux alone says."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def measure(options: argparse.Namespace) -> Result:
    """In a worker: both updates; ``alone``, or the rank that it is."""
    import torch
    import torch.distributed as dist

    from upslope.algo.family import FAMILY
    from upslope.algo.objective import Objective
    from upslope.cluster.sharding import sharded_learner
    from upslope.learn.build import build_learner
    from upslope.learn.prepare import passes
    from upslope.learn.settings import LearnSettings
    from upslope.model.load import load
    from upslope.model.policy import Policy
    from upslope.rollout.address import Address
    from upslope.training.memory import give_back, resident
    from upslope.types import Sampling

    alone = options.worker == "alone"
    if not alone:
        store = dist.FileStore(str(Path(options.folder) / STORE), options.ranks)  # type: ignore[attr-defined]
        dist.init_process_group("gloo", store=store, rank=int(options.worker), world_size=options.ranks)
    recipe, objective = FAMILY[options.recipe].recipe, Objective(FAMILY[options.recipe].recipe)
    policy = Policy(*load(options.model, torch.float32))
    policy.native = False  # shards run through transformers' modules, and so does what they are compared with
    how: dict[str, Any] = {"sampling": Sampling(), "num_updates": 2, "dtype": torch.float32}
    settings = LearnSettings(lr=1e-5, warmup=0, micro_batch=1, clip=0.0)
    learner: Any = (build_learner if alone else sharded_learner)(policy, recipe, settings, **how)
    give_back()
    forget_peak()
    built = resident()
    for turn in range(2):
        batch = learner.prepare(recipe, groups(options, policy.vocabulary, turn))
        (minibatch,) = passes(batch, recipe, Address(0, "sharded", turn))
        learner.gradient(objective, minibatch)
        stats = learner.step()
    found = {"built": built / 1e9, "peak": peak() / 1e9, "grad_norm": stats["grad_norm"]}
    optimizer, file = learner.optimizer, Path(options.folder) / GRADIENT
    slopes = {name: master.grad for name, master in optimizer.masters.items()}
    if alone:
        torch.save(slopes, file)
        return found
    expected = torch.load(file, mmap=True)
    far = most = far_2 = most_2 = 0.0
    for name, slope in slopes.items():
        whole = optimizer.whole(name, slope)
        gap, size = (whole - expected[name]).double(), expected[name].double()
        far, most = max(far, float(gap.abs().max())), max(most, float(size.abs().max()))
        far_2, most_2 = far_2 + float(gap.pow(2).sum()), most_2 + float(size.pow(2).sum())
    dist.barrier()
    dist.destroy_process_group()
    return found | {"entry": far / most, "norm": (far_2 / most_2) ** 0.5}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model", help="a Hugging Face directory")
    arguments.add_argument("--ranks", type=int, default=2, help="(default 2)")
    arguments.add_argument("--rows", type=int, default=4, help="(default 4)")
    arguments.add_argument("--tokens", type=int, default=64, help="of a row, half of them learnt from (default 64)")
    arguments.add_argument("--recipe", default="sft", help="(default sft)")
    arguments.add_argument("--folder", default="", help=argparse.SUPPRESS)
    arguments.add_argument("--worker", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.worker:
        tell(measure(options))
        os._exit(0)  # nothing is left to be said, and threads of gloo may be in the middle of it
    with tempfile.TemporaryDirectory() as folder:
        words = [options.model, "--folder", folder]
        words += [w for n in ("ranks", "rows", "tokens", "recipe") for w in (f"--{n}", str(getattr(options, n)))]
        alone = worker(__file__, "alone", words, threads=1)()
        print(f"  one process  {alone['built']:.2f} GB when built, at most {alone['peak']:.2f} GB", flush=True)
        with ThreadPoolExecutor(options.ranks) as pool:
            sides = [worker(__file__, str(rank), words, threads=1) for rank in range(options.ranks)]
            found = list(pool.map(lambda side: side(), sides))
    for rank, one in enumerate(found):
        print(f"  rank {rank}       {one['built']:.2f} GB when built, at most {one['peak']:.2f} GB", flush=True)
    print(f"  gradient     norm {alone['grad_norm']:.6f} and {found[0]['grad_norm']:.6f}; apart by at most")
    print(
        f"               {found[0]['entry']:.1e} of the largest entry, {found[0]['norm']:.1e} of the norm", flush=True
    )


if __name__ == "__main__":
    main()
