"""Conversations as attempts to imitate: packed without padding, mixed by weights, refused in one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import templated
import tiny
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from upslope.algo.family import GRPO, RFT, SFT
from upslope.algo.objective import Objective
from upslope.algo.reuse import Reuse
from upslope.algo.sample import Demonstrations
from upslope.cli.commands import app
from upslope.config import load_settings
from upslope.errors import UserError
from upslope.learn.prepare import passes
from upslope.model.chat_renderer import ChatRenderer
from upslope.model.layout import lay_out
from upslope.model.policy import PLAIN_WAY, Policy
from upslope.record.checkpoint import newest
from upslope.rollout.address import Address
from upslope.tasks import user
from upslope.tasks.complete import complete
from upslope.tasks.registry import open_task
from upslope.training.checks import check_shown
from upslope.training.collect import Collector
from upslope.training.conveniences import notes_on
from upslope.training.fitting import fit_rows
from upslope.training.readable import require_readable
from upslope.training.settings import EvalSettings, RunSettings
from upslope.training.shown import held_out_groups, shown_group, shown_tokens
from upslope.training.source import MixedDemonstrations
from upslope.training.start import launch
from upslope.training.view import NullView
from upslope.types import Problem, Sampling

RENDERER = ChatRenderer.of(tiny.TOKENIZER)
HERE = Address(0, "reuse")


def talk(num: int, name: str = "Tom", **last: Any) -> list[dict[str, Any]]:
    """So many questions and answers, each longer than the one before."""
    chat: list[dict[str, Any]] = []
    for i in range(1, num + 1):
        chat.append({"role": "user", "content": f"{name} has {i} pens ." + " How many pens ?" * (i % 3)})
        chat.append({"role": "assistant", "content": "Tom has 3 apples . " * i + f"#### {i}"})
    return [*chat[:-1], {**chat[-1], **last}]


def conversation(num: int, name: str = "Tom", **last: Any) -> Problem:
    return user.problem_of({"id": f"{name}/{num}", "messages": talk(num, name, **last)}, "here")


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_conversation_is_one_attempt_with_holes_where_others_speak() -> None:
    problem = conversation(3)
    (rollout,) = shown_group(RENDERER, problem, 10**6).rollouts
    assert rollout.prompt == RENDERER.prompt_ids(problem.messages[:1])
    said = [RENDERER.response_ids(message["content"]) for message in problem.conversation[1::2]]
    counted = [token for token, mask in zip(rollout.response, rollout.mask, strict=True) if mask]
    assert counted == [token for ids in said for token in ids]
    assert (rollout.num_chosen, rollout.ended, rollout.reward) == (len(counted), "stop", 1.0)
    assert rollout.num_heard > 0 and rollout.text == RENDERER.text(counted)


def test_several_conversations_are_laid_out_without_a_token_of_padding() -> None:
    talks = [conversation(num, name) for num, name in ((1, "Eva"), (4, "Tom"), (2, "Sam"))]
    rollouts = [r for problem in talks for r in shown_group(RENDERER, problem, 10**6).rollouts]
    layout = lay_out(rollouts, torch.device("cpu"))
    assert layout.num_tokens == sum(len(r.prompt) + len(r.response) - 1 for r in rollouts)
    assert len(layout.target_R) == sum(r.num_chosen for r in rollouts)
    masked = [t for r in rollouts for t, counted in zip(r.response, r.mask, strict=True) if counted]
    assert layout.target_R.tolist() == masked


@pytest.mark.parametrize("micro_batch", [1, 2, 8])
def test_gradients_of_conversations_are_those_of_each_row_alone(micro_batch: int) -> None:
    """The mean of -log p over all counted tokens, by plain calls of the model, row by row."""
    groups = [shown_group(RENDERER, conversation(n, who), 10**6) for n, who in ((1, "Tom"), (3, "Eva"), (2, "Sam"))]
    rollouts = [r for group in groups for r in group.rollouts]
    subject = tiny.learner(SFT, of=tiny.policy(max_position_embeddings=512), micro_batch=micro_batch)
    (minibatch,) = passes(subject.prepare(groups), SFT.patch(reuse=Reuse()), HERE)
    subject.gradient(Objective(SFT), minibatch)

    plain, loss = tiny.model(max_position_embeddings=512), torch.zeros((), dtype=torch.float64)
    for r in rollouts:
        ids = torch.tensor([r.prompt + r.response])
        logp_TV = plain(input_ids=ids[:, :-1]).logits[0].log_softmax(dim=-1)
        for t, counted in enumerate(r.mask):
            if counted:
                loss = loss - logp_TV[len(r.prompt) + t - 1, r.response[t]]
    (loss / sum(r.num_chosen for r in rollouts)).backward()
    naive = {n: p.grad for n, p in plain.named_parameters() if p.grad is not None}
    assert tiny.largest_gap(tiny.gradients(subject), naive) < 1e-12


def test_a_turn_that_is_left_out_has_no_gradient_of_its_own() -> None:
    whole, without = conversation(2), conversation(2)
    chat = [dict(m) for m in without.conversation]
    chat[1]["train"] = False
    without = replace(without, conversation=tuple(chat))
    kept, left = (shown_group(RENDERER, p, 10**6).rollouts[0] for p in (whole, without))
    assert left.prompt + left.response == kept.prompt + kept.response
    assert left.num_chosen == kept.num_chosen - len(RENDERER.response_ids(talk(1)[1]["content"]))


def test_a_prompt_is_read_and_a_completion_of_several_messages_is_imitated() -> None:
    chat = talk(3)
    problem = user.problem_of({"prompt": chat[:3], "completion": chat[3:]}, "here")
    assert (problem.messages, problem.demonstration) == (tuple(chat[:3]), chat[5]["content"])
    (rollout,) = shown_group(RENDERER, problem, 10**6).rollouts
    assert rollout.prompt == RENDERER.prompt_ids(chat[:3])
    answer = user.problem_of({"prompt": chat[:3], "completion": chat[3]["content"]}, "here")
    assert answer.conversation == () and rollout.response[: rollout.mask.index(False)] == (
        shown_group(RENDERER, answer, 10**6).rollouts[0].response
    )


def test_calls_of_tools_in_the_words_of_openai_are_read() -> None:
    """Arguments as the JSON of an object, and the empty cells that Parquet gives every message."""
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": null}'}}
    chat = [*talk(1)[:1], {"role": "assistant", "content": None, "tool_calls": [call], "name": None}]
    chat += [{"role": "tool", "content": "3", "tool_call_id": "c1"}, {"role": "assistant", "content": "3", "weight": 1}]
    tools = json.dumps([{"name": "add", "parameters": None}])
    problem = user.problem_of({"messages": chat, "tools": tools, "chat_template_kwargs": {"a": None, "b": 1}}, "here")
    assert problem.conversation[1] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{**call, "function": {"name": "add", "arguments": {"a": 1, "b": None}}}],
    }
    assert problem.conversation[2] == {"role": "tool", "content": "3", "tool_call_id": "c1"}
    assert problem.template == {"tools": [{"name": "add"}], "b": 1}


def test_conversations_that_begin_alike_are_on_the_same_side(tmp_path: Path) -> None:
    """However they go on: else the held-out ones would have been imitated in part."""
    rows = [{"messages": talk(num, f"Eva{i}")} for i in range(40) for num in (1, 2, 3)]
    task = user.open(write(tmp_path / "rows.jsonl", *rows))
    sides = [{p.messages[0]["content"] for p in task.problems(split)} for split in ("train", "test")]  # type: ignore[arg-type]
    assert sides[0] and sides[1] and not sides[0] & sides[1]


def test_a_single_answer_ends_as_its_template_ends_turns_and_a_document_with_the_end_token() -> None:
    """Also where the world speaks in it; the base models of Llama 3 name another end token than their template."""
    renderer = ChatRenderer.of(templated.tokenizer("llama3"))
    answer = Problem("a", ({"role": "user", "content": "2 + 2?"},), demonstration="<<4>> It is 4.")
    plain, spoken, document = (
        shown_group(renderer, problem, 10**6).rollouts[0]
        for problem in (answer, replace(answer, replies=((2, 3),)), replace(answer, messages=()))
    )
    assert renderer.spelled(plain.response) == "<<4>> It is 4.<|eot_id|>"
    assert renderer.spelled(spoken.response) == "<<4>> It is 4.<|eot_id|>" and spoken.num_heard == 1
    assert shown_tokens(renderer, "4")[0][-1:] == plain.response[-1:]
    assert renderer.spelled(document.response) == "<<4>> It is 4.<|end_of_text|>"


def test_held_out_conversations_are_shown_as_they_would_be_imitated(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", {"messages": talk(1)})
    write(tmp_path / "test.jsonl", {"messages": talk(2)}, {"prompt": "Tom"}, {"prompt": "Tom", "completion": "18"})
    there = user.open(str(tmp_path)).problems("test")
    groups = held_out_groups(there[:3], RENDERER, 10**6)
    assert [len(g.rollouts) for g in groups] == [1, 1]
    assert groups[0].rollouts[0].num_chosen == sum(len(RENDERER.response_ids(m["content"])) for m in talk(2)[1::2])
    assert len(held_out_groups(there[:1], RENDERER, 10**6)) == 1


def test_a_row_that_ends_with_a_user_cannot_be_imitated_and_can_be_attempted(tmp_path: Path) -> None:
    task = user.open(write(tmp_path / "train.jsonl", {"messages": talk(2)}, {"messages": talk(2)[:3]}), None)
    with pytest.raises(UserError, match=r"^user/train/1 \(.* row 2\): its messages end with a message of the user's"):
        check_shown(SFT, open_task("user", data=str(tmp_path)))
    check_shown(GRPO, open_task("user", data=str(tmp_path)))
    assert len(task.demonstrations()) == 1


def room(problem: Problem, max_positions: int, renderer: Any = RENDERER) -> None:
    found = {"demonstrations": lambda self: [problem], "problems": lambda self, split: [], "score": lambda *_: []}
    task = complete(type("One", (), found)())
    policy = type("Small", (), {"renderer": renderer, "max_positions": max_positions, "plain": PLAIN_WAY})()
    fit_rows(task, SFT, RunSettings(eval=EvalSettings(problems=0)), policy)  # type: ignore[arg-type]
    require_readable([], [problem], renderer, task.place, print)


def test_a_conversation_that_is_too_long_is_named_before_the_run() -> None:
    problem = conversation(3)
    (rollout,) = shown_group(RENDERER, problem, 10**6).rollouts
    length = len(rollout.prompt) + len(rollout.response)
    room(problem, length)
    with pytest.raises(UserError, match=r"^Tom/3: .* do not fit the model's .*; shorten the conversation 'Tom has 1"):
        room(problem, length - 1)
    with pytest.raises(UserError, match=r"^Tom/3: "):
        shown_group(RENDERER, problem, length - 1)


def test_what_a_template_refuses_names_the_row_before_the_run() -> None:
    tokenizer = tiny.bare_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}" + (
        "{% endif %}{{ m.content }}{% endfor %}"
    )
    chat = [*talk(1), {"role": "tool", "content": "3"}, {"role": "assistant", "content": "3"}]
    problem = user.problem_of({"id": "seven", "messages": chat}, "here")
    with pytest.raises(
        UserError, match=r"^seven: message 3 \(tool\): .* does not take it: no tools; mend or drop the row$"
    ):
        room(problem, 10**6, ChatRenderer.of(tokenizer))


def shares(*weights: float) -> list[tuple[float, list[Problem]]]:
    sizes = (5, 3, 40, 7)
    sets = [[Problem(f"{i}/{n}", (), demonstration="x") for n in range(sizes[i])] for i in range(len(weights))]
    return [(w / sum(weights), rows) for w, rows in zip(weights, sets, strict=True)]


def test_a_step_of_a_mixture_is_a_function_of_its_number_and_a_pass_takes_each_row_once() -> None:
    mixed = shares(3.0, 1.0, 4.0)
    mixture = MixedDemonstrations(mixed, seed=1)
    steps = [[p.id for p in mixture.take(step, 6)] for step in range(40)]
    assert [p.id for p in MixedDemonstrations(mixed, seed=1).take(7, 6)] == steps[7]
    assert [p.id for p in MixedDemonstrations(mixed, seed=2).take(7, 6)] != steps[7]
    for i, (_, rows) in enumerate(mixed):
        drawn = [name for step in steps for name in step if name.startswith(f"{i}/")]
        passes = [drawn[n : n + len(rows)] for n in range(0, len(drawn) - len(rows), len(rows))]
        assert all(sorted(one) == sorted(p.id for p in rows) for one in passes)
        assert len(set(map(tuple, passes))) > 1


def mixed_files(tmp_path: Path) -> list[str]:
    write(tmp_path / "a.jsonl", *({"messages": talk(1 + i % 2, f"Tom{i}"), "split": "train"} for i in range(6)))
    write(tmp_path / "b.jsonl", *({"prompt": f"Eva {i}", "completion": f"{i}", "split": "train"} for i in range(3)))
    (tmp_path / "held").mkdir()
    return [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]


def test_files_are_mixed_by_weight_or_by_size(tmp_path: Path) -> None:
    first, second = mixed_files(tmp_path)
    task = open_task("user", data=first, also=[second], weights=[1.0, 3.0])
    assert [(share, len(rows)) for share, rows in task.shares()] == [(0.25, 6), (0.75, 3)]
    assert [share for share, _ in open_task("user", data=first, also=[second]).shares()] == [6 / 9, 3 / 9]
    said = [task.place(problem) for problem in (task.demonstrations()[0], task.demonstrations()[8])]
    assert said[0].endswith("a.jsonl row 1)") and said[1].endswith("b.jsonl row 3)")
    assert len(task.demonstrations()) == 9 and len({p.id for p in task.demonstrations()}) == 9
    collector = Collector(task, None, RENDERER, Sampling(), seed=0, per_step=4)  # type: ignore[arg-type]
    taken = [[g.problem.messages[0]["content"][:3] for g in collector(Demonstrations(), s).kept] for s in range(3)]
    assert taken == [["Tom", "Eva", "Eva", "Eva"]] * 3
    assert task.fingerprint() != open_task("user", data=first, also=[second], weights=[1.0, 2.0]).fingerprint()


def test_rows_with_nothing_to_imitate_are_counted(tmp_path: Path) -> None:
    rows = ({"prompt": f"Tom {i}", "completion": None if i % 2 else "18", "split": "train"} for i in range(5))
    write(tmp_path / "a.jsonl", *rows)
    task = open_task("user", data=str(tmp_path / "a.jsonl"))
    told = "2 of 5 training rows have nothing to imitate, and are left out"
    assert told in notes_on(task, SFT, RunSettings()) and told not in notes_on(task, GRPO, RunSettings())
    assert not any("imitate" in note for note in notes_on(open_task("pocket"), SFT, RunSettings()))


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["task.also=['b.jsonl']", "task.weights=[1]"], "task: weights has 1 numbers for data and 1 of also"),
        (["task.also=['b.jsonl']", "task.weights=[1, 0]"], "task: weights must be positive numbers"),
        (["task.also=['c.jsonl']"], "there is no data file c.jsonl"),
        (["task.also=['bare.jsonl']"], "bare.jsonl has no demonstrations to mix in"),
        (
            ["task.also=['open.jsonl']"],
            "user/train/1 (open.jsonl row 2): its messages end with a message of the",
        ),
        (["task.also=['b.jsonl']", "recipe=rft"], "task.also is mixed into what is imitated, and this recipe"),
    ],
)
def test_a_mixture_that_cannot_be_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    mixed_files(tmp_path)
    write(tmp_path / "bare.jsonl", {"prompt": "a", "split": "train"})
    write(tmp_path / "open.jsonl", *({"messages": talk(2, "Ann")[:n], "split": "train"} for n in (4, 3)))
    with pytest.raises(UserError) as raised:
        sft("x", 1, *overrides)
    assert str(raised.value).startswith(told)


def test_a_mixture_needs_data_of_its_own() -> None:
    with pytest.raises(UserError, match=r"task\.also is mixed into task\.data"):
        open_task("pocket", also=["b.jsonl"])
    with pytest.raises(UserError, match="imitates none of it"):
        check_shown(RFT, type("Has", (), {"shares": lambda self: [(1.0, [])]})())


def sft(name: str, steps: int, *extra: str, resume: bool = False) -> Path:
    settings = [
        *("model=pocket:blank", "task.data=a.jsonl", "recipe=sft", "problems=4", "eval.problems=0", "device=cpu"),
        *("learn.lr=0.01", "learn.warmup=0", "save.every=2"),
    ]
    return launch(load_settings(None, [*settings, *extra], {"name": name, "steps": steps}), NullView, resume=resume)


def journal(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = newest(folder / "checkpoints")
    assert found is not None
    (file,) = found.folder.glob("*model.safetensors")
    return load_file(file)


def test_a_stopped_imitation_of_a_mixture_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mixed_files(tmp_path)
    mix = ("task.also=['b.jsonl']", "task.weights=[3, 2]")
    straight, stopped = sft("straight", 6, *mix), sft("stopped", 3, *mix)
    sft("stopped", 6, *mix, resume=True)
    one, other = weights(straight), weights(stopped)
    assert one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_conversations_are_imitated_with_an_adapter_and_the_loss_falls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mixed_files(tmp_path)
    sft("base", 1)
    folder = sft("adapted", 30, "model=runs/base", "learn.lora_rank=4", "learn.lr=0.02")
    steps = [row for row in journal(folder) if row["kind"] == "step"]
    assert steps[-1]["loss"] < 0.6 * steps[0]["loss"]
    assert all("lora" in name for name in weights(folder))


def test_what_is_imitated_of_a_row_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    write(tmp_path / "d" / "train.jsonl", {"messages": talk(1)}, {"messages": talk(2)})
    said = CliRunner().invoke(app, ["shown", "pocket", "--data", "d", "--row", "2"])
    (rollout,) = shown_group(RENDERER, conversation(2), 10**6).rollouts
    num = len(rollout.prompt + rollout.response)
    head, text = said.output.split("\n", 1)
    what = f"user/train/1 ({Path('d/train.jsonl')} row 2)"
    assert head == f"{what}: {num} tokens, {rollout.num_chosen} of them imitated, in 2 parts"
    end = RENDERER.spelled(RENDERER.end_ids[:1])
    coloured = ["".join(part.split("»")[0].split()) for part in text.split("«")[1:]]  # pocket has words, not spaces
    assert coloured == ["".join(m["content"].split()) + end for m in talk(2)[1::2]]
    with pytest.raises(UserError, match=r"--row 3: there are 2 demonstrations .*a number up to 2"):
        CliRunner().invoke(app, ["shown", "pocket", "--data", "d", "--row", "3"], catch_exceptions=False)


def test_a_demonstration_is_shown_without_the_weights_of_any_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", None)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_config", None)
    write(tmp_path / "d.jsonl", {"id": "a\x1b[2J", "messages": talk(1)}, {"messages": talk(2)})
    Policy(tiny.model(), tiny.TOKENIZER).save(tmp_path / "saved")
    (tmp_path / "saved" / "model.safetensors").unlink()
    tiny.TOKENIZER.save_pretrained(tmp_path / "words")

    def said(*words: str) -> str:
        return CliRunner().invoke(app, ["shown", *words, "--data", "d.jsonl"], catch_exceptions=False).output

    first = said("pocket")
    assert first.startswith("a␛[2J (d.jsonl row 1): ")
    assert said("saved") == first
    assert said("new:llama", "new.tokenizer=words") == first
    assert said("new:saved") == first
    with pytest.raises(UserError, match=r"^new:llama needs a vocabulary: set new\.tokenizer"):
        said("new:llama")
    with pytest.raises(UserError, match=r"^model 'words': the directory holds no config\.json"):
        said("words")


def test_nothing_to_imitate_is_told_before_a_run_has_a_folder(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"prompt": "2 + 2?"}\n')
    said = ["recipe=sft", f"task.data={tmp_path}", "model=pocket:blank", f"out={tmp_path / 'runs'}"]
    with pytest.raises(UserError, match="task user has no demonstrations"):
        launch(load_settings(None, said), NullView)
    assert not (tmp_path / "runs").exists()
