"""Held-out loss: nats a token and bits per byte, by hand, against the naive way, and where they stand in a run."""

import io
import json
import math

import pytest
import tiny
import torch
from given_texts import END, LN2, RENDERER, START, Given, naive_nats, unigram, write_texts
from rich.console import Console
from tiny import TOKENIZER

import upslope as up
from upslope.algo.family import PRETRAIN, SFT
from upslope.algo.sample import Demonstrations, Documents
from upslope.cli.commands import app
from upslope.inspect.terminal import TerminalView
from upslope.learn.prepare import to_batch
from upslope.learn.scorer import Scorer
from upslope.model.policy import Policy
from upslope.record.journal import attempted
from upslope.rollout.local import LocalSampler
from upslope.tasks.base import Task
from upslope.training.blocks import as_group
from upslope.training.chosen import chosen_problems
from upslope.training.corpora import Text, opened_text
from upslope.training.held_out_loss import HeldOutText, Predicted, chosen_documents, plain_scorer, predicted
from upslope.training.task_settings import TaskSettings
from upslope.types import Problem, Sampling, Score


class Renderer:
    """Start and end are token 0."""

    start_ids, end_ids = (0,), (0,)


def bound(model, renderer):
    """A scorer around a model whose tokens are only numbers."""
    policy = Policy(model, TOKENIZER, RENDERER)
    policy.renderer = renderer
    return Scorer(policy)


def measured(model, documents, num_bytes, length=50, renderer=Renderer):
    text = Text((Given(documents, num_bytes),), (1.0,))
    return HeldOutText(text, math.inf, length=length, renderer=renderer, every=True).measure(bound(model, renderer))


# -- the numbers ------------------------------------------------------------------------------------------------------


def test_bits_per_byte_by_hand():
    """A document of 3 letters (4 bytes, one of them has two) and its end: log2 of 4, 8, 4 and 2 are 2 + 3 + 2 + 1 = 8
    bits, 2 a byte; 8 ln 2 nats over 4 tokens."""
    model = unigram(torch.tensor([1 / 2, 1 / 4, 1 / 8, 1 / 8], dtype=torch.float64).log())
    found = measured(model, [[1, 2, 1, 0]], [4])
    assert found.bits_per_byte == pytest.approx(2.0, abs=1e-12)
    assert found.loss == pytest.approx(2 * LN2, abs=1e-12)
    assert (found.num_tokens, found.num_bytes) == (4, 4)


def test_bits_per_byte_do_not_depend_on_the_tokenizer():
    """Letters a and b are equally likely, and so is the end at every second letter. One tokenizer has letters, the
    other pairs of them: other tokens, another loss a token, the same text with the same probability."""
    texts = ["abba", "bb", "abbaabab", ""]
    # A letter or the end is a token: p(letter) = 1/4 each, p(end) = 1/2. A pair then has 1/16, and the end 1/2; what
    # is left of the pairs' model, 1/4, lies on a token that no text has.
    letters = unigram(torch.tensor([1 / 2, 1 / 4, 1 / 4], dtype=torch.float64).log())
    pairs = unigram(torch.tensor([1 / 2, *[1 / 16] * 4, 1 / 4], dtype=torch.float64).log())
    by_letter = [[*(1 + "ab".index(c) for c in text), 0] for text in texts]
    by_pair = [
        [*(1 + ["aa", "ab", "ba", "bb"].index(text[i : i + 2]) for i in range(0, len(text), 2)), 0] for text in texts
    ]
    num_bytes = [len(text) for text in texts]
    one, other = measured(letters, by_letter, num_bytes), measured(pairs, by_pair, num_bytes)
    assert one.bits_per_byte == pytest.approx((2 * 14 + 4) / 14, abs=1e-12)
    assert other.bits_per_byte == pytest.approx(one.bits_per_byte, abs=1e-12)
    assert other.loss > one.loss + 0.2


@pytest.mark.parametrize("length", [3, 7, 100])
def test_every_document_is_predicted_by_itself_in_blocks_from_its_beginning(length):
    documents = [[(5 * d + 3 * k) % 150 + 5 for k in range(n - 1)] + [END] for d, n in enumerate((9, 1, 20, 4))]
    policy = tiny.policy()
    text = Text((Given(documents),), (1.0,))
    found = HeldOutText(text, math.inf, length=length, renderer=RENDERER, every=True).measure(Scorer(policy))
    plain, nats = tiny.model(), 0.0
    for ids in documents:
        for start in range(0, len(ids), length):
            prompt = [ids[start - 1]] if start else [START]
            nats += naive_nats(plain, prompt, ids[start : start + length]).item()
    assert found.nats == pytest.approx(nats, rel=1e-12)
    assert found.num_tokens == found.num_bytes == 34


def test_no_gradient_and_no_weight_is_left_behind():
    policy = tiny.policy()
    before = {name: p.detach().clone() for name, p in policy.model.named_parameters()}
    predicted(Scorer(policy), [as_group("x", [((START,), (7, 8, END))], (END,))])
    assert all(p.grad is None and torch.equal(p, before[name]) for name, p in policy.model.named_parameters())


def test_text_is_predicted_at_temperature_one_whatever_attempts_are_drawn_at():
    group = as_group("x", [((START,), (7, 8, 9, END))], (END,))
    hot = Scorer(tiny.policy(), Sampling(temperature=3.0, max_tokens=9))
    assert predicted(plain_scorer(hot.policy, hot.micro_batch), [group]) == predicted(Scorer(tiny.policy()), [group])
    assert predicted(hot, [group]) != predicted(Scorer(tiny.policy()), [group])


def test_log_probabilities_of_bfloat16_weights_are_summed_in_float32():
    policy = tiny.policy(dtype=torch.bfloat16)
    documents = [tuple((7 * d + 3 * k) % 150 + 5 for k in range(40)) for d in range(8)]
    groups = [as_group(f"d{d}", [((START,), ids)], (END,)) for d, ids in enumerate(documents)]
    batch = to_batch(groups, policy.device, torch.float64)
    logp_NT = Scorer(policy).constants(batch, ["old_logp_NT"], torch.float64)["old_logp_NT"]
    assert predicted(Scorer(policy), groups).nats == -float(logp_NT[batch.mask_NT].sum())


# -- which documents --------------------------------------------------------------------------------------------------


def test_the_same_whole_documents_are_predicted_in_every_run():
    corpus = Given([[1] * n for n in (10, 20, 30, 40, 50, 60)], held_out=[0, 1, 3, 5])
    everything = chosen_documents(corpus, 130).tolist()
    assert sorted(everything) == [0, 1, 3, 5]
    assert chosen_documents(corpus, 129).tolist() == everything[:3]
    assert chosen_documents(corpus, 0).tolist() == everything[:1]
    assert len(chosen_documents(Given([[1]]), 100)) == 0
    assert sorted(chosen_documents(corpus, math.inf, every=True).tolist()) == list(range(6))


def test_sources_with_weights_share_the_tokens_that_are_predicted():
    corpora = tuple(Given([[1] * 9 + [END]] * 40, [7] * 40, held_out=range(40)) for _ in range(2))
    held_out = HeldOutText(Text(corpora, (3.0, 1.0)), 160, length=50, renderer=RENDERER)
    assert held_out.num_documents == 16
    assert [len(documents) for _, documents in held_out._chosen] == [12, 4]
    assert held_out.measure(Scorer(tiny.policy())).num_bytes == 16 * 7


# -- in a run ---------------------------------------------------------------------------------------------------------


class Both(Task):
    """Problems with a reward, and demonstrations on both sides."""

    name = "both"

    def problems(self, split):
        chat = ({"role": "user", "content": "Tom has 3 apples."},)
        return [Problem(f"{split}/{i}", chat, demonstration=f"#### {i}") for i in range(5)]

    def demonstrations(self):
        return self.problems("train")

    def score(self, problems, responses):
        return [Score(float(len(r) % 2)) for r in responses]


SHORT = PRETRAIN.patch(sample=Documents(block=20))


def run(**settings):
    settings = {"learn": {"lr": 1e-2, "warmup": 0, "dtype": "float64"}, "progress": False, "problems": 2} | settings
    return up.train((tiny.model(), TOKENIZER), steps=2, sample={"max_tokens": 4}, **settings)


@pytest.fixture
def text(tmp_path, monkeypatch):
    monkeypatch.setenv("UPSLOPE_CACHE", str(tmp_path / "cache"))
    return [write_texts(tmp_path / "a.jsonl", 30)]


def test_pretraining_has_losses_and_no_accuracy(text):
    done = run(text=text, recipe=SHORT, text_held_out=0.3, eval={"every": 1, "text_tokens": 80})
    rows = done.rows("eval")
    assert [row["step"] for row in rows] == [0, 1, 2]
    for row in rows:
        assert not {"greedy", "reward", "pass_at"} & row.keys()
        assert row["bits_per_byte"] == pytest.approx(
            row["held_out_loss"] * row["held_out_tokens"] / (LN2 * row["held_out_bytes"]), rel=1e-7
        )
        assert 40 < row["held_out_tokens"] <= 80
        assert row["sample"].keys() == {"prompt", "text"}
    assert rows[0]["held_out_loss"] > rows[-1]["held_out_loss"]
    assert len({row["held_out_bytes"] for row in rows}) == 1


def test_imitation_has_accuracy_and_the_loss_of_held_out_demonstrations_side_by_side():
    rows = run(task=Both(), recipe=SFT).rows("eval")
    plain = tiny.model()
    shown = [RENDERER.response_ids(f"#### {i}") for i in range(5)]
    prompt = RENDERER.prompt_ids(Both().problems("test")[0].messages)
    nats = sum(naive_nats(plain, prompt, response).item() for response in shown)
    assert rows[0]["held_out_loss"] == pytest.approx(nats / sum(map(len, shown)), rel=1e-8)
    assert rows[0]["greedy"]["num_problems"] == 5
    assert "bits_per_byte" not in rows[0] and "sample" not in rows[0]


def test_the_loss_is_of_the_very_problems_that_are_evaluated():
    rows = run(task=Both(), recipe=SFT, eval={"problems": 2}).rows("eval")
    chosen = chosen_problems(Both(), 2)
    assert chosen != Both().problems("test")[:2]
    shown = [RENDERER.response_ids(problem.demonstration) for problem in chosen]
    prompt = RENDERER.prompt_ids(chosen[0].messages)
    nats = sum(naive_nats(tiny.model(), prompt, response).item() for response in shown)
    assert rows[0]["held_out_loss"] == pytest.approx(nats / sum(map(len, shown)), rel=1e-8)


def test_only_counted_tokens_of_a_demonstration_are_predicted():
    class Answered(Both):
        def problems(self, split):
            chat = ({"role": "user", "content": "Tom has 3 apples."},)
            text = "#### 1 2 3"
            return [Problem(f"{split}/0", chat, demonstration=text, replies=((6, 8),))]

    (first, *_) = run(task=Answered(), recipe=SFT, problems=1).rows("eval")
    plain, prompt = tiny.model(), list(RENDERER.prompt_ids(Answered().problems("test")[0].messages))
    parts = [RENDERER.response_ids("#### 1")[:-1], RENDERER.middle_ids(" 2"), (*RENDERER.middle_ids(" 3"), END)]
    said, heard, on = (list(part) for part in parts)
    nats = (naive_nats(plain, prompt, said) + naive_nats(plain, prompt + said + heard, on)).item()
    assert first["held_out_loss"] == pytest.approx(nats / (len(said) + len(on)), rel=1e-8)


def test_text_beside_a_task_measures_what_imitation_and_attempts_do_to_it(text):
    for recipe in (SFT.patch(sample=up.FAMILY["sft"].recipe.sample), up.REINFORCE):
        rows = run(task=Both(), text=text, recipe=recipe, eval={"text_tokens": 60}).rows("eval")
        assert all({"greedy", "bits_per_byte"} <= row.keys() for row in rows)
        shown = rows[0].get("held_out_loss"), rows[0]["bits_per_byte"] * LN2 * rows[0]["held_out_bytes"]
        of_text = shown[1] / rows[0]["held_out_tokens"]
        if recipe.acts:
            assert shown[0] == pytest.approx(of_text, rel=1e-7)
        else:  # of the demonstrations, which it imitates
            assert shown[0] != pytest.approx(of_text, rel=1e-3)
        assert "sample" not in rows[0]


def test_a_task_without_a_reward_is_imitated_and_has_losses_only(tmp_path):
    rows = [{"prompt": f"Tom has {i} apples.", "completion": f"#### {i}"} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = up.tasks.open("user", data=str(tmp_path / "rows.jsonl"))
    rows = run(task=task, recipe=SFT).rows("eval")
    assert len(rows) == 2
    assert all("held_out_loss" in row and "greedy" not in row for row in rows)
    with pytest.raises(up.UserError, match="has no reward"):
        run(task=task, recipe=up.REINFORCE)


def test_no_tokens_of_text_is_no_evaluation(text):
    assert run(text=text, recipe=SHORT, eval={"text_tokens": 0}).rows("eval") == []


def test_text_of_which_none_is_held_out_is_no_evaluation_of_imitation(tmp_path, monkeypatch):
    monkeypatch.setenv("UPSLOPE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.txt").write_text("Tom has 3 apples. " * 90)

    class Unseen(Both):
        has_reward = False

        def problems(self, split):
            return (
                super().problems(split)
                if split == "train"
                else [Problem("test/0", ({"role": "user", "content": "Tom"},))]
            )

    screen = Console(file=io.StringIO(), width=200)
    recipe = SFT.patch(sample=Demonstrations(replay=0.5))
    shown = TerminalView(screen, plain=True)
    assert run(task=Unseen(), text=tmp_path / "a.txt", recipe=recipe, progress=shown).rows("eval") == []
    assert "nan" not in screen.file.getvalue()


def test_an_evaluation_that_measured_nothing_attempted_nothing():
    assert attempted({"kind": "eval", "greedy": {"value": 0.5}})
    assert not attempted({"kind": "eval", "step": 0})


def test_one_document_is_read_and_said_not_to_be_held_out(tmp_path, monkeypatch):
    monkeypatch.setenv("UPSLOPE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.txt").write_text("Tom has 3 apples. " * 30)
    screen = Console(file=io.StringIO(), width=200)
    done = run(text=tmp_path / "a.txt", recipe=SHORT, progress=TerminalView(screen, plain=True))
    assert [row.keys() & {"held_out_loss", "bits_per_byte", "sample"} for row in done.rows("eval")] == [{"sample"}] * 2
    assert done.rows("eval")[0]["sample"]["prompt"] == ""
    assert "is one document, so none is held out" in screen.file.getvalue()


def test_how_many_documents_were_there_before_is_said_when_a_corpus_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("UPSLOPE_CACHE", str(tmp_path / "cache"))
    rows = [*[f"Tom has {i} apples. " * 9 for i in range(9)], "Tom has 3 apples. " * 9]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    said, settings = [], TaskSettings(text=(str(tmp_path / "a.jsonl"),))
    for _ in range(2):
        opened_text(settings, tiny.model(), TOKENIZER, said.append)
    assert said == [f"{tmp_path / 'a.jsonl'}: 1 document was there before, and is left out"]


def test_a_sample_goes_on_with_one_held_out_document_for_all_of_a_run():
    documents = [[(9 * d + k) % 100 + 20 for k in range(30)] + [END] for d in range(6)]
    policy, held = tiny.policy(), range(3)
    text = Text((Given(documents, held_out=held),), (1.0,))
    held_out = HeldOutText(text, math.inf, length=50, renderer=RENDERER)

    def sample(seed):
        return held_out.sample(LocalSampler(policy), policy, 1.0, seed)

    begun = {RENDERER.text(documents[d][:16]) for d in held}
    found = [sample(seed) for seed in range(12)]
    assert {one["prompt"] for one in found} == begun
    assert sample(3) == found[3] != sample(1)
    assert all(one["text"] for one in found)


# -- for people -------------------------------------------------------------------------------------------------------


def test_eval_of_text_predicts_all_of_a_file_and_of_a_run_what_it_held_out(text, tmp_path, capsys):
    model = tmp_path / "model"
    made = tiny.model(dtype=torch.float32)
    made.save_pretrained(model)
    TOKENIZER.save_pretrained(model)
    start = [
        "--model",
        str(model),
        "recipe=pretrain",
        "recipe.sample.block=50",
        "problems=2",
        "--steps",
        "0",
        "task.text_held_out=0.3",
        "--plain",
    ]
    app(["train", "--text", str(text[0]), *start, "--out", str(tmp_path), "--name", "r"], standalone_mode=False)
    (first, *_) = [json.loads(line) for line in (tmp_path / "r" / "journal.jsonl").read_text().splitlines()]
    capsys.readouterr()
    app(["eval", str(tmp_path / "r"), "--json"], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert found["bits_per_byte"] == pytest.approx(first["bits_per_byte"], rel=1e-6)
    app(["eval", str(model), "--text", str(text[0])], standalone_mode=False)
    said = capsys.readouterr().out
    assert "in blocks of 255 tokens" in said and "30 documents" in said and "bits per byte" in said
    with pytest.raises(up.UserError, match="--text is evaluated by itself"):
        app(["eval", str(model), "--text", str(text[0]), "--task", "pocket"], standalone_mode=False)
    alone = ["eval", str(model), "--text", str(text[0])]
    for option in ("--samples", "--problems", "--temperature", "--max-tokens", "--attempts"):
        with pytest.raises(up.UserError, match=f"^{option} is for problems, and text alone has none"):
            app([*alone, option, "4"], standalone_mode=False)
    for setting in ("task.text_held_out=0.5", "eval.text_tokens=9", "sample.top_k=3", "eval.by=level"):
        with pytest.raises(up.UserError, match=f"eval --text does not read {setting.partition('=')[0]}; it reads new"):
            app([*alone, setting], standalone_mode=False)
    for more in (["task.name=pocket"], ["--eval-data", str(text[0])]):
        with pytest.raises(up.UserError, match="--text is evaluated by itself"):
            app([*alone, *more], standalone_mode=False)
    with pytest.raises(up.UserError, match=r"eval of text does not read sample\.top_k"):
        app(["eval", str(tmp_path / "r"), "sample.top_k=3"], standalone_mode=False)
    app(["eval", str(tmp_path / "r"), "eval.text_tokens=9", "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["held_out_tokens"] < first["held_out_tokens"]


def test_what_was_predicted_adds_up():
    assert Predicted(1.0, 2, 3) + Predicted(0.5, 1, 1) == Predicted(1.5, 3, 4)
