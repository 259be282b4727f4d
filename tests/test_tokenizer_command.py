"""``upslope tokenizer``: any text comes back, equal text gives equal files, and what is held out is not learnt from."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from in_process import Said, upslope_says
from rich.console import Console
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from upslope.errors import UserError
from upslope.lab import tokenizing
from upslope.lab.tokenizing import cached_tokenizers, packing, packing_table
from upslope.model.byte_pairs import CHAT_TOKENS, SMALLEST, learn_tokenizer
from upslope.model.new import new_model
from upslope.model.pocket import build_tokenizer
from upslope.model.policy import Policy
from upslope.model.settings import NewModelSettings
from upslope.text.corpus import open_corpus
from upslope.text.held_out import held_out_documents, kept_out
from upslope.text.seen import hash_of

WORDS = ("river", "stone", "window", "garden", "letter", "silver", "morning", "harbour", "kitchen", "lantern", "meadow",
         "orchard", "pencil", "quarry", "saddle", "thunder")  # fmt: skip
ROWS = [f"The {WORDS[i % 16]} and the {WORDS[i * 3 % 16]} number {i * 37} were there.\n" for i in range(400)]


@pytest.fixture
def tokenizer_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Said]:
    """The command, in a folder with ``rows.jsonl``."""
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in ROWS))

    def run(*words: str) -> Said:
        return upslope_says(monkeypatch, capsys, "tokenizer", *words)

    return run


@pytest.fixture(scope="module")
def learnt() -> PreTrainedTokenizerFast:
    return learn_tokenizer(ROWS, 320)


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch, learnt: Any) -> list[str]:
    """The texts that a tokenizer would be learnt from; ``learnt`` stands for it."""
    texts_seen: list[str] = []

    def seen(texts: Iterable[str], vocabulary: int) -> Any:
        texts_seen.extend(texts)
        return learnt

    monkeypatch.setattr(tokenizing, "learn_tokenizer", seen)
    return texts_seen


@settings(max_examples=300)
@given(st.text())
def test_any_text_comes_back_from_its_tokens(learnt: PreTrainedTokenizerFast, text: str) -> None:
    ids = learnt.encode(text, add_special_tokens=False)
    assert learnt.decode(ids) == text


def test_hard_texts_come_back_too(learnt: PreTrainedTokenizerFast) -> None:
    hard = (
        *("", " ", "   ", "\n\n \n", "\t\tx", "a \r\nb\r", "\x00\x01\x7f", "\ufeffx", "\u200d\u2028\u3000 \xa0x"),
        *("e\u0301 é", "👩‍👩‍👧‍👦 🇩🇪 ☃️", "漢字かな交じり文", "العربية ١٢٣", "½²Ⅻ", "a" * 5000, " 'S don'T"),
        *(" , . !", "x .y ' s", "<|im_end|>\n", "\U0010ffff"),
    )
    for text in hard:
        assert learnt.decode(learnt.encode(text, add_special_tokens=False)) == text, repr(text)


def test_every_digit_stands_alone(learnt: PreTrainedTokenizerFast) -> None:
    found = learnt.tokenize("The number 14763 and 37x37=1369, 37 37 37")
    assert [token for token in found if re.search(r"\d", token)] == list("147633737136937373" + "7")
    assert "Ġnumber" in found
    # Nothing else comes more often than these pairs of digits, and none is learnt.
    years = learn_tokenizer(["year 1999, 1999, 1999\n"] * 50, SMALLEST + 3)
    assert [token for token in years.get_vocab() if len(re.findall(r"\d", token)) > 1] == []


def test_the_tokens_are_those_of_byte_pair_encoding() -> None:
    """By hand: "ab" is there 3 times, "abc" 2 times, nothing else twice; ids follow 4 special tokens and 256 bytes."""
    found = learn_tokenizer(["ab abc", "abc"], SMALLEST + 2)
    assert found.convert_ids_to_tokens([SMALLEST, SMALLEST + 1]) == ["ab", "abc"]
    assert found.convert_ids_to_tokens([0, 1, 2, 3]) == list(CHAT_TOKENS)
    with pytest.raises(UserError, match="the text has pairs for 262 only"):  # " abc" is there once
        learn_tokenizer(["ab abc", "abc"], SMALLEST + 3)


CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 2 + 3?"},
    {"role": "assistant", "content": "calc(2 + 3)"},
    {"role": "tool", "content": "5"},
    {"role": "assistant", "content": "It is 5."},
]


def test_the_chat_template_marks_what_the_assistant_writes(learnt: PreTrainedTokenizerFast) -> None:
    text = learnt.apply_chat_template(CHAT, tokenize=False)
    parts = [f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in CHAT]
    assert text == "".join(parts)
    prompt = learnt.apply_chat_template(CHAT[:2], tokenize=False, add_generation_prompt=True)
    assert prompt == "".join(parts[:2]) + "<|im_start|>assistant\n"
    assert text.startswith(prompt)
    found = learnt.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    assert found["input_ids"] == learnt.encode(text, add_special_tokens=False)
    marked = [i for i, one in zip(found["input_ids"], found["assistant_masks"], strict=True) if one]
    assert learnt.decode(marked) == "calc(2 + 3)<|im_end|>It is 5.<|im_end|>"


@pytest.mark.parametrize(
    ("messages", "more", "message"),
    [
        ([{"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]}], {}, "no place for tool_calls"),
        (CHAT, {"tools": [{"type": "function", "function": {"name": "f"}}]}, "no place for tools"),
    ],
)
def test_the_chat_template_drops_nothing_in_silence(
    learnt: PreTrainedTokenizerFast, messages: list[Any], more: dict[str, Any], message: str
) -> None:
    with pytest.raises(Exception, match=message):
        learnt.apply_chat_template(messages, tokenize=False, **more)


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


def test_the_command_writes_a_transformers_directory_and_says_how_well_it_packs(
    tokenizer_of: Callable[..., Said], tmp_path: Path
) -> None:
    build_tokenizer().save_pretrained("other")
    said = tokenizer_of("rows.jsonl", "--vocab", "320", "--held-out", "0.1", "-o", "words", "--against", "other")
    held = [row for row in ROWS if kept_out(row, 0.1)]
    assert said.code == 0 and 10 < len(held) < 90
    opened = AutoTokenizer.from_pretrained("words")
    assert len(opened) == 320
    assert (opened.eos_token, opened.pad_token, opened.bos_token) == ("<|endoftext|>", "<|pad|>", None)
    assert all(opened.decode(opened.encode(row)) == row for row in ROWS)
    num_bytes = sum(map(len, held))
    num_tokens = sum(len(opened.encode(row, add_special_tokens=False)) for row in held)
    assert f"tokenizer   words: 320 tokens, from {400 - len(held)} documents" in said.out
    assert f"on {len(held)} held-out documents" in said.out
    lines = [line.split() for line in said.out.splitlines()[-2:]]
    assert lines[0] == ["words", "320", f"{num_tokens:,}", f"{num_bytes / num_tokens:.2f}"]
    assert lines[1][:2] == ["other", str(len(build_tokenizer()))]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "rows.jsonl", "words"]
    assert (tmp_path / "words").stat().st_mode & 0o777 == (tmp_path / "other").stat().st_mode & 0o777


def test_equal_text_gives_equal_files_in_any_order_on_any_number_of_threads(
    tokenizer_of: Callable[..., Said],
) -> None:
    Path("turned.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in reversed(ROWS)))
    assert tokenizer_of("rows.jsonl", "--vocab", "330", "-o", "words-1").code == 0
    words = ["tokenizer", "turned.jsonl", "--vocab", "330", "-o", "words-3"]
    code, environment = "from upslope.cli import main; main()", os.environ | {"RAYON_NUM_THREADS": "3"}
    # In a process with hash seeds of its own:
    subprocess.run([sys.executable, "-c", code, *words], check=True, env=environment, timeout=200)
    assert digests(Path("words-1")) == digests(Path("words-3"))
    assert digests(Path("words-1")).keys() == {"chat_template.jinja", "tokenizer.json", "tokenizer_config.json"}
    assert tokenizer_of("rows.jsonl", "--vocab", "331", "-o", "more").code == 0
    assert digests(Path("more"))["tokenizer.json"] != digests(Path("words-1"))["tokenizer.json"]


def test_held_out_documents_are_those_of_a_corpus_and_not_learnt_from(
    tokenizer_of: Callable[..., Said], tmp_path: Path, passed: list[str], learnt: Any
) -> None:
    hashes = np.frombuffer(b"".join(hash_of(row.encode()) for row in ROWS), dtype=">u8").reshape(-1, 2)
    held = [kept_out(row, 0.25) for row in ROWS]
    assert 50 < sum(held) < 150
    assert held == held_out_documents(hashes, 0.25).tolist()
    corpus = open_corpus(
        [str(tmp_path / "rows.jsonl")], tokenizer=learnt, end_id=0, held_out=0.25, folder=tmp_path / "cache", workers=1
    )
    assert sum(held) == corpus.held_out_D.sum()
    assert tokenizer_of("rows.jsonl", "--held-out", "0.25", "-o", "words").code == 0
    assert sorted(passed) == sorted(row for row, out in zip(ROWS, held, strict=True) if not out)


@pytest.mark.parametrize("num", [1, 2, 9])
def test_of_few_documents_the_one_that_a_corpus_holds_out_is_not_learnt_from(
    tokenizer_of: Callable[..., Said], tmp_path: Path, passed: list[str], learnt: Any, num: int
) -> None:
    few = [row for row in ROWS if not kept_out(row, 0.01)][:num]
    (tmp_path / "few.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in [*few, *few]))
    assert tokenizer_of("few.jsonl", "--held-out", "0.01", "-o", "words").code == 0
    corpus = open_corpus(
        [str(tmp_path / "few.jsonl")], tokenizer=learnt, end_id=0, held_out=0.01, folder=tmp_path / "cache"
    )
    texts = [learnt.decode(corpus.read(i)[:-1].tolist()) for i in np.flatnonzero(~corpus.held_out_D)]
    assert len(texts) == max(num - 1, 1)
    assert sorted(passed) == sorted([*texts, *texts])


def test_packing_counts_bytes_and_tokens_and_takes_special_tokens_for_text(learnt: PreTrainedTokenizerFast) -> None:
    found = packing("x", learnt, ["é", "<|im_end|>"])
    apart = [learnt.tokenize(piece) for piece in ("é", "<|", "im", "_", "end", "|>")]
    assert found.num_bytes == 2 + 10
    assert 2 + 6 <= found.num_tokens <= sum(map(len, apart))
    assert found.bytes_a_token == 12 / found.num_tokens


def test_the_table_of_tokenizers_names_them_as_they_are(learnt: PreTrainedTokenizerFast) -> None:
    screen = io.StringIO()
    Console(file=screen, width=100).print(packing_table([packing("tok[/b]\x1b[2J", learnt, ["text"])]))
    assert "tok[/b]␛[2J" in screen.getvalue()


@pytest.mark.parametrize("before", ["false", None])
def test_all_threads_are_used_for_a_while_only(
    tokenizer_of: Callable[..., Said], monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    name, seen = "TOKENIZERS_PARALLELISM", []
    learn = tokenizing.learn_tokenizer

    def watched(texts: Iterable[str], vocabulary: int) -> Any:
        seen.append(os.environ[name])
        return learn(texts, vocabulary)

    monkeypatch.setattr(tokenizing, "learn_tokenizer", watched)
    for vocabulary in (300, 5000):  # the second has no such text
        if before is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, before)
        with contextlib.suppress(UserError):
            tokenizing.write_tokenizer(["rows.jsonl"], Path(f"words-{vocabulary}"), vocabulary)
        assert os.environ.get(name) == before
    assert seen == ["true", "true"]


def test_nothing_held_out_is_said(tokenizer_of: Callable[..., Said]) -> None:
    said = tokenizer_of("rows.jsonl", "--vocab", "300", "--held-out", "0", "-o", "words")
    assert said.code == 0 and "from 400 documents" in said.out
    assert said.out.endswith("no document was held out; give more text, or raise --held-out\n")


MISTAKES = {
    "small": (["rows.jsonl", "--vocab", "259"], "a vocabulary of 259 tokens (vocab) must have at least 260"),
    "large": (["rows.jsonl", "--vocab", "5000"], "the text has pairs for "),
    "absurd": (["rows.jsonl", "--vocab", "2000000"], "must have at most 1,000,000"),
    "column": (["rows.jsonl", "--column", "story"], "rows.jsonl, row 1: no column 'story'"),
    "nowhere": (["nowhere.txt"], "nowhere.txt"),
    "share": (["rows.jsonl", "--held-out", "1"], "--held-out 1 must be at least 0 and below 1"),
    "against": (["rows.jsonl", "--against", "./nowhere"], "tokenizer './nowhere': there is no such directory"),
    "bytes": (["bad.txt"], "bad.txt, byte 4: not UTF-8 text"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_with_a_tokenizer_is_one_line_and_writes_nothing(
    tokenizer_of: Callable[..., Said], tmp_path: Path, case: str
) -> None:
    Path("bad.txt").write_bytes(b"good\xff")
    words, message = MISTAKES[case]
    said = tokenizer_of(*words, "-o", "words")
    assert said.code == 2 and message in said.err
    assert [line for line in said.err.splitlines() if not line.startswith("upslope tokenizer: all text")] == [
        said.err.splitlines()[-1]
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.txt", "rows.jsonl"]


def test_the_largest_vocabulary_that_is_named_can_be_had(tokenizer_of: Callable[..., Said]) -> None:
    said = tokenizer_of("rows.jsonl", "--vocab", "5000", "-o", "words")
    most = re.search(r"ask for at most (\d+)", said.err)
    assert most is not None
    assert tokenizer_of("rows.jsonl", "--vocab", most[1], "-o", "words").code == 0
    assert tokenizer_of("rows.jsonl", "--vocab", str(int(most[1]) + 1), "-o", "more").code == 2


def test_nothing_is_overwritten(tokenizer_of: Callable[..., Said]) -> None:
    Path("full").mkdir()
    Path("full/mine.txt").write_text("mine")
    Path("empty").mkdir()
    said = tokenizer_of("rows.jsonl", "--vocab", "300", "-o", "full")
    assert said.code == 2 and "full is there already; name another directory, or remove it" in said.err
    assert tokenizer_of("rows.jsonl", "--vocab", "300", "-o", "rows.jsonl").code == 2
    assert tokenizer_of("rows.jsonl", "--vocab", "300", "-o", "empty").code == 0
    assert Path("full/mine.txt").read_text() == "mine" and len(list(Path("full").iterdir())) == 1
    Path("link").symlink_to("other")
    Path("other").mkdir()
    assert "link is there already" in tokenizer_of("rows.jsonl", "--vocab", "300", "-o", "link").err


def test_a_place_that_cannot_be_written_to_is_told_before_any_text_is_read(
    tokenizer_of: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizing, "find_sources", lambda sources: pytest.fail("too late"))
    said = tokenizer_of("rows.jsonl", "-o", "rows.jsonl/inner/words")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert f"rows.jsonl/inner/words cannot be made: {tmp_path / 'rows.jsonl'}: Not a directory" in said.err
    if Path("/proc/self").exists():  # where nobody may make a folder
        assert "/proc/words cannot be made" in tokenizer_of("rows.jsonl", "-o", "/proc/words").err
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_write_that_breaks_off_leaves_nothing(
    tokenizer_of: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, folder: Path) -> None:
        Path(folder, "tokenizer.json").write_text("{")
        raise OSError(28, os.strerror(28), str(folder))

    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", full)
    assert tokenizer_of("rows.jsonl", "--vocab", "300", "-o", "words").code == 3
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_cached_tokenizer_stands_beside_it_and_none_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learnt: PreTrainedTokenizerFast
) -> None:
    places = {"openai-community/gpt2": tmp_path / "gpt2", "HuggingFaceTB/SmolLM2-135M": tmp_path / "damaged"}
    learnt.save_pretrained(places["openai-community/gpt2"])
    places["HuggingFaceTB/SmolLM2-135M"].mkdir()
    (tmp_path / "damaged" / "tokenizer.json").write_text("{")
    monkeypatch.setattr(
        tokenizing,
        "try_to_load_from_cache",
        lambda name, file: str(places[name] / file) if name in places else None,
    )
    assert list(cached_tokenizers()) == ["openai-community/gpt2"]
    monkeypatch.setattr(tokenizing, "try_to_load_from_cache", lambda name, file: object())  # known not to be there
    assert cached_tokenizers() == {}


def test_a_checkpoint_of_a_new_model_keeps_the_tokenizer_as_it_is(
    tmp_path: Path, learnt: PreTrainedTokenizerFast
) -> None:
    """Beside a Llama's config a tokenizer could be taken for Llama's own, which cuts text otherwise."""
    learnt.save_pretrained(tmp_path / "words")
    model, tokenizer = new_model("new:llama", NewModelSettings(tokenizer=str(tmp_path / "words"), depth=1), 0)
    policy = Policy(model, tokenizer)
    policy.save(tmp_path / "saved")
    policy.release()
    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
    texts = [*ROWS[:20], "  37 \n\n x\t'S 🇩🇪"]
    assert [saved.encode(text) for text in texts] == [learnt.encode(text) for text in texts]
    assert saved.chat_template == learnt.chat_template
    assert [saved.decode(saved.encode(text)) for text in texts] == texts


def test_what_texts_raise_is_raised(learnt: PreTrainedTokenizerFast) -> None:
    def broken() -> Iterable[str]:
        yield "text"
        raise UserError("file.txt, byte 4: not UTF-8 text")

    with pytest.raises(UserError, match=r"file\.txt, byte 4"):
        learn_tokenizer(broken(), 300)
