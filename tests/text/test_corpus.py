"""A corpus holds what its tokenizer says, and is the same however it was made."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from stories import END, byte_tokenizer, stories, write_rows

from upslope.errors import UserError
from upslope.text import corpus as corpus_module, shards
from upslope.text.corpus import Corpus, open_corpus
from upslope.text.held_out import held_out_documents


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD", 10_000)
    monkeypatch.setattr("upslope.text.making.BATCH_BYTES", 2_000)


def opened(folder: Path, *sources: Path, **options: Any) -> Corpus:
    given: dict[str, Any] = {"tokenizer": byte_tokenizer(), "end_id": END, "held_out": 0.1, **options}
    return open_corpus([str(source) for source in sources], folder=folder, **given)


def files(corpus: Corpus) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(corpus.folder.iterdir())}


def test_a_corpus_holds_each_new_document_as_its_tokens_and_the_end(tmp_path: Path) -> None:
    texts = list(stories(300))
    source = write_rows(tmp_path / "a.jsonl", texts)
    corpus = opened(tmp_path / "made", source)
    tokenizer, unique = byte_tokenizer(), list(dict.fromkeys(texts))
    expected = [[*tokenizer.encode(text).ids, END] for text in unique]
    assert corpus.duplicates == len(texts) - len(unique) == 30
    assert corpus.length_D.tolist() == [len(tokens) for tokens in expected]
    assert corpus.bytes_D.tolist() == [len(text.encode()) for text in unique]
    assert corpus.length_D.sum() == sum(map(len, expected))
    assert len(list(corpus.folder.glob("shard-*.tokens"))) > 3
    for document, tokens in enumerate(expected):
        found = corpus.read(document)
        assert found.dtype == np.int64
        assert found.tolist() == tokens
    assert corpus.read(7, 2, 5).tolist() == expected[7][2:5]
    assert corpus.read(7, len(expected[7])).tolist() == []


@pytest.mark.parametrize(("document", "start", "stop"), [(-1, 0, 1), (9999, 0, 1), (0, -1, 1), (0, 2, 1), (0, 0, 9999)])
def test_what_is_not_in_a_corpus_is_not_read(document: int, start: int, stop: int, tmp_path: Path) -> None:
    corpus = opened(tmp_path / "made", write_rows(tmp_path / "a.jsonl", stories(5)))
    with pytest.raises(IndexError):
        corpus.read(document, start, stop)


def test_a_corpus_is_the_same_whatever_the_number_of_processes(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", stories(400))
    made = [opened(tmp_path / f"made{n}", source, workers=n) for n in (0, 1, 3)]
    assert files(made[0]) == files(made[1]) == files(made[2])
    assert made[0].fingerprint == made[1].fingerprint == made[2].fingerprint


def test_a_corpus_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", stories(100))
    os.utime(source, (1e9, 1e9))
    first = opened(tmp_path / "made", source)
    told: list[int] = []
    again = opened(tmp_path / "made", source, progress=lambda done, total: told.append(done))
    os.utime(source, (1e9, 2e9))  # touched
    touched = opened(tmp_path / "made", source, progress=lambda done, total: told.append(done))
    moved = opened(tmp_path / "made", source.rename(tmp_path / "b.jsonl"), progress=lambda d, t: told.append(d))
    assert told == []
    assert first.fingerprint == again.fingerprint == touched.fingerprint == moved.fingerprint


def test_what_a_corpus_depends_on_makes_another_one(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", stories(100))
    made = [opened(tmp_path / "made", source)]
    made.append(opened(tmp_path / "made", source, tokenizer=byte_tokenizer(310)))
    made.append(opened(tmp_path / "made", source, end_id=1))
    made.append(opened(tmp_path / "made", source, held_out=0.2))
    state = source.stat()
    source.write_bytes(source.read_bytes().replace(b"cat", b"cow"))  # as long as before
    assert source.stat().st_size == state.st_size
    made.append(opened(tmp_path / "made", source))
    assert len({corpus.fingerprint for corpus in made}) == 5
    assert len({corpus.folder for corpus in made}) == 4  # what is held out is no matter of tokens
    assert made[0].read(0).tolist() == made[3].read(0).tolist()  # the older one stays as it is


def test_a_change_that_leaves_size_and_time_is_seen_while_the_time_is_new(tmp_path: Path) -> None:
    source = tmp_path / "a.txt"
    source.write_text("one")
    state = source.stat()
    first = opened(tmp_path / "made", source)
    source.write_text("two")
    os.utime(source, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert opened(tmp_path / "made", source).fingerprint != first.fingerprint


def test_a_source_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", stories(100))

    def add(done: int, total: int | None) -> None:
        source.write_bytes(source.read_bytes() + b"\n")

    with pytest.raises(UserError, match=r"a\.jsonl was changed while it was read"):
        opened(tmp_path / "made", source, progress=add)


def test_progress_ends_with_all_bytes(tmp_path: Path) -> None:
    sources = [write_rows(tmp_path / f"{n}.jsonl", stories(100, seed=n)) for n in range(3)]
    told: list[tuple[int, int | None]] = []
    opened(tmp_path / "made", *sources, progress=lambda done, total: told.append((done, total)))
    size = sum(source.stat().st_size for source in sources)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert {total for _, total in told} == {size}
    assert told[-1][0] == size
    assert len(told) > 10


def test_the_words_of_special_tokens_in_a_text_are_text(tmp_path: Path) -> None:
    source = tmp_path / "a.txt"
    source.write_text("say <|end|> now")
    tokenizer = byte_tokenizer()
    tokenizer.enable_truncation(2)
    corpus = opened(tmp_path / "made", source, tokenizer=tokenizer)
    found = corpus.read(0).tolist()
    assert found.count(END) == 1
    assert tokenizer.decode(found[:-1]) == "say <|end|> now"
    plain = opened(tmp_path / "made", source)
    assert plain.fingerprint == corpus.fingerprint


def test_a_large_vocabulary_takes_four_bytes_a_token(tmp_path: Path) -> None:
    source = tmp_path / "a.txt"
    source.write_text("a cat")
    small, large = (opened(tmp_path / "made", source, end_id=end) for end in (65_535, 65_536))
    assert [corpus.read(0)[-1] for corpus in (small, large)] == [65_535, 65_536]
    sizes = [next(corpus.folder.glob("*.tokens")).stat().st_size for corpus in (small, large)]
    assert sizes[1] == 2 * sizes[0]


def test_a_tokenizer_in_python_is_sent_to_other_processes(tmp_path: Path) -> None:
    from transformers import ByT5Tokenizer

    source = write_rows(tmp_path / "a.jsonl", iter(["ab <pad>", "é"]))
    corpus = opened(tmp_path / "made", source, tokenizer=ByT5Tokenizer(), end_id=1, workers=2)
    assert corpus.read(0).tolist() == [byte + 3 for byte in b"ab <pad>"] + [1]
    assert corpus.read(1).tolist() == [byte + 3 for byte in "é".encode()] + [1]
    with pytest.raises(UserError, match="cannot be sent to another process"):
        opened(tmp_path / "made", source, tokenizer=lambda text: [], end_id=1)


def held_texts(corpus: Corpus) -> set[str]:
    tokenizer = byte_tokenizer()
    return {tokenizer.decode(corpus.read(int(d))[:-1].tolist()) for d in np.flatnonzero(corpus.held_out_D)}


def test_the_same_documents_are_held_out_in_every_order_and_company(tmp_path: Path) -> None:
    texts = list(dict.fromkeys(stories(400)))
    others = list(stories(300, seed=9))
    one = opened(tmp_path / "made", write_rows(tmp_path / "a.jsonl", texts))
    mixed = texts + others
    Random(1).shuffle(mixed)
    two = opened(tmp_path / "made", write_rows(tmp_path / "b.jsonl", mixed))
    assert 20 <= len(held_texts(one)) <= 60
    assert held_texts(one) == held_texts(two) & set(texts)
    more = opened(tmp_path / "made", tmp_path / "a.jsonl", held_out=0.3)
    assert held_texts(one) < held_texts(more)
    assert not opened(tmp_path / "made", tmp_path / "a.jsonl", held_out=0).held_out_D.any()


@pytest.mark.parametrize(
    ("first", "share", "expected"),
    [
        ([7 << 60, 1 << 60, 15 << 60], 0.1, [False, True, False]),
        ([7 << 60, 9 << 60, 15 << 60], 0.1, [True, False, False]),  # none: the smallest
        ([7 << 60, 9 << 60, 3 << 60], 0.9, [True, False, True]),  # all: but the largest
        ([1 << 60], 0.5, [False]),  # never the only one
        ([8 << 60, 0], 0.5, [False, True]),
        ([8 << 60, 0], 0.0, [False, False]),
    ],
)
def test_the_hash_decides_what_is_held_out(first: Sequence[int], share: float, expected: list[bool]) -> None:
    hash_D2 = np.array([[number, 0] for number in first], dtype=np.uint64)
    assert held_out_documents(hash_D2, share).tolist() == expected


def test_a_corpus_that_is_not_whole_is_made_again(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", stories(60))
    first = opened(tmp_path / "made", source)
    good = files(first)
    names = sorted(good)
    assert names[0] == "documents.bytes"
    for name in names:
        for damage in ("cut", "gone"):
            path = first.folder / name
            if damage == "cut":
                path.write_bytes(good[name][:-1])
            else:
                path.unlink()
            assert files(opened(tmp_path / "made", source)) == good, (name, damage)


def test_a_file_that_was_changed_in_its_place_at_its_old_time_is_read_again(tmp_path: Path) -> None:
    source = tmp_path / "a.txt"
    source.write_text("a cat sees a dog")
    os.utime(source, (1e9, 1e9))
    folder = tmp_path / "made"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("upslope.text.origin.RECENT", -1)  # it is noted at once
        first = opened(folder, source)
    source.write_text("a dog sees a cat")
    os.utime(source, (1e9, 1e9))
    second = opened(folder, source)
    assert [byte_tokenizer().decode(c.read(0)[:-1].tolist()) for c in (first, second)] == [
        "a cat sees a dog",
        "a dog sees a cat",
    ]


def test_a_file_that_was_only_touched_while_it_was_read_is_taken(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", stories(20))
    made = opened(tmp_path / "made", source, progress=lambda done, total: source.chmod(0o600))
    assert len(made.length_D) == 18


@pytest.mark.parametrize("name", ["hash", "bytes", "length"])
def test_an_index_that_is_not_what_was_written_is_made_again(name: str, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", stories(60))
    first = opened(tmp_path / "made", source)
    good, path = files(first), first.folder / f"documents.{name}"
    path.write_bytes(good[path.name][::-1])
    assert files(opened(tmp_path / "made", source)) == good


def test_lengths_that_do_not_make_up_their_shards_are_made_again(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", stories(60))
    first = opened(tmp_path / "made", source)
    good, path = files(first), first.folder / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["shards"][0]["documents"] -= 1
    manifest["shards"][1]["documents"] += 1
    path.write_text(json.dumps(manifest))
    assert files(opened(tmp_path / "made", source)) == good


def test_a_damaged_token_is_one_line(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", stories(200))
    corpus = opened(tmp_path / "made", source)
    shard = corpus.folder / "shard-00001.tokens"
    shard.write_bytes(b"\xff" * shard.stat().st_size)
    corpus.read(0)
    second = 1 + int(np.searchsorted(np.cumsum(corpus.bytes_D), shards.SHARD))
    with pytest.raises(UserError) as caught:
        opened(tmp_path / "made", source).read(second)
    assert str(caught.value).startswith(
        f"{shard} is damaged: it holds a token that the tokenizer does not have; delete"
    )
    shutil.rmtree(corpus.folder)
    assert opened(tmp_path / "made", source).read(second)[-1] == END


def test_more_shards_than_are_mapped_at_once_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_module, "MAPS", 2)
    corpus = opened(tmp_path / "made", write_rows(tmp_path / "a.jsonl", stories(300)))
    everything = [corpus.read(document).tolist() for document in range(len(corpus.length_D))]
    assert [corpus.read(d).tolist() for d in reversed(range(len(everything)))] == everything[::-1]
    assert corpus._map.cache_info().currsize == 2


def test_bad_text_leaves_no_half_of_a_corpus(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", stories(100))
    source.write_bytes(source.read_bytes() + b'{"text": 1}\n')
    for workers in (0, 2):
        with pytest.raises(UserError, match="row 101: column 'text' holds a int"):
            opened(tmp_path / "made", source, workers=workers)
        assert [path.name for path in (tmp_path / "made").iterdir() if path.is_dir()] == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"held_out": 1}, "held_out = 1 is no share"),
        ({"held_out": float("nan")}, "held_out = nan is no share"),
        ({"workers": -1}, "workers = -1 must be at least 0"),
        ({"end_id": -1}, "end_id = -1: no token"),
        ({"column": "body"}, "row 1: no column 'body'; there is text"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        opened(tmp_path / "made", write_rows(tmp_path / "a.jsonl", stories(3)), **options)


def test_the_manifest_says_what_a_corpus_is_made_of(tmp_path: Path) -> None:
    import hashlib

    source = write_rows(tmp_path / "a.jsonl", stories(100))
    corpus = opened(tmp_path / "made", source)
    manifest = json.loads((corpus.folder / "manifest.json").read_bytes())
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert manifest["sources"] == [{"name": str(source), "bytes": source.stat().st_size, "sha256": digest}]
    assert manifest["column"] == "text"
    assert (manifest["documents"], manifest["duplicates"]) == (90, 10)
    assert (manifest["tokens"], manifest["bytes"]) == (corpus.length_D.sum(), corpus.bytes_D.sum())


def test_little_text_is_tokenised_without_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1, 2}, raising=False)
    sizes = (0, 4_000_000, 5_000_000, 9_000_000, 1 << 40)
    assert [corpus_module._num_processes(size) for size in sizes] == [0, 0, 1, 2, 3]
    monkeypatch.setattr("sys.platform", "win32")
    found = [corpus_module._num_processes(size) for size in sizes]
    monkeypatch.undo()
    assert found == [0] * 5
