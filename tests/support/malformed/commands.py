"""Every command with arguments that are none."""

from __future__ import annotations

from collections.abc import Iterator

from malformed.case import ROWS, TRAIN, USER, Case, lines, unique

OSC = "\x1b]52;c;aGk=\x07"
WORDS: dict[tuple[str, ...], str] = {
    ("trian",): "trian",
    (OSC,): "]52",
    ("--nonsense",): "--nonsense",
    ("train", "--stps", "3"): "--stps",
    ("train", f"--{OSC}"): "]52",
    ("train", "--steps"): "--steps",
    ("train", "--steps", "many"): "--steps",
    ("train", "--steps", OSC): "--steps",
    ("train", "--steps", "1e3"): "--steps",
    ("train", "--steps", "-1", "--model", "pocket:blank"): "steps",
    ("train", "--seed", "1" + "0" * 23): "seed",
    ("train", "--minutes", "nan"): "minutes",
    ("train", "--minutes", "inf"): "minutes",
    ("train", "--plain=3"): "--plain",
    ("train", "a.toml", "b.toml"): "a.toml and b.toml",
    ("train", "none"): "none",
    ("train", "none.toml"): "none.toml",
    ("train", ""): "KEY=VALUE",
    ("train", "\udcff"): "KEY=VALUE",
    ("train", "--from", "3"): "--resume",
    ("train", "--resume", "", "--from", "x"): "--from",
    ("train", "--resume", "\udcff"): "run.toml",
    ("train", "--resume", OSC): "run.toml",
    ("train", "--resume", "a" * 5000): "run.toml",
    ("train", "--name", ".."): "name",
    ("train", "--name", OSC): "name",
    ("train", "--out", "mine.py", "--model", "pocket:blank"): "mine.py",
    ("train", "--recipe", ""): "recipe",
    ("train", "--recipe", "grop"): "grop",
    ("train", "--recipe", OSC): "recipe",
    ("train", "--task", ""): "task",
    ("train", "--task", "pockt"): "pockt",
    ("train", "--model", ""): "model",
    ("train", "--model", "a/b/c"): "a/b/c",
    ("train", "--model", OSC): "model",
    ("train", "--data", ""): "data",
    ("train", "--data", "none"): "none",
    ("train", "--data", OSC, *USER): "data",
    ("train", "--data", "\udcff", *USER): "data",
    ("train", "--data", "data.jsonl"): "reward",
    ("train", "--data", "data.jsonl", "--reward", ""): "reward",
    ("train", "--data", "data.jsonl", *USER, "--reward-weight", "x"): "--reward-weight",
    ("train", "--data", "data.jsonl", *USER, "--task", "pocket"): "--data",
    ("eval",): "argument",
    ("eval", "nowhere/at/all"): "nowhere/at/all",
    ("eval", "./nowhere", "--task", "pocket"): "./nowhere",
    ("eval", "pocket:blank", "--problems", "0"): "--problems",
    ("eval", "pocket:blank", "--samples", "-1"): "samples",
    ("eval", "pocket:blank", "--samples", "9" * 12): "samples",
    ("eval", "pocket:blank", "--samples", "2", "--temperature", "0"): "temperature",
    ("eval", "pocket:blank", "--temperature", "nan"): "temperature",
    ("eval", "pocket:blank", "--dtype", "half"): "dtype",
    ("eval", "pocket:blank", "--device", "gpu"): "gpu",
    ("eval", "pocket:blank", "--max-tokens", "0"): "max_tokens",
    ("eval", "pocket:blank", "--max-tokens", "9999"): "max_tokens",
    ("eval", "pocket:blank", "learn.lr=1"): "learn.lr",
    ("eval", "pocket:blank", "steps"): "steps",
    ("eval", "pocket:blank", "--attempts", "."): "folder",
    ("eval", "pocket:blank", "--attempts", "none/at/all.jsonl"): "none/at",
    ("measure",): "argument",
    ("measure", "pocket:blank", "--samples", "0"): "--samples",
    ("measure", "pocket:blank", "--to", "."): "folder",
    ("measure", "pocket:blank", "--max-tokens", "9999", "--to", "m.jsonl"): "max_tokens",
    ("measure", "pocket:blank", "task.where=x", "--data", "data.jsonl", *USER): "where",
    ("score",): "task",
    ("score", "--task", "pocket"): "nothing to score",
    ("score", "--task", "pocket", "a", "b"): "a and b",
    ("score", "--task", "pocket", "."): ".",
    ("score", "--task", "pocket", OSC): "]52",
    ("score", "--task", "pocket", "\udcff"): "cannot read",
    ("score", "--task", "pocket", "steps=1"): "steps",
    ("score", "--seed", "x"): "--seed",
    ("diff",): "argument",
    ("diff", "sft"): "argument",
    ("diff", "sft", "grop"): "grop",
    ("diff", "sft", OSC): "recipe",
    ("diff", "sft", "none.py:X"): "none.py",
    ("diff", "mine.py:fine", "sft"): "mine.py:fine",
    ("recipes", "grpo"): "grpo",
    ("report",): "argument",
    ("report", "nowhere"): "nowhere",
    ("report", "data.jsonl"): "data.jsonl",
    ("report", OSC): "]52",
    ("report", "\udcff"): "journal",
    ("report", "a" * 5000): "aaa",
    ("prove", "--only", "nonsense"): "nonsense",
    ("prove", "--only", "99"): "99",
    ("prove", "--only", "-1"): "-1",
    ("prove", "--only", ""): "claim",
    ("prove", "--only", OSC): "claim",
    ("prove", "nonsense"): "nonsense",
    ("doctor", "nonsense"): "nonsense",
    ("doctor", "--nonsense"): "--nonsense",
    ("bench", "--shape", "4x8"): "4x8",
    ("bench", "--shape", ""): "--shape",
    ("bench", "--shape", "0x2x2"): "--shape",
    ("bench", "--shape", "ax2x2"): "--shape",
    ("bench", "--shape", "1" + "0" * 30 + "x2x2", "--model", "pocket:blank"): "--shape",
    ("bench", "--shape", "1x2x99999", "--model", "pocket:blank"): "--shape",
    ("bench", "--shape", OSC): "--shape",
    ("bench", "--repeat", "0"): "--repeat",
    ("bench", "--threads", "-1"): "threads",
    ("bench", "--threads", "100000"): "threads",
    ("bench", "--recipe", "sft"): "bench",
    ("bench", "--model", "./nowhere"): "./nowhere",
    ("bench", "--data", "none"): "none",
    ("ladder", "--seeds", "0", "--out", "l"): "--seeds",
    ("ladder", "--seeds", "-1", "--out", "l"): "--seeds",
    ("ladder", "--tokens", "0", "--out", "l"): "--tokens",
    ("ladder", "--noise-batches", "3", "--out", "l"): "--noise-batches",
    ("ladder", "--recipes", "grop", "--out", "l"): "grop",
    ("ladder", "--recipes", ",", "--out", "l"): "recipe",
    ("ladder", "--recipes", "grpo,grpo", "--out", "l"): "--recipes",
    ("ladder", "--lr", "nan", "--out", "l"): "lr",
    ("ladder", "--lr", "-1", "--out", "l"): "lr",
    ("ladder", "stps=1", "--out", "l"): "stps",
    ("ladder", "steps", "--out", "l"): "steps",
    ("ladder", "--task", "pockt", "--out", "l"): "pockt",
    ("ladder", "--data", "none", "--out", "l"): "none",
    ("ladder", "--out", "mine.py"): "mine.py",
    ("ladder", "--model", "./nowhere", "--out", "l"): "nowhere",
}
PROMPT = "Tom has 3 books. " * 60


def cases() -> list[Case]:
    return unique([*words(), *too_long()])


def words() -> Iterator[Case]:
    for given, says in WORDS.items():
        name = " ".join(word[:30] for word in given)
        yield Case(f"command: {name!a}", given, says)


def too_long() -> Iterator[Case]:
    """Texts that the model is too short for, which no step need meet before the run says so."""
    data = ("--data", "rows.jsonl", *USER, "--eval-data", "held.jsonl")
    held = lines([{"prompt": "Ann has 2 cards."}])
    long = lines([*ROWS, {"prompt": PROMPT, "id": "far"}])
    shown = [row | {"demonstration": "He has 3."} for row in ROWS]
    plain = [word for word in TRAIN if not word.startswith(("recipe.sample", "eval."))]
    far = "problem far (rows.jsonl row 13): 3"
    yield Case("a prompt is too long", (*TRAIN, *data), far, {"rows.jsonl": long, "held.jsonl": held})
    yield Case(
        "a held-out prompt is too long",
        (*plain, *data),
        "problem far (held.jsonl row 2): 3",
        {"rows.jsonl": lines(ROWS), "held.jsonl": held + lines([{"prompt": PROMPT, "id": "far"}])},
    )
    yield Case(
        "a demonstration is too long",
        (*plain, *data, "recipe=sft"),
        "far (rows.jsonl row 13): ",
        {"rows.jsonl": lines([*shown, ROWS[0] | {"demonstration": PROMPT, "id": "far"}]), "held.jsonl": held},
    )
    measure = (
        "measure",
        "pocket:blank",
        "--data",
        "rows.jsonl",
        *USER,
        "--eval-data",
        "held.jsonl",
        "--to",
        "to.jsonl",
    )
    yield Case("a prompt is too long to be measured", measure, far, {"rows.jsonl": long, "held.jsonl": held})
    fits = {"rows.jsonl": long, "held.jsonl": held}
    for how in ('task.where=id != "far"', "task.too_long=drop", "task.too_long=truncate", "task.max_prompt_tokens=99"):
        yield Case(f"a long prompt that is left out by {how}", (*TRAIN, *data, how), files=fits, accepted=True)
    none = {"rows.jsonl": lines([{"prompt": PROMPT, "id": "far"}]), "held.jsonl": held}
    yield Case("long prompts alone are left out", (*TRAIN, *data, "task.too_long=drop"), "task.too_long", none)
