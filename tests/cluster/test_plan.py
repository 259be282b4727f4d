"""A plan's arithmetic beside real tensors, its rates beside what they were made of, its command beside mistakes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process import Said, upslope_says
from tiny import model

from upslope.cli import main
from upslope.cluster.planning.cards import CARDS, AssumedShares, card_of
from upslope.cluster.planning.memory import (
    RowSizes,
    affordable_rows,
    in_all,
    learner_parts,
    micro_tokens,
    sampler_parts,
)
from upslope.cluster.planning.rates import StepFacts, TimedRun, _fit, facts_of_run, measured_times
from upslope.cluster.planning.sizes import ModelSizes, sizes_of
from upslope.cluster.planning.split import SplitFinder, WorkerSplit
from upslope.cluster.planning.times import CardTimes, Learned
from upslope.errors import UserError
from upslope.lab.bench.flops import forward_flop
from upslope.learn.chunks import most_trunk_tokens
from upslope.learn.optimizer import LocalOptimizer
from upslope.learn.settings import LearnSettings
from upslope.model.pocket import build_model, build_tokenizer
from upslope.model.policy import Policy

ROWS = RowSizes(prompt=10, most=20, group=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's config in a folder, without weights."""
    place = tmp_path_factory.mktemp("config")
    model().config.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def sizes(folder: Path) -> ModelSizes:
    return sizes_of(str(folder))


# -- memory, beside real tensors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
def test_sizes_are_those_of_the_real_model(tmp_path: Path, tied: bool) -> None:
    real = model(dtype=torch.float32, tie_word_embeddings=tied)
    real.config.save_pretrained(tmp_path)
    found = sizes_of(str(tmp_path / "config.json"))
    policy = Policy(real, build_tokenizer())
    assert found.weights == sum(p.numel() for p in real.parameters())
    assert 2 * found.in_products == forward_flop(real)
    assert found.cached * 4 == policy.cache_bytes
    assert found.width == policy.width and found.vocabulary == policy.vocabulary
    assert found.layer == sum(p.numel() for p in real.model.layers[0].parameters())
    assert found.outside == found.weights - 2 * found.layer
    assert found.largest == max(p.numel() for p in real.parameters())
    assert micro_tokens(found, 4) == most_trunk_tokens(policy)


@pytest.mark.parametrize(("dtype", "element"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_a_learners_parts_are_the_bytes_that_its_tensors_take(
    sizes: ModelSizes, dtype: torch.dtype, element: int
) -> None:
    real = model(dtype=torch.float32)
    optimizer = LocalOptimizer(real, LearnSettings(lr=1e-3), 1, dtype)
    real(input_ids=torch.arange(6)[None]).logits.float().sum().backward()
    optimizer.step()
    parts = learner_parts(sizes, element, ROWS, shard=False)
    masters = list(optimizer.masters.values())
    compute = [p for p in real.parameters() if all(p is not m for m in masters)]
    assert parts["masters"] == taken(masters)
    assert parts["gradients"] == taken([m.grad for m in masters])
    assert parts["moments"] == optimizer.moment_bytes
    assert parts["weights"] == taken(compute)
    assert parts["passing"] == (2 * sizes.largest if element == 2 else 0)


def taken(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def test_sharded_parts_are_shares_and_cover_everything(sizes: ModelSizes) -> None:
    whole, part = (learner_parts(sizes, 2, ROWS, 4, shard=s) for s in (False, True))
    for name in ("masters", "gradients", "moments"):
        assert whole[name] <= 4 * part[name] < whole[name] + 4 * 4 * 2
    assert part["weights"] == 2 * (sizes.outside + 2 * sizes.layer)
    assert part["activations"] == whole["activations"]


def test_a_samplers_keys_and_values_are_those_of_its_cache(sizes: ModelSizes) -> None:
    """One group of four: the prompt once, 4 x 20 tokens; 2 layers x (keys, values) x 2 heads x 8 wide x 4 bytes."""
    parts = sampler_parts(sizes, 4, ROWS, 4)
    assert parts["keys and values"] == (10 + 4 * 20) * 2 * 2 * 2 * 8 * 4
    assert parts["weights"] == 4 * sizes.weights


def test_affordable_rows_fit_and_one_more_would_not(sizes: ModelSizes) -> None:
    room = 4 * sizes.weights + 1_000_000
    num = affordable_rows(sizes, 4, ROWS, room, most=10**6)
    assert in_all(sampler_parts(sizes, 4, ROWS, num - num % 4)) <= room < in_all(sampler_parts(sizes, 4, ROWS, num + 4))
    assert affordable_rows(sizes, 4, ROWS, room, most=3) == 3
    assert affordable_rows(sizes, 4, ROWS, 0, most=3) == 0


# -- times ----------------------------------------------------------------------------------------------------------


def card_times(sizes: ModelSizes, **changes: Any) -> CardTimes:
    return CardTimes(sizes, CARDS["h100"], AssumedShares(**changes), 2)


def test_a_position_is_bound_by_memory_first_and_by_products_then(sizes: ModelSizes) -> None:
    times = card_times(sizes)
    one, few = times.position(1, 0), times.position(8, 0)
    assert one == few == pytest.approx(2 * sizes.weights / (3350e9 * 0.6))
    many = 10**6
    assert times.position(many, 0) == pytest.approx(2 * sizes.in_products * many / (989e12 * 0.5))
    assert times.position(1, 1000) == pytest.approx(2 * (sizes.weights + 1000 * sizes.cached) / (3350e9 * 0.6))


def test_an_update_counts_products_attention_and_the_exchange(sizes: ModelSizes) -> None:
    times, learned = card_times(sizes), Learned(2, 10, 8, 160)
    assert learned.tokens == 180 and learned.row == 30
    flop = 180 * (6 * sizes.in_products + 6 * 2 * 32 * 30)
    assert times.update(learned, 1, shard=False) == pytest.approx(flop / (989e12 * 0.4))
    sent = times.update(learned, 2, shard=False) - flop / (989e12 * 0.4) / 2
    assert sent == pytest.approx(2 / 2 * 4 * sizes.weights / 450e9)
    shared = times.update(learned, 2, shard=True) - flop / (989e12 * 0.4) / 2
    assert shared == pytest.approx(1 / 2 * (2 * 2 * 1 + 4) * sizes.weights / 450e9)  # one micro-batch
    far = times.update(learned, 16, shard=False) - flop / (989e12 * 0.4) / 16
    assert far == pytest.approx(2 * 15 / 16 * 4 * sizes.weights / 50e9)  # over the network


def test_weights_are_handed_on_from_sampler_to_sampler(sizes: ModelSizes) -> None:
    once = 2 * sizes.weights / 50e9
    found = [card_times(sizes).transfer(num) / once for num in (0, 1, 3, 4, 1023)]
    assert found == pytest.approx([0, 1, 2, 3, 10])


def test_a_card_takes_what_the_user_knows_better() -> None:
    assert card_of("h100", tflops=500).tflops == 500 and card_of("h100", tflops=500).memory_gb == 80
    with pytest.raises(UserError, match="did you mean 'h100'"):
        card_of("h10")


# -- the split ------------------------------------------------------------------------------------------------------


def finder(sizes: ModelSizes, memory: float | None) -> SplitFinder:
    return SplitFinder(sizes, card_times(sizes), 2, ROWS, 64, 15.0, 512, memory, None)


def test_workers_are_split_so_that_they_fit(sizes: ModelSizes) -> None:
    assert finder(sizes, None).split(1, 0) == WorkerSplit(0, 1, False)
    found = finder(sizes, None).split(8, 1)
    assert found.samplers + found.ranks == 8 and found.samplers >= 1
    alone = in_all(learner_parts(sizes, 2, ROWS, shard=False))
    tight = finder(sizes, alone * 0.999 / 0.92)  # just too little for a learner that holds everything
    assert tight.split(8, 1).shard and tight.fits(tight.split(8, 1))
    assert not finder(sizes, 1000.0).fits(finder(sizes, 1000.0).split(8, 1))


# -- rates of runs --------------------------------------------------------------------------------------------------


def test_a_fit_finds_what_numbers_were_made_of() -> None:
    inputs = [(10.0, 200.0), (30.0, 100.0), (20.0, 900.0)]
    assert _fit(inputs, [0.01 * a + 0.002 * b for a, b in inputs]) == pytest.approx((0.01, 0.002))
    only = _fit(inputs, [0.002 * b - 0.001 * a for a, b in inputs])
    assert only[0] == 0.0 and only[1] > 0  # no part below zero


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of two tiny steps of the blank pocket model."""
    monkeypatch.chdir(tmp_path)
    said = ["steps=3", "problems=2", "recipe.sample.group_size=2", "eval.problems=4", "sample.max_tokens=6"]
    monkeypatch.setattr(sys, "argv", ["upslope", "train", "--model", "pocket:blank", "--name", "a", "--plain", *said])
    with pytest.raises(SystemExit) as end:
        main()
        raise SystemExit(0)
    assert not end.value.code
    return tmp_path / "runs" / "a"


def test_what_is_read_of_a_run(run_folder: Path) -> None:
    run = facts_of_run(run_folder)
    assert len(run.steps) == 2 and len(run.lengths) == 12 and max(run.lengths) <= 6 and run.prompt > 5
    assert all(s.longest == max(run.lengths[4 + 4 * i : 8 + 4 * i]) for i, s in enumerate(run.steps))
    assert all(s.tokens == sum(run.lengths[4 + 4 * i : 8 + 4 * i]) for i, s in enumerate(run.steps))
    assert all(s.sample > 0 and s.update > 0 and s.beside > 0 for s in run.steps)
    # Where nothing says what is right there is no accuracy, and attempts were made all the same.
    file = run_folder / "journal.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    told = [{key: value for key, value in row.items() if key != "accuracy"} for row in rows]
    file.write_text("".join(json.dumps(row) + "\n" for row in told))
    assert facts_of_run(run_folder).steps == run.steps


def test_rates_are_those_that_seconds_were_made_of() -> None:
    """10 ms a position, 1 ms an attempt in it; 0.5 s an update, 2 ms a token; 0.1 s beside; half the groups alike."""
    sizes = [(20, 100), (30, 200), (25, 400)]
    steps = tuple(
        StepFacts(0.01 * most + 0.001 * num, 0.5 + 0.002 * num / 2, 0.1, most, num, num / 2, 0.5) for most, num in sizes
    )
    found = measured_times([TimedRun(Path("run"), steps, (), 1)])
    assert vars(found) == pytest.approx(
        {"step": 0.01, "row": 0.001, "fixed": 0.6, "token": 0.002, "share": 0.5, "load": 0.0}
    )
    assert found.update(Learned(2, 1, 8, 200), 1, shard=False) == pytest.approx(0.6 + 0.002 * 100)


def test_a_run_without_attempts_and_a_file_that_is_none_are_told(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text(
        '{"kind": "step", "step": 0, "num_tokens": 5, "seconds": {"sample": 1.0}}\n'
    )
    with pytest.raises(UserError, match="no step of this run made attempts"):
        facts_of_run(tmp_path)
    (tmp_path / "rollouts").mkdir()
    (tmp_path / "rollouts" / "step-000000.parquet").write_text("no parquet")
    with pytest.raises(UserError, match=r"step-000000\.parquet: cannot be read"):
        facts_of_run(tmp_path)


# -- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Said]]:
    pytest.importorskip("simpy")

    def run(*words: str) -> Said:
        return upslope_says(monkeypatch, capsys, "plan", *words)

    yield run


def test_the_tables_say_where_every_number_is_from(plan: Callable[..., Said], folder: Path) -> None:
    said = plan("--model", str(folder), "--card", "h100", "--gpus", "1", "--gpus", "4", "--staleness", "0",
                "--staleness", "1", "--steps", "3", "--network", "25")  # fmt: skip
    assert said.code == 0 and said.err == ""
    assert "NVIDIA H100 SXM data sheet" in said.out and "assumed" in said.out and "given" in said.out
    lines = said.out.splitlines()
    rows = [line for line in lines if line.split()[:1] in (["1"], ["4"])]
    assert len(rows) == 3  # one worker has no staleness
    assert "one does both" in rows[0]


def test_json_has_the_same_numbers(plan: Callable[..., Said]) -> None:
    said = plan("--card", "l40s", "--gpus", "4", "--staleness", "1", "--steps", "3", "--json", "--samplers", "3")
    found = json.loads(said.out)
    (cluster,) = found["clusters"]
    assert cluster["memory"]["samplers"] == cluster["run"]["samplers"] == 3
    assert cluster["memory"]["fits"] is True
    assert sum(cluster["run"]["ages"].values()) == 3 * 64
    assert {"measured", "card", "assumed"} & {row["from"] for row in found["numbers"]}
    assert cluster["run"]["learner"]["updating"] <= 1


def test_a_model_too_large_is_said_to_be(plan: Callable[..., Said]) -> None:
    said = plan("--card", "rtx4090", "--memory", "0.001", "--steps", "2", "--gpus", "2")
    assert said.code == 0 and "does not fit: a rank needs" in said.out


def test_rates_of_a_run(plan: Callable[..., Said], run_folder: Path) -> None:
    said = plan("--model", str(run_folder), "--measured", str(run_folder), "--gpus", "2", "--staleness", "1")
    assert said.code == 0, said.err
    assert "measured in a" in said.out and "2 problems x 2 attempts" in said.out
    assert str(build_model(0).num_parameters())[:3] in said.out


def test_a_new_models_shape_is_given_as_settings(plan: Callable[..., Said]) -> None:
    said = plan("--model", "new:llama", "new.depth=2", "new.tokenizer=pocket", "--card", "h100", "--steps", "2")
    assert said.code == 0 and "new:llama: " in said.out


MISTAKES = {
    "no rates": ([], "a plan needs rates: name a card with --card"),
    "card": (["--card", "h101"], "card 'h101' is not known; did you mean 'h100'?"),
    "dtype": (["--card", "h100", "--dtype", "float16"], "--dtype 'float16' cannot be planned"),
    "model": (["--card", "h100", "--model", "./nowhere"], "model './nowhere': there is no such directory or run"),
    "json": (["--card", "h100", "--model", "no.json"], "model 'no.json': there is no such file"),
    "stage": (["--card", "h100", "--model", "pocket:sfft"], "pocket has no stage 'sfft'; did you mean 'sft'?"),
    "run": (["--measured", "nowhere"], "cannot read the journal: there is no such run folder"),
    "sum": (["--card", "h100", "--gpus", "4", "--samplers", "2", "--ranks", "1"], "are 3 workers, and --gpus is 4"),
    "alone": (["--card", "h100", "--staleness", "1"], "staleness = 1 needs samplers"),
    "shard": (["--card", "h100", "--shard", "--gpus", "2", "--ranks", "1"], "shard = true needs several learners"),
    "setting": (["--card", "h100", "learn.lr=1"], "upslope plan does not read learn.lr; it reads new"),
    "for a new one": (["--card", "h100", "new.depth=2"], "new.depth is for a new model"),
    "own rates": (["--measured", "x", "--tflops", "3"], "name it with --card"),
    "nobody to share with": (["--card", "h100", "--shard", "--gpus", "2"], "1 learner has nobody to share with"),
    "old and alone": (["--card", "h100", "--staleness", "1", "--staleness", "2"], "--staleness needs workers beside"),
    "too many learn": (["--card", "h100", "--gpus", "4", "--ranks", "9"], "--ranks 9 are more than --gpus 4"),
    "no spread": (["--card", "h100", "--spread", "inf"], "--spread inf is no number to plan with"),
    "no mean": (["--card", "h100", "--mean-tokens", "inf"], "--mean-tokens inf is no number to plan with"),
    "no memory": (["--card", "h100", "--memory", "inf"], "--memory inf is no number to plan with"),
    "no rate": (["--card", "h100", "--tflops", "inf", "--json"], "--tflops inf is no number to plan with"),
    "no network": (["--card", "h100", "--network", "inf"], "--network inf is no number to plan with"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str, plan: Callable[..., Said]) -> None:
    words, wanted = MISTAKES[name]
    said = plan(*words)
    assert said.code == 2 and said.out == ""
    assert wanted in said.err and said.err.count("\n") == 1
