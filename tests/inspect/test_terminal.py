from __future__ import annotations

import io
import itertools
import math
import re
import time
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from upslope.inspect.terminal import TerminalView
from upslope.inspect.words import chart, duration, shorten, visible
from upslope.training.view import NullView, View

ROW = {
    "kind": "step", "step": 0, "reward": 0.3125, "accuracy": 0.3125, "length": 21.3, "truncated": 0.02, "entropy": 0.9,
    "grad_norm": 0.8, "logp_gap_max": 1e-6, "equal_groups": 0.3, "loss": -0.01, "tokens_per_s": 1.09e6,
}  # fmt: skip
NASTY = "[bold]Natalia[/bold] [/] \x1b[31mred\x1b]0;title\x07 \x9b2J \u202egnihton \ud800 漢字"


def evaluation(step: int, value: float) -> dict[str, Any]:
    return {"kind": "eval", "step": step, "greedy": {"value": value, "low": value - 0.04, "high": value + 0.04}}


def console(width: int = 100, height: int = 30) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width, height=height)


def written(of: Console) -> str:
    assert isinstance(of.file, io.StringIO)
    return of.file.getvalue()


def plain_run(num_steps: int, first_step: int = 0, **changed: Any) -> list[str]:
    screen = Console(file=io.StringIO(), width=40)
    seconds = itertools.count()
    view: View = TerminalView(screen, plain=True, clock=lambda: float(next(seconds)))
    view.start("first", "grpo", num_steps, first_step)
    view.evaluated(evaluation(first_step, 0.41))
    for step in range(first_step, num_steps):
        view.step(ROW | {"step": step} | changed)
    view.close(ok=True)
    return written(screen).splitlines()


def last_frame(width: int, height: int, text: str = NASTY, num_steps: int = 30) -> list[str]:
    """What remains on the screen after a run that used every method. rich's own escape sequences are taken out."""
    screen = console(width, height)
    with TerminalView(screen, plain=False) as view:
        view.start("first", "grpo: group z-score", 200)
        view.evaluated(evaluation(0, 0.31))
        for step in range(num_steps):
            view.step(ROW | {"step": step, "reward": 0.3 + step / 100})
        view.evaluated(evaluation(num_steps, 0.58))
        view.phase("sample", 3, 8, 10900.0)
        view.attempt(text, text, 1.0)
    # The cursor movement ``ESC [ 1 A ESC [ 2 K`` starts a redraw: what follows the last one is the last frame.
    frame = re.split(r"\x1b\[1A\x1b\[2K|\r\x1b\[2K", written(screen))[-1]
    return re.sub(r"\x1b\[\?25[lh]", "", frame).splitlines()


def test_plain_lines_are_few_and_grep() -> None:
    found = plain_run(300)
    steps = [line for line in found if line.startswith("step ")]
    assert 30 <= len(steps) <= 60
    assert len(found) <= 60
    assert steps[0].startswith("step 1/300 reward=0.3125 accuracy=0.3125 loss=-0.01 length=21.3 ")
    assert "tokens_per_s=1090000" in steps[0]
    assert steps[-1].startswith("step 300/300 ")
    assert steps[-1].endswith("left=0:00")
    assert "eval step=0 accuracy=0.41 [0.37, 0.45]" in found
    assert not any("\x1b" in line for line in found)


def test_plain_time_left_is_the_pace_times_the_steps_to_go() -> None:
    # The clock ticks one second a call: every step takes one second, so after step 1 of 100 there are 99 s to go.
    assert plain_run(100)[2].endswith("left=1:39")


def test_plain_short_and_resumed_runs_say_every_step() -> None:
    assert sum(line.startswith("step ") for line in plain_run(10)) == 10
    resumed = plain_run(300, first_step=290)
    assert resumed[0] == "run first steps=300 from=290 recipe=grpo"
    assert next(line.split()[1] for line in resumed if line.startswith("step ")) == "291/300"


def test_plain_lines_bear_missing_and_strange_values() -> None:
    line = next(line for line in plain_run(1, loss=None, reward=math.nan, entropy="?") if line.startswith("step "))
    assert "reward=nan" in line
    assert "loss" not in line
    assert "entropy=nan" in line


def test_plain_evaluations_show_pass_at_k() -> None:
    screen = Console(file=io.StringIO(), width=40)
    view = TerminalView(screen, plain=True)
    view.evaluated(evaluation(7, 0.5) | {"pass_at": {"4": {"value": 0.7, "low": 0.6, "high": 0.8}}})
    view.evaluated({"kind": "eval"})
    assert written(screen).splitlines() == [
        "eval step=7 accuracy=0.5 [0.46, 0.54] pass@4=0.7 [0.6, 0.8]",
        "eval step=0",
    ]


def test_plain_text_survives_an_encoding_that_lacks_it() -> None:
    raw = io.BytesIO()
    view = TerminalView(Console(file=io.TextIOWrapper(raw, encoding="ascii", write_through=True)), plain=True)
    view.message("漢字 [bold] → \x1b[2J")
    assert raw.getvalue() == b"?? [bold] ? ?[2J\n"


def test_a_file_is_never_sent_a_live_screen() -> None:
    # force_terminal is what FORCE_COLOR=1 does to a pipe.
    screen = console()
    with TerminalView(screen) as view:
        view.start("first", "grpo", 1)
        view.step(ROW)
    assert written(screen).startswith("run first steps=1 recipe=grpo\nstep 1/1 ")


def test_live_frame_shows_what_matters() -> None:
    text = "\n".join(last_frame(100, 30))
    for words in ("first  grpo: group z-score", "30/200", "reward 0.59", "31.0 % → 58.0 %  [54.0 %, 62.0 %]",
                  "length 21.3", "cut off 2%", "gradient norm 0.8", "an attempt, reward 1", "done"):  # fmt: skip
        assert words in text
    assert "█" in text


@pytest.mark.parametrize(("width", "height"), [(200, 60), (80, 24), (60, 12), (30, 8), (10, 3), (1, 1)])
@pytest.mark.parametrize("text", [NASTY, "", "word " * 20_000, "漢" * 5_000, "\n" * 500])
def test_live_frame_fits_any_terminal(width: int, height: int, text: str) -> None:
    frame = last_frame(width, height, text)
    assert max(map(cell_len, frame)) <= width
    if height >= 8:
        assert len(frame) < height


def test_the_bar_gives_way_to_its_words() -> None:
    assert "30/200  0:00 gone, done" in last_frame(40, 24)[1]


def test_an_answer_at_the_end_of_a_long_text_is_seen() -> None:
    assert any("#### 72" in line for line in last_frame(80, 24, "thinking " * 500 + "#### 72"))


def test_model_text_is_shown_and_not_obeyed() -> None:
    text = "\n".join(last_frame(100, 30))
    assert "[bold]Natalia[/bold] [/] ␛[31mred␛]0;title␇ �2J �gnihton � 漢字" in text
    assert "\x1b" not in text


def test_live_view_bears_missing_keys_and_nan() -> None:
    screen = console()
    with TerminalView(screen, plain=False) as view:
        view.start("first", "grpo", 0)
        view.step({})
        view.step({"reward": math.nan, "grad_norm": math.inf, "length": None, "truncated": "?"})
        view.evaluated({})
        view.phase("update", 3, None, math.nan)
    assert "gradient norm inf" in written(screen)
    assert "Traceback" not in written(screen)


def test_imitation_shows_its_loss() -> None:
    screen = console()
    with TerminalView(screen, plain=False) as view:
        view.start("warm-up", "sft", 2)
        view.step(ROW | {"reward": 1.0, "loss": 2.5})
        view.step(ROW | {"reward": 1.0, "loss": 1.25, "step": 1})
    assert "loss 1.25" in written(screen)


def test_a_run_that_reaches_every_reward_still_shows_rewards() -> None:
    screen = console()
    with TerminalView(screen, plain=False) as view:
        view.start("first", "grpo", 2)
        view.step(ROW | {"reward": 0.5})
        view.step(ROW | {"reward": 1.0, "step": 1})
    assert "reward 1 " in written(screen)


def test_the_phase_shows_while_the_run_computes() -> None:
    screen = console()
    with TerminalView(screen, plain=False) as view:
        view.start("first", "grpo", 200)
        view.phase("sample", 312, 512, 10900.0)
        until = time.monotonic() + 5
        while "sample" not in written(screen) and time.monotonic() < until:  # no further call to the view
            time.sleep(0.02)
        assert "sample  312/512  10,900 tokens/s" in written(screen)


def test_drawing_does_not_grow_with_the_number_of_steps() -> None:
    screen = console()
    begun = time.monotonic()
    with TerminalView(screen, plain=False) as view:
        view.start("first", "grpo", 5000)
        for step in range(5000):
            view.step(ROW | {"step": step})
    num_frames = written(screen).count("gone")
    assert num_frames <= 3 + 5 * (time.monotonic() - begun)  # four a second, the first and the last


@pytest.mark.parametrize("plain", [True, False])
def test_an_interrupt_leaves_the_terminal_as_it_was(plain: bool) -> None:
    screen = console()
    with pytest.raises(KeyboardInterrupt), TerminalView(screen, plain=plain) as view:
        view.start("first", "grpo", 200)
        view.step(ROW)
        raise KeyboardInterrupt
    text = written(screen)
    assert "stopped" in text
    assert text.rfind("\x1b[?25h") >= text.rfind("\x1b[?25l")  # the cursor is shown again (or was never hidden)
    view.close(ok=True)  # a second close says nothing more
    assert written(screen) == text


def test_messages_stand_above_the_live_screen_unchanged() -> None:
    screen = console(width=20)
    with TerminalView(screen, plain=False) as view:
        view.start("first", "grpo", 2)
        view.message("checkpoint [step-000010] written")
    assert "checkpoint [step-000010] written" in written(screen)


def test_null_view_is_a_view(capsys: pytest.CaptureFixture[str]) -> None:
    view: View = NullView()
    view.start("first", "grpo", 2)
    view.phase("sample")
    view.step(ROW)
    view.evaluated(evaluation(0, 0.5))
    view.attempt("a", "b", 1.0)
    view.message("c")
    view.close(ok=True)
    assert capsys.readouterr() == ("", "")


def test_visible_leaves_ordinary_text_alone() -> None:
    assert visible("naïve 漢字 🙂 x² \n#### 72") == "naïve 漢字 🙂 x² \n#### 72"
    assert visible("a\r\nb\rc\x7f\u200b") == "a\nb␍c␡�"
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in visible("".join(map(chr, range(200)))) if c != "\n")


def test_charts_by_hand() -> None:
    # Two lines are 16 levels; the least value gets 1, the greatest 16, the middle 1 + round(7.5) = 9.
    assert chart([0.0, 1.0, 2.0], width=3, height=2) == [" ▁█", "▁██"]
    assert chart([0.0, 2.0, 4.0, 4.0], width=2) == ["▁█"]  # bins of two: means 1 and 4
    assert chart([1.0, math.nan, 2.0], width=3) == ["▁ █"]
    assert chart([5.0, 5.0], width=9) == ["▁▁"]
    assert chart([], width=9, height=2) == ["", ""]


def test_shorten_and_duration_at_their_edges() -> None:
    assert shorten("abc", 3) == "abc"
    assert shorten("abcd", 3) == "a…d"
    assert [len(shorten("x" * 50, n)) for n in (1, 2, 7, 49)] == [1, 2, 7, 49]
    assert [duration(s) for s in (59.6, 3599.7, -1.0, math.inf)] == ["1:00", "1:00:00", "0:00", "?"]


READ = {"kind": "eval", "step": 4, "held_out_loss": 3.25, "bits_per_byte": 1.5}


def test_what_was_predicted_stands_in_plain_lines_and_no_accuracy_where_there_was_none() -> None:
    screen = Console(file=io.StringIO(), width=40)
    view = TerminalView(screen, plain=True)
    view.start("first", "pretrain on text", 10)
    view.evaluated(READ | {"sample": {"prompt": "Tom \x1b[31mhas", "text": " 3\napples \x9b2J\u202e"}})
    view.evaluated(READ | evaluation(8, 0.5))
    lines = written(screen).splitlines()
    assert lines[1:] == [
        "eval step=4 held_out_loss=3.25 bits_per_byte=1.5",
        "sample Tom ␛[31mhas | 3 ⏎ apples �2J�",
        "eval step=8 accuracy=0.5 [0.46, 0.54] held_out_loss=3.25 bits_per_byte=1.5",
    ]


def test_the_live_screen_shows_what_was_predicted_and_how_the_policy_goes_on() -> None:
    screen = console()
    with TerminalView(screen, plain=False) as view:
        view.start("first", "pretrain on text", 10)
        for step, bits in enumerate((2.5, 2.0, 1.25)):
            sample = {"prompt": "Tom has", "text": f" {NASTY} {step}"}
            view.evaluated(READ | {"step": step, "bits_per_byte": bits, "sample": sample})
            view.step(ROW | {"step": step, "reward": 1.0})
    frame = written(screen)[-3000:]
    assert "2.500 → 1.250" in frame and "held-out loss" in frame
    assert "how it goes on" in frame and "Tom has" in frame
    assert "\x1b[31m" not in frame and "\x9b" not in frame and "\u202e" not in frame
    assert "accuracy" not in frame and "%" not in frame.partition("bits per byte")[2].partition("\n")[0]
