"""Pitfall 28: the newest checkpoint was taken though half written; the old one went before the new one was complete."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from upslope.errors import UserError
from upslope.model.policy import Policy
from upslope.record.checkpoint import OPTIMIZER, STATE, newest, passed_over, prune, save
from upslope.record.manifest import MANIFEST, is_whole

Saver = Callable[[int], Path]


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


@pytest.fixture
def tiny_policy() -> Policy:
    return tiny.policy(dtype=torch.float32)


@pytest.fixture
def write(parent: Path, tiny_policy: Policy) -> Saver:
    """Save a step whose weights and optimizer hold its number."""

    def write_step(step: int) -> Path:
        weights = {n: torch.full_like(w, float(step)) for n, w in tiny_policy.weights().items()}
        return save(parent, step, tiny_policy, weights, {"exp_avg/x": torch.tensor([float(step)])}, {"seed": 7})

    return write_step


def newest_step(parent: Path) -> int | None:
    found = newest(parent)
    return found.step if found else None


def names(parent: Path) -> list[str]:
    return sorted(path.name for path in parent.iterdir())


def test_what_was_saved_is_what_is_loaded(parent: Path, write: Saver, tiny_policy: Policy) -> None:
    assert newest(parent) is None
    before = {n: w.clone() for n, w in tiny_policy.weights().items()}
    folder = write(3)
    assert folder == parent / "step-000003"
    found = newest(parent)
    assert found is not None
    assert (found.folder, found.step, found.state) == (folder, 3, {"step": 3, "seed": 7})
    assert found.optimizer()["exp_avg/x"].tolist() == [3.0]
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert {n for n, _ in model.named_parameters()} == set(before)
    assert all(bool((w == 3).all()) for w in model.state_dict().values())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "Tom has 18 apples."
    assert tokenizer(text).input_ids == tiny_policy.tokenizer(text).input_ids
    assert tokenizer.chat_template == tiny_policy.tokenizer.chat_template
    # Saving other weights than those that compute must not change those that compute.
    assert all(torch.equal(before[n], w) for n, w in tiny_policy.weights().items())
    assert not [p for p in folder.iterdir() if p.is_file() and p.suffix not in (".safetensors", ".json", ".jinja")]


def test_low_precision_models_save_their_masters(parent: Path) -> None:
    policy = tiny.policy(dtype=torch.bfloat16, tie_word_embeddings=True)
    masters = {n: w.float() + 2**-20 for n, w in policy.weights().items()}  # not representable in bfloat16
    assert any(not torch.equal(m, m.bfloat16().float()) for m in masters.values())
    folder = save(parent, 1, policy, masters, {}, {})
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert all(torch.equal(masters[n], w) for n, w in model.named_parameters())
    assert torch.equal(model.lm_head.weight, masters["model.embed_tokens.weight"])


def drop_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def empty_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("{}")


def cut_manifest(folder: Path) -> None:
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text[: len(text) // 2])


def drop_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def truncate_optimizer(folder: Path) -> None:
    content = (folder / OPTIMIZER).read_bytes()
    (folder / OPTIMIZER).write_bytes(content[:-1])


def change_one_byte(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def change_the_state(folder: Path) -> None:
    (folder / STATE).write_text(json.dumps({"step": 99}))


BREAK = (
    drop_manifest,
    empty_manifest,
    cut_manifest,
    drop_weights,
    truncate_optimizer,
    change_one_byte,
    change_the_state,
)


@pytest.mark.parametrize("spoil", BREAK, ids=lambda f: f.__name__)
def test_a_half_written_newest_is_passed_over(parent: Path, write: Saver, spoil: Callable[[Path], None]) -> None:
    write(2)
    folder = write(4)
    assert newest_step(parent) == 4
    spoil(folder)
    assert not is_whole(folder)
    assert newest_step(parent) == 2


@pytest.mark.parametrize("spoil", BREAK, ids=lambda f: f.__name__)
def test_nothing_is_deleted_while_the_newest_is_broken(
    parent: Path, write: Saver, spoil: Callable[[Path], None]
) -> None:
    write(2)
    folder = write(4)
    spoil(folder)
    if spoil is drop_manifest:  # then it could be anybody's, and is left alone
        prune(parent, keep=1)
        assert folder.exists()
    else:
        with pytest.raises(UserError, match="older checkpoints were kept"):
            prune(parent, keep=1)
    assert newest_step(parent) == 2


REASONS = {
    drop_manifest: "it has no manifest.json",
    empty_manifest: "it was not finished",
    cut_manifest: "its manifest.json cannot be read",
    drop_weights: "model.safetensors is missing",
    truncate_optimizer: "resume/optimizer.state is not as it was written",
    change_one_byte: "model.safetensors is not as it was written",
    change_the_state: "run_state.json is not as it was written",
}


@pytest.mark.parametrize("spoil", BREAK, ids=lambda f: f.__name__)
def test_what_is_passed_over_is_said(parent: Path, write: Saver, spoil: Callable[[Path], None]) -> None:
    write(2)
    assert passed_over(parent, newest(parent)) == []
    folder = write(4)
    spoil(folder)
    assert passed_over(parent, newest(parent)) == [f"{folder} is passed over: {REASONS[spoil]}"]


@pytest.mark.parametrize("name", ["step-000009", ".step-000004.part", "step-000004", "step-000004.replaced"])
def test_what_somebody_else_wrote_is_never_deleted(parent: Path, write: Saver, name: str) -> None:
    write(2)
    (parent / name).mkdir()
    (parent / name / "mine.txt").write_text("mine")
    if "000004" in name and not name.endswith("replaced"):
        with pytest.raises(UserError, match=f"{name} was not written by upslope"):
            write(4)
    else:
        write(4)
        prune(parent, keep=1)
    assert (parent / name / "mine.txt").read_text() == "mine"
    assert newest_step(parent) in (2, 4)


def test_a_link_to_a_folder_of_somebody_elses_is_not_followed(parent: Path, write: Saver, tmp_path: Path) -> None:
    folder = write(2)
    shutil.copytree(folder, tmp_path / "elsewhere")
    (parent / "step-000004").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="was not written by upslope"):
        write(4)
    assert is_whole(tmp_path / "elsewhere")


def test_leftovers_of_a_killed_save_are_passed_over_and_then_removed(parent: Path, write: Saver) -> None:
    folder = write(2)
    shutil.copytree(folder, parent / ".step-000009.part")
    (parent / "step-notes").mkdir()
    assert newest_step(parent) == 2
    write(4)
    prune(parent, keep=1)
    assert names(parent) == ["step-000004", "step-notes"]


def test_a_run_that_went_back_is_not_hindered_by_the_broken_one(parent: Path, write: Saver) -> None:
    write(2)
    drop_weights(write(10))
    assert newest_step(parent) == 2
    write(3)  # stopped at an odd moment, before step 10 was reached again
    prune(parent, keep=2)
    assert names(parent) == ["step-000002", "step-000003"]


@pytest.mark.parametrize(("keep", "left"), [(0, [9]), (1, [9]), (2, [5, 9]), (3, [3, 5, 9]), (9, [1, 3, 5, 9])])
def test_prune_keeps_the_newest(parent: Path, write: Saver, keep: int, left: list[int]) -> None:
    for step in (1, 3, 5, 9):
        write(step)
    prune(parent, keep)
    assert names(parent) == [f"step-{step:06d}" for step in left]


def test_steps_are_compared_as_numbers(parent: Path, write: Saver) -> None:
    write(999_999)
    write(1_000_000)
    assert newest_step(parent) == 1_000_000
    prune(parent, keep=1)
    assert names(parent) == ["step-1000000"]


class Killed(BaseException):
    """The process is gone; nothing of it runs any more."""


class Reaper:
    """Lets ``allowed`` operations on files below ``folder`` happen, and none after them.

    It listens to the interpreter's audit events, which every creation, opening for writing, renaming and removing of
    a file raises before it happens. Hooks cannot be taken away again, so there is one, which is idle by default.
    """

    allowed = sys.maxsize
    seen = 0
    watching = False

    def __call__(self, event: str, args: tuple[object, ...]) -> None:
        if not self.watching or event not in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"):
            return
        if event == "open" and not (isinstance(args[1], str) and set(args[1]) & set("wax+")):
            return
        self.seen += 1
        if self.seen > self.allowed:
            raise Killed(event)


REAPER = Reaper()
sys.addaudithook(REAPER)


@contextmanager
def killed_after(allowed: int) -> Iterator[Reaper]:
    REAPER.allowed, REAPER.seen, REAPER.watching = allowed, 0, True
    try:
        yield REAPER
    except Killed:
        pass
    finally:
        REAPER.watching = False


@pytest.mark.parametrize("again", [False, True], ids=["the next step", "the same step again"])
def test_a_kill_between_any_two_file_operations_leaves_a_checkpoint(parent: Path, write: Saver, again: bool) -> None:
    first, second = 2, 2 if again else 4
    outcomes: list[int] = []
    for allowed in range(1000):
        shutil.rmtree(parent, ignore_errors=True)
        write(first)
        with killed_after(allowed) as reaper:
            write(second)
            prune(parent, keep=1)
        found = newest(parent)
        assert found is not None, f"killed after {allowed} file operations: {names(parent)}"
        assert found.optimizer()["exp_avg/x"].item() == found.step
        outcomes.append(found.step)
        done = reaper.seen <= allowed
        write(second)  # whoever resumes is not hindered by what the dead one left
        prune(parent, keep=1)
        assert names(parent) == [f"step-{second:06d}"]
        if done:
            break
    assert len(outcomes) > 15  # it was killed, many times, and in the end it was not
    assert set(outcomes) == {first, second} and outcomes == sorted(outcomes)  # once the new one is there it stays


def test_a_tokenizer_with_several_chat_templates_is_saved_and_watched_over(parent: Path) -> None:
    """transformers writes all but the default one into a folder of their own."""
    tokenizer = copy.deepcopy(tiny.TOKENIZER)
    tokenizer.chat_template = {"default": tokenizer.chat_template, "tool_use": "{{ messages }}"}
    subject = Policy(tiny.model(dtype=torch.float32), tokenizer)
    folder = save(parent, 1, subject, subject.weights(), {"x": torch.zeros(1)}, {})
    inside = [p for p in folder.rglob("*") if p.is_file() and p.parent != folder]
    assert inside and is_whole(folder)
    inside[0].write_text("something else")
    assert not is_whole(folder)
