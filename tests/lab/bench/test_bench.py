"""What is counted and what is timed, on work small enough to count by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import tiny
import torch

from upslope.algo.family import FAMILY
from upslope.algo.objective import Objective
from upslope.algo.recipe import Recipe
from upslope.config import load_settings
from upslope.lab.bench.ceiling import product_gflops
from upslope.lab.bench.clock import Clock
from upslope.lab.bench.clocked import ClockedSampler, ClockedTask
from upslope.lab.bench.command import acting, bench
from upslope.lab.bench.figures import learn_figures, rollout_figures, step_figures
from upslope.lab.bench.flops import forward_flop, learning_flop
from upslope.lab.bench.measure import PHASES, MeasuredRun, Timed, timed_steps
from upslope.lab.bench.word_problems import WordProblems, word_problem
from upslope.learn.prepare import judge, passes, to_batch
from upslope.record.recorder import MemoryRecorder
from upslope.rollout.address import Address
from upslope.rollout.local import LocalSampler
from upslope.rollout.scripted import ScriptedSampler
from upslope.tasks.base import Split, Task
from upslope.training.assemble import assemble
from upslope.training.collect import Collected, Collector
from upslope.types import Problem, Sampling, Score

ACTING = [name for name, branch in FAMILY.items() if branch.recipe.acts]
KEYS = {
    "": {"model", "recipe", "task", "shape", "repeat", "flop_per_token"}
    | {"machine", "ceiling", "rollout", "learn", "step"},
    "machine": {"cpu", "device", "threads", "torch", "dtype", "kernels"},
    "ceiling": {"gflops_fp32", "gflops_bf16", "memory_gb_per_s"},
    "rollout": {"tokens_per_s", "share_of_ceiling", "seconds", "tokens"},
    "learn": {"tokens_per_s", "response_tokens_per_s", "share_of_ceiling", "seconds", "tokens"},
    "step": {"seconds", "tokens_per_s", "peak_gb", "optimizer_share", "seconds_by_phase"},
}


@pytest.mark.parametrize("tied", [True, False])
def test_the_arithmetic_of_a_token(tied: bool) -> None:
    # A layer: q and o 32 x 32, k and v 16 x 32 (two of four heads), gate, up and down 32 x 48.
    layer = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 48
    head = len(tiny.TOKENIZER) * 32
    model = tiny.model(tie_word_embeddings=tied)
    assert forward_flop(model) == 2 * (2 * layer + head)
    assert learning_flop(model) == 6 * (2 * layer + head)


def test_a_clock_gives_each_second_to_one_phase() -> None:
    times = iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0])
    clock = Clock(torch.device("cpu"), now=lambda: next(times))

    with clock.phase("outer"):  # 0
        with clock.phase("inner"):  # 1
            pass  # 3
        with clock.phase("inner"):  # 6
            pass  # 10
    # 15: the outer phase had 0 to 1, 3 to 6 and 10 to 15.
    assert clock.take() == {"outer": 9.0, "inner": 6.0}
    assert clock.take() == {}


def timed(sample: float, gradient: float, other: float) -> Timed:
    by_phase = dict.fromkeys(PHASES, 0.0) | {"sample": sample, "prepare": 1.0, "gradient": gradient, "optimizer": 1.0}
    by_phase["other"] = other
    return Timed(sum(by_phase.values()), by_phase, response_tokens=100, learnt_tokens=240, passes=2)


def test_figures_are_the_best_of_all_steps() -> None:
    model = tiny.model()
    flop = forward_flop(model)
    steps = [timed(4.0, 5.0, 2.0), timed(5.0, 3.0, 1.0)]
    rollout = rollout_figures(steps, model, gflops=flop / 1e9 * 50)
    assert rollout == {"tokens_per_s": 25.0, "share_of_ceiling": 0.5, "seconds": 4.0, "tokens": 100}
    learn = learn_figures(steps, model, gflops=flop / 1e9 * 288)
    assert learn["tokens_per_s"] == 48.0  # 240 tokens in 1 + 3 + 1 seconds
    assert learn["response_tokens_per_s"] == 40.0  # twice 100
    assert learn["share_of_ceiling"] == pytest.approx(0.5)  # 48 x 3 forward passes of 288
    step = step_figures(steps, peak=1.0)
    assert (step["seconds"], step["optimizer_share"]) == (11.0, 1 / 11)
    assert sum(step["seconds_by_phase"].values()) == 11.0


class Unkind(Task):
    """Every response is worth nothing."""

    name = "unkind"

    def problems(self, split: Split) -> Sequence[Problem]:
        return tiny.problems(3)

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Score]:
        return [Score(0.0) for _ in responses]


def collected(recipe: Recipe, num_samples: int) -> Collected:
    """Attempts that the length cut, at three problems, as the measured run sees them."""
    clock, renderer = Clock(torch.device("cpu")), tiny.policy().renderer
    sampler = ClockedSampler(ScriptedSampler(lambda request: ((5, 6), (-1.0, -1.0)), end_ids=(2,)), clock)
    task, sampling = ClockedTask(Unkind(), tiny.problems(3), clock), Sampling(max_tokens=2)
    return Collector(task, sampler, renderer, sampling, 0, 3)(acting(recipe, num_samples).sample, 0)


@pytest.mark.parametrize("name", ACTING)
@pytest.mark.parametrize("num_samples", [2, 3, 8])
def test_every_attempt_has_a_gradient(name: str, num_samples: int) -> None:
    plain = FAMILY["reinforce"].recipe  # a critic or a penalty would need a model, and leaves no row out anyway
    recipe = FAMILY[name].recipe.patch(critic=plain.critic, regulariser=plain.regulariser)
    for slot in ("advantage", "correction"):  # nor do those that look at what a model says
        if recipe.asked(slot).needs:
            recipe = recipe.patch(**{slot: getattr(plain, slot)})
    groups = collected(recipe, num_samples).kept
    batch = judge(to_batch(groups, torch.device("cpu"), limit=2), recipe)
    parts = list(passes(batch, recipe, Address(0, "reuse")))
    assert sum(part.num_rollouts for part in parts) == recipe.reuse.epochs * 3 * num_samples
    assert not any(any(Objective(recipe).without_gradient(part)) for part in parts)


def test_the_loop_that_is_measured_is_the_one_that_trains() -> None:
    """Three turns of it: every update and every handing over of weights is counted by those who do it."""
    recipe = acting(FAMILY["ppo"].recipe, 2)
    settings = load_settings(options={"sample.min_tokens": 4, "sample.max_tokens": 4, "learn.lr": 1e-3})
    model = tiny.model(dtype=torch.float32)
    learner = assemble(model, tiny.TOKENIZER, recipe, settings, MemoryRecorder(), None)
    before = [p.detach().clone() for p in model.parameters()]
    sampler, told = LocalSampler(learner.policy), []
    run = MeasuredRun(settings, recipe, Unkind(), tiny.problems(3), sampler, learner, 3, told.append)
    timed = timed_steps(run)
    assert told == [0, 1, 2] and len(timed) == 2
    assert sampler.version == 3
    assert learner.optimizer.num_done == 3 * recipe.reuse.num_updates
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    for step in timed:
        assert (step.response_tokens, step.passes) == (3 * 2 * 4, recipe.reuse.epochs)
        assert all(step.by_phase[phase] > 0 for phase in PHASES)
        assert sum(step.by_phase.values()) == pytest.approx(step.seconds)


@pytest.fixture
def small_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upslope.lab.bench.ceiling.SIDE", 64)
    monkeypatch.setattr("upslope.lab.bench.ceiling.READ_BYTES", 2**16)


def test_a_processor_without_such_products_is_asked_for_small_ones_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upslope.lab.bench.ceiling.LONGEST", 0.0)
    monkeypatch.setattr("upslope.lab.bench.ceiling.SIDE", 10**6)  # more than any memory holds
    assert product_gflops(torch.device("cpu"), torch.float32) > 0


@pytest.mark.parametrize("name", ["reinforce-baseline", "importance", "trpo", "ppo", "grpo", "dapo"])
def test_the_whole_measurement(name: str, small_ceilings: None) -> None:
    settings = load_settings(options={"model": "pocket:blank", "recipe": {"name": name}})
    told: list[str] = []
    found = bench(settings, "3x2x4", 2, told.append)
    assert len(told) == 4  # a warm-up, two steps, the ceilings
    for part, keys in KEYS.items():
        assert set(found[part] if part else found) == keys
    epochs = FAMILY[name].recipe.reuse.epochs
    assert found["rollout"]["tokens"] == 3 * 2 * 4
    assert epochs * 24 < found["learn"]["tokens"] < epochs * (24 + 3 * 60)  # a pocket question has some 30 tokens
    by_phase = found["step"]["seconds_by_phase"]
    assert tuple(by_phase) == PHASES
    assert sum(by_phase.values()) == pytest.approx(found["step"]["seconds"])
    assert all(by_phase[phase] > 0 for phase in PHASES)


def test_prompts_of_a_data_set(small_ceilings: None, tmp_path: Path) -> None:
    rows = [
        f'{{"question": "Tom has {i} books and buys 3.", "answer": "#### {i + 3}", "split": "train"}}' for i in (1, 2)
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(rows) + "\n")
    options = {"model": "pocket:blank", "task.name": "gsm8k", "task.data": str(data)}
    assert bench(load_settings(options=options), "2x2x1", 1, lambda text: None)["task"] == "gsm8k"


def test_a_measurement_leaves_the_process_as_it_was(small_ceilings: None) -> None:
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    bench(load_settings(options={"model": "pocket:blank", "threads": 1}), "2x2x1", 1, lambda text: None)
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before


def test_a_critic_does_not_learn_alone() -> None:
    assert acting(FAMILY["ppo"].recipe, 8).critic.warmup == 0  # type: ignore[attr-defined]


def test_built_in_problems_are_scored_and_always_the_same() -> None:
    task = WordProblems()
    found = task.problems("train")[:8]
    assert found == tuple(word_problem(i) for i in range(8))
    assert len({p.messages[0]["content"] for p in found}) == 8
    assert [s.reward for s in task.score(found, [f"so #### {p.truth}" for p in found])] == [1.0] * 8
    assert task.score(found[:1], ["#### 0"])[0].reward == 0.0
