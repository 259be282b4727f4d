from __future__ import annotations

import io
import json
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from rich.console import Console

from upslope.errors import UserError
from upslope.inspect.picture import draw_journal, smooth
from upslope.inspect.report import before_after, print_before_after, summary_lines, telling, write_report
from upslope.record.journal import Journal


def step(number: int, **keys: Any) -> dict[str, Any]:
    row = {"kind": "step", "step": number, "reward": 0.3, "length": 20.0, "truncated": 0.1, "entropy": 0.9}
    return row | {"grad_norm": 1.0, "equal_groups": 0.25, "loss": 2.0, "num_tokens": 1000} | keys


def evaluation(number: int, value: float) -> dict[str, Any]:
    greedy = {"value": value, "low": value - 0.05, "high": value + 0.05, "num_problems": 512}
    return {"kind": "eval", "step": number, "greedy": greedy, "seconds": 2.0}


def run_folder(folder: Path, *rows: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "journal.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def curves(figure: Figure, panel: int, label: str) -> list[list[float]]:
    """The heights of every line called ``label`` in one of the four panels, its right axis included."""
    home = figure.axes[panel].get_position().bounds
    axes = [axis for axis in figure.axes if axis.get_position().bounds == home]
    return [
        np.asarray(line.get_ydata(), dtype=float).tolist()
        for axis in axes
        for line in axis.get_lines()
        if line.get_label() == label
    ]


def words(figure: Figure) -> str:
    titles = [axis.get_title(loc) for axis in figure.axes for loc in ("left", "right")]
    return "\n".join([*titles, *(axis.get_ylabel() for axis in figure.axes)])


def test_the_picture_of_a_run_shows_its_columns() -> None:
    rows = [step(s, reward=s / 10, length=20.0 + s, truncated=0.1 * s, entropy=1.0 - s / 10) for s in range(5)]
    figure = draw_journal(Journal(tuple(rows), (evaluation(0, 0.31), evaluation(5, 0.58))), "first")
    assert curves(figure, 0, "reward") == [[0.0, 0.1, 0.2, 0.3, 0.4]]
    assert curves(figure, 0, "held-out accuracy, 95 % interval") == [[0.31, 0.58]]
    assert curves(figure, 1, "length") == [[20.0, 21.0, 22.0, 23.0, 24.0]]
    assert curves(figure, 1, "truncated") == [pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])]
    assert curves(figure, 2, "grad_norm") == [[1.0] * 5]
    assert curves(figure, 3, "entropy") == [pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6])]
    assert curves(figure, 3, "equal_groups") == [[0.25] * 5]
    assert "held-out 31.0 % → 58.0 %" in words(figure)
    assert len(figure.axes) == 6  # four panels, two right axes


def test_imitation_shows_loss_instead_of_reward_and_exploration() -> None:
    rows = [step(s, reward=1.0, loss=2.0 / (s + 1)) for s in range(4)]
    figure = draw_journal(Journal(tuple(rows), ()), "warm-up")
    assert curves(figure, 3, "loss") == [pytest.approx([2.0, 1.0, 2 / 3, 0.5])]
    assert curves(figure, 0, "reward") == []
    assert "Loss" in words(figure)
    assert "Exploration" not in words(figure)


def test_long_runs_are_smoothed_and_short_ones_marked() -> None:
    rewards = [float(s % 2) for s in range(80)]
    long = draw_journal(Journal(tuple(step(s, reward=r) for s, r in enumerate(rewards)), ()), "long")
    assert curves(long, 0, "reward") == [smooth(rewards, 5)]
    raw = [line for line in long.axes[0].get_lines() if line.get_label() != "reward"]
    assert [np.asarray(line.get_ydata(), dtype=float).tolist() for line in raw] == [rewards]
    short = draw_journal(Journal(tuple(step(s) for s in range(3)), ()), "short")
    assert [line.get_marker() for line in short.axes[0].get_lines()] == ["o"]


def test_a_band_needs_enough_evaluations_to_speak_between_them() -> None:
    few = draw_journal(Journal((), tuple(evaluation(s, 0.3) for s in range(4))), "few")
    many = draw_journal(Journal((), tuple(evaluation(s, 0.3) for s in range(5))), "many")
    (bars,), (band,) = (figure.axes[0].collections for figure in (few, many))
    assert isinstance(bars, LineCollection)
    assert isinstance(band, PolyCollection)
    assert band.get_datalim(many.axes[0].transData).get_points()[:, 1] == pytest.approx([0.25, 0.35])


def test_rewards_beyond_a_share_leave_accuracy_its_own_axis() -> None:
    figure = draw_journal(Journal((step(0, reward=-2.0), step(1, reward=5.0)), (evaluation(0, 0.5),)), "signed")
    right = next(axis for axis in figure.axes if axis.get_ylabel() == "held-out accuracy")
    assert right is not figure.axes[0]
    legend = right.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["reward", "held-out accuracy, 95 % interval"]


def test_the_two_scales_of_a_panel_have_their_own_colours() -> None:
    figure = draw_journal(Journal((step(0), step(1)), ()), "first")
    for axis in figure.axes:
        if axis.get_lines():
            assert to_rgba(axis.get_lines()[0].get_color()) == to_rgba(axis.yaxis.get_label().get_color())


def test_spikes_of_the_gradient_get_a_logarithmic_scale() -> None:
    norms = [1.0] * 15 + [500.0] + [1.0] * 15
    figure = draw_journal(Journal(tuple(step(s, grad_norm=n) for s, n in enumerate(norms)), ()), "spiky")
    assert figure.axes[2].get_yscale() == "log"
    assert curves(figure, 2, "grad_norm") == [[1.0] * 31]  # the median of its neighbours, without the spike
    assert draw_journal(Journal((step(0), step(1)), ()), "calm").axes[2].get_yscale() == "linear"


def test_smoothing_leaves_gaps_where_nothing_was_measured() -> None:
    found = smooth([1.0, math.nan, 5.0, 9.0], window=3)
    assert [found[0], found[2], found[3]] == [1.0, 7.0, 7.0]
    assert math.isnan(found[1])
    assert smooth([1.0, 100.0, 2.0], window=3, centre=statistics.median)[1] == 2.0


@pytest.mark.parametrize(
    "rows",
    [
        [step(0)],
        [evaluation(0, 0.0)],
        [{"kind": "step", "step": 0}],
        [step(s, reward=math.nan, grad_norm=math.inf, entropy=None, truncated="?") for s in range(30)],
        [step(0, truncated=0.0, equal_groups=1.0), {"kind": "eval", "step": 1}],
    ],
)
def test_every_journal_with_a_row_gives_a_picture(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    path = write_report(run_folder(tmp_path / "cost $_$ [漢字]", *rows))
    assert path == tmp_path / "cost $_$ [漢字]" / "report.png"
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert sorted(it.name for it in path.parent.iterdir()) == ["journal.jsonl", "report.png"]


@pytest.mark.parametrize("recipe", ['recipe = "grpo"', '[recipe]\nname = "grpo"'])
def test_the_title_is_the_run_and_its_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str) -> None:
    titles: list[str] = []

    def note(journal: Journal, title: str) -> Figure:
        titles.append(title)
        return Figure()

    monkeypatch.setattr("upslope.inspect.report.draw_journal", note)
    folder = run_folder(tmp_path / "first", step(0))
    write_report(folder)
    (folder / "run.toml").write_text(recipe)
    write_report(folder)
    assert titles == ["first", "first · grpo"]


def test_nothing_recorded_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to draw"):
        write_report(run_folder(tmp_path))
    with pytest.raises(UserError, match="no such run folder"):
        write_report(tmp_path / "nowhere")
    run_folder(tmp_path, step(0))
    (tmp_path / "run.toml").write_text("recipe = [")
    with pytest.raises(UserError, match=r"run\.toml"):
        write_report(tmp_path)


def test_summary_by_hand(tmp_path: Path) -> None:
    seconds = {"sample": 30.0, "update": 28.0}
    folder = run_folder(
        tmp_path, evaluation(0, 0.31), step(0, seconds=seconds), step(1, seconds=seconds), evaluation(2, 0.58)
    )
    assert summary_lines(folder) == [
        "accuracy    31.0 % [26.0 %, 36.0 %] -> 58.0 % [53.0 %, 63.0 %] (512 held-out problems, 95 % intervals)",
        "spent       2 steps, 2,000 tokens, 2:00 of computing",  # 2 * (30 + 28) + 2 * 2 seconds
    ]
    for name in ("step-000002", "step-1000000", "step-999999", "step-2000000.part"):
        (folder / "checkpoints" / name).mkdir(parents=True)
    write_report(folder)
    assert summary_lines(folder)[2:] == [
        f"picture     {folder / 'report.png'}",
        f"checkpoint  {folder / 'checkpoints' / 'step-1000000'}",
    ]


def test_summary_of_a_run_with_one_or_no_evaluation(tmp_path: Path) -> None:
    (line, _) = summary_lines(run_folder(tmp_path, evaluation(0, 0.31), step(0)))
    assert line == "accuracy    31.0 % [26.0 %, 36.0 %] (512 held-out problems, 95 % intervals)"
    assert summary_lines(run_folder(tmp_path, step(0))) == ["spent       1 steps, 1,000 tokens, 0:00 of computing"]


def save_attempts(folder: Path, updates: int, rewards: dict[str, float], text: str = "answer") -> None:
    rows = [
        {"problem": problem, "prompt_text": f"{problem}?", "response_text": f"{text} {updates}", "reward": reward}
        | {"ended": "stop" if reward else "length"}
        for problem, reward in rewards.items()
    ]
    (folder / "rollouts").mkdir(exist_ok=True)
    pa.parquet.write_table(pa.Table.from_pylist(rows), folder / "rollouts" / f"eval-{updates:06}.parquet")


def test_before_after_takes_what_turned_right_first(tmp_path: Path) -> None:
    save_attempts(tmp_path, 0, {"same": 1.0, "worse": 1.0, "longer-better": 0.0, "better": 0.0, "gone": 0.0})
    save_attempts(tmp_path, 999_999, {"better": 0.0, "worse": 0.0})  # in between: not read
    save_attempts(tmp_path, 1_000_000, {"better": 1.0, "longer-better": 1.0, "worse": 0.0, "same": 1.0, "new": 1.0})
    found = telling(before_after(tmp_path), num=9)
    assert [(pair.problem, pair.change) for pair in found] == [
        ("better", "better"), ("longer-better", "better"), ("worse", "worse"), ("same", "same")
    ]  # fmt: skip
    assert (found[0].prompt_text, found[0].before.text, found[0].after.text) == (
        "better?",
        "answer 0",
        "answer 1000000",
    )
    assert (found[0].before.ended, found[0].after.ended) == ("length", "stop")
    assert telling(before_after(tmp_path), num=3) == found[:3]


def test_the_first_of_several_attempts_at_a_problem_counts(tmp_path: Path) -> None:
    for updates, rewards in ((0, (0.0, 1.0)), (5, (1.0, 0.0))):
        save_attempts(tmp_path, updates, {"a": rewards[0]})
        path = tmp_path / "rollouts" / f"eval-{updates:06}.parquet"
        first = pa.parquet.read_table(path)
        second = first.set_column(first.schema.get_field_index("reward"), "reward", pa.array([rewards[1]]))
        pa.parquet.write_table(pa.concat_tables([first, second]), path)
    assert [(pair.before.reward, pair.after.reward) for pair in before_after(tmp_path)] == [(0.0, 1.0)]


def test_before_after_needs_two_evaluations(tmp_path: Path) -> None:
    assert before_after(tmp_path) == []
    save_attempts(tmp_path, 0, {"a": 0.0})
    assert before_after(tmp_path) == []
    screen = Console(file=io.StringIO())
    print_before_after(screen, tmp_path)
    assert isinstance(screen.file, io.StringIO)
    assert screen.file.getvalue() == ""


def test_a_spoilt_evaluation_file_is_named(tmp_path: Path) -> None:
    save_attempts(tmp_path, 0, {"a": 0.0})
    (tmp_path / "rollouts" / "eval-000005.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"eval-000005\.parquet"):
        before_after(tmp_path)
    pa.parquet.write_table(pa.table({"problem": ["a"]}), tmp_path / "rollouts" / "eval-000005.parquet")
    with pytest.raises(UserError, match=r"eval-000005\.parquet"):
        before_after(tmp_path)


def test_print_before_after_counts_everything_and_obeys_nothing(tmp_path: Path) -> None:
    save_attempts(tmp_path, 0, {"a": 0.0, "b": 1.0, "c": 0.0, "d": 0.0}, text="[red]\x1b[2J")
    save_attempts(tmp_path, 5, {"a": 1.0, "b": 0.0, "c": 0.0, "d": 0.0}, text="[/] #### 72")
    screen = Console(file=io.StringIO(), width=100, color_system=None)
    print_before_after(screen, tmp_path, num=1)
    assert isinstance(screen.file, io.StringIO)
    text = screen.file.getvalue()
    assert "Of 4 held-out problems: 1 better, 1 worse, 2 with the same reward." in text
    assert "before: reward 0, cut off" in text
    assert "after: reward 1" in text
    assert "[red]␛[2J 0" in text
    assert "[/] #### 72 5" in text
    assert "b?" not in text  # one problem was asked for


def predicted(number: int, bits: float, **keys: Any) -> dict[str, Any]:
    return {"kind": "eval", "step": number, "held_out_loss": 2 * bits, "bits_per_byte": bits, "seconds": 1.0} | keys


def test_a_run_that_reads_has_a_curve_of_bits_per_byte() -> None:
    rows = tuple(step(s, reward=1.0, loss=3.0 - s / 10) for s in range(6))
    evals = tuple(predicted(s, 2.0 - s / 10) for s in (0, 3, 6))
    figure = draw_journal(Journal(rows, evals), "first")
    lines = [line for axis in figure.axes for line in axis.get_lines() if line.get_color() == "#D55E00"]
    drawn = [np.asarray(line.get_ydata(), dtype=float).tolist() for line in lines]
    assert [2.0, 1.7, 1.4] in drawn, "bits per byte"
    assert [4.0, 3.4, 2.8] in drawn, "the held-out loss beside the loss"
    assert "Held-out text" in words(figure) and "held-out 2.000 → 1.400" in words(figure)
    assert "accuracy" not in words(figure)


def test_a_run_with_accuracy_keeps_its_panel_beside_losses() -> None:
    rows = tuple(step(s, reward=1.0) for s in range(3))
    figure = draw_journal(
        Journal(rows, (predicted(0, 2.0) | evaluation(0, 0.3), predicted(3, 1.0) | evaluation(3, 0.5))), "x"
    )
    assert "Held-out accuracy" in words(figure) and "held-out 30.0 % → 50.0 %" in words(figure)
    assert "held-out 4.000 → 2.000" in words(figure)


def test_the_summary_says_what_was_predicted(tmp_path: Path) -> None:
    text = summary_lines(run_folder(tmp_path, predicted(0, 2.5), step(0, reward=1.0), predicted(1, 1.25)))
    assert text[:2] == [
        "loss        5.0000 -> 2.5000 nats a token (held out)",
        "text        2.5000 -> 1.2500 bits per byte (held out)",
    ]
    assert not any("accuracy" in line for line in text)


def test_samples_from_before_and_after_are_printed_without_what_a_terminal_obeys(tmp_path: Path) -> None:
    samples = [{"prompt": f"Tom {i}", "text": f" has\x1b[31m {i} apples"} for i in range(3)]
    run_folder(tmp_path, *(predicted(i, 2.0, sample=sample) for i, sample in enumerate(samples)))
    screen = Console(file=io.StringIO(), width=60)
    print_before_after(screen, tmp_path)
    assert isinstance(screen.file, io.StringIO)
    said = screen.file.getvalue()
    assert "text before" in said and "Tom 0 has␛[31m 0 apples" in said
    assert "text after" in said and "Tom 2 has␛[31m 2 apples" in said
    assert "Tom 1" not in said and "\x1b" not in said
