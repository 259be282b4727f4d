"""vLLM as the sampler of a run, beside upslope's own: the gap after every load, accuracy before and after.

    python benchmarks/vllm_sums.py MODEL --python VLLM_PYTHON [--engines vllm local stale] [--steps 20] [--problems 4]

MODEL is a Hugging Face directory (SmolLM2-135M-Instruct). It first imitates a few sums (``examples/sums``), so that
there is something to reward, and goes on from there by trial and error, once with each engine. ``local`` is upslope's
own. ``stale`` is vLLM with weights loaded by its own ``reload_weights``: on a CPU a tied model keeps its old head, and
the gap shows it. That run may go on, so that all gaps are seen; the step where the bound would have ended it is told.
Prints one JSON object an engine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import upslope as up
from upslope.cluster.vllm.engine import vllm_sampler
from upslope.cluster.vllm.handover import FileHandover
from upslope.cluster.vllm.sampler import VllmSampler
from upslope.training.cluster_settings import ClusterSettings
from upslope.training.settings import RunSettings

SUMS = Path(__file__).resolve().parent.parent / "examples" / "sums"


class Told(VllmSampler):
    """Says what came of every handover, as it comes."""

    def load(self, weights: Mapping[str, Any], version: int) -> None:
        super().load(weights, version)
        handed = self.handed_over[-1]
        print(f"  version {version}: gap {handed.gap:.2e}, {handed.seconds:.1f} s", file=sys.stderr, flush=True)


def vllms_own(handover: FileHandover, folder: Path, version: str) -> list[Mapping[str, object]]:
    """Weights by vLLM's own way, without the cure: what the check is there for. In place of ``FileHandover._load``."""
    handover._client.rpc("reload_weights", weights_path=str(folder.resolve()))
    return []


@contextlib.contextmanager
def makers(name: str, cluster: ClusterSettings) -> Iterator[Callable[[Any], Any] | None]:
    """What makes the sampler of an engine; None for this process."""
    if name == "local":
        yield None
        return
    with contextlib.ExitStack() as held:
        held.enter_context(mock.patch("upslope.cluster.vllm.engine.VllmSampler", Told))
        if name == "stale":
            held.enter_context(mock.patch.object(FileHandover, "_load", vllms_own))
            cluster = replace(cluster, most_gap=1e9)
        yield held.enter_context(vllm_sampler(RunSettings(cluster=cluster), None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a Hugging Face directory")
    parser.add_argument("--python", required=True, help="the interpreter of the environment that has vLLM")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--imitate", type=int, default=3, help="steps of imitation before, of 16 sums (default 3)")
    parser.add_argument("--problems", type=int, default=4)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--held-out", type=int, default=100)
    parser.add_argument("--lr", type=float, default=1e-5, help="after imitation, which has 2e-5; falls linearly")
    parser.add_argument("--bound", type=float, default=1e-3, help="cluster.most_gap, nats (default 1e-3: float32)")
    parser.add_argument("--patience", type=float, default=300)
    parser.add_argument("--memory", type=float, default=0.3, help="cluster.vllm_memory (default 0.3)")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--engines", nargs="+", choices=("vllm", "local", "stale"), default=["vllm", "local"])
    given = parser.parse_args()
    cluster = ClusterSettings(
        engine="vllm",
        vllm_python=given.python,
        most_gap=given.bound,
        patience=given.patience,
        vllm_memory=given.memory,
    )
    task = up.tasks.rows(str(SUMS), [f"{SUMS / 'reward.py'}:right_sum"])
    shared: dict[str, Any] = {
        "sample": {"max_tokens": 48},
        "threads": given.threads,
        "progress": False,
        "save": {"rollouts": 0},
    }
    start = up.train(
        given.model, task=task, recipe="sft", steps=given.imitate, problems=16,
        learn={"lr": 2e-5, "warmup": 1, "dtype": "float32"}, eval={"problems": 0}, **shared,
    )  # fmt: skip
    weights = {name: weight.detach().clone() for name, weight in start.model.named_parameters()}
    for name in given.engines:
        for own, weight in start.model.named_parameters():
            weight.data.copy_(weights[own])
        print(f"{name}:", file=sys.stderr, flush=True)
        began = time.perf_counter()
        sampler: list[Any] = []
        with makers(name, cluster) as make:

            def kept(policy: Any, make: Any = make, sampler: list[Any] = sampler) -> Any:
                sampler.append(make(policy))
                return sampler[0]

            run = up.train(
                (start.model, start.tokenizer), task=task, steps=given.steps, problems=given.problems,
                recipe={"name": "grpo", "sample": {"group_size": given.samples}, "regulariser": "no_penalty"},
                learn={"lr": given.lr, "warmup": 3, "decay": "linear", "dtype": "float32"},
                eval={"problems": given.held_out},
                sampler=None if make is None else kept, **shared,
            )  # fmt: skip
        gaps = sampler[0].gaps if sampler else []
        evals = [row["greedy"]["value"] for row in run.rows("eval")]
        steps = run.rows("step")
        print(
            json.dumps(
                {
                    "engine": name,
                    "before": evals[0] if evals else None,
                    "after": evals[-1] if evals else None,
                    "rewards": [round(row["reward"], 3) for row in steps],
                    "gaps": gaps,
                    "above_bound_at": next((i for i, gap in enumerate(gaps) if not gap <= given.bound), None),
                    "logp_gap_max": [row.get("logp_gap_max") for row in steps],
                    "sample_s": sum(row["seconds"]["sample"] for row in steps),
                    "seconds": round(time.perf_counter() - began, 1),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
