"""Text in blocks: every token is predicted once, from what it should be; a stop changes nothing."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import tiny
import torch
from given_texts import END, RENDERER, START, Given, naive_nats, numbered, write_texts
from safetensors.torch import load_file

import upslope as up
from upslope.algo.family import FAMILY, PRETRAIN, SFT
from upslope.algo.objective import Objective
from upslope.algo.sample import Demonstrations, Documents
from upslope.config import load_settings
from upslope.errors import UserError
from upslope.learn.prepare import passes
from upslope.record.checkpoint import newest
from upslope.rollout.address import Address
from upslope.rollout.local import LocalSampler
from upslope.tasks.base import Task
from upslope.training.blocks import TextBlocks
from upslope.training.checks import check_run
from upslope.training.collecting import collector
from upslope.training.corpora import OwnDocuments, Text, block_length, blocks_of
from upslope.training.named import open_run_task, resolve_recipe
from upslope.training.tables import to_settings
from upslope.types import Problem, Score

LENGTHS = [5, 1, 30, 7, 12, 2, 9]
MEASURED = ("seconds", "spent", "tokens_per_s", "memory_gb", "resident_gb")


def blocks(*corpora, weights=(1.0,), seed=0, length=8, across=False):
    return TextBlocks(corpora, weights, seed, length=length, across=across, renderer=RENDERER)


def rollouts(groups):
    return [r for group in groups for r in group.rollouts]


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("length", [1, 3, 8, 40])
def test_every_token_of_every_pass_is_predicted_once(across, length):
    corpus = Given(numbered(LENGTHS), held_out=[3])
    learnt = [i for i, num in enumerate(LENGTHS) if i != 3 for _ in range(num)]
    num = 3 * len(learnt)
    made = blocks(corpus, length=length, across=across)
    seen = [t for r in rollouts(made.take(0, -(-num // length))) for t in r.response]
    everything = Counter(t for i, ids in enumerate(numbered(LENGTHS)) if i != 3 for t in ids)
    for number in range(3):
        assert Counter(seen[number * len(learnt) : (number + 1) * len(learnt)]) == everything
    assert all(all(r.mask) and r.reward == 1 and r.logp is None for r in rollouts(made.take(0, 5)))


def test_a_piece_begins_after_the_start_token_or_goes_on_after_the_token_before():
    made = blocks(Given(numbered(LENGTHS)), length=8)
    begun = Counter()
    for group in made.take(0, 40):
        assert sum(len(r.response) for r in group.rollouts) == 8
        for r in group.rollouts:
            begins = r.response[0] % 1000 == 0
            assert r.prompt == ((START,) if begins else (r.response[0] - 1,))
            assert list(r.response) == list(range(r.response[0], r.response[0] + len(r.response)))
            begun[begins] += 1
    assert min(begun.values()) > 10


def test_across_documents_a_block_is_one_row_with_all_before_it_in_sight():
    corpus = Given(numbered(LENGTHS))
    apart, joined = blocks(corpus, length=8), blocks(corpus, length=8, across=True)
    for one, other in zip(apart.take(0, 30), joined.take(0, 30), strict=True):
        (row,) = other.rollouts
        assert row.response == tuple(t for r in one.rollouts for t in r.response)
        assert row.prompt == one.rollouts[0].prompt
    assert max(len(group.rollouts) for group in apart.take(0, 30)) > 2


def test_a_pass_has_an_order_of_its_own_and_the_seed_another():
    corpus = Given(numbered([4] * 50))
    orders = [
        [r.response[0] // 1000 for r in rollouts(blocks(corpus, seed=seed, length=4).take(step, 50))]
        for seed, step in ((0, 0), (0, 1), (1, 0))
    ]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_a_block_is_a_function_of_its_number():
    corpus = Given(numbered(LENGTHS))
    assert blocks(corpus).take(7, 4) == blocks(corpus).take(0, 32)[28:]


@pytest.mark.parametrize("weights", [(1.0, 1.0, 2.0), (0.9, 0.05, 0.05), (1 / 3, 1 / 3, 1e-3)])
def test_sources_have_the_share_of_the_tokens_that_their_weights_say(weights):
    corpora = [Given([[1000 * s + k for k in range(size)]]) for s, size in enumerate((9, 50, 200))]
    made = blocks(*corpora, weights=weights, length=4)
    drawn = Counter()
    for number in range(500):
        (source,) = {r.response[0] // 1000 for r in made.block(number).rollouts}
        drawn[source] += 1
        for place, weight in enumerate(weights):
            assert abs(drawn[place] - (number + 1) * weight / sum(weights)) <= 2
    for place, corpus in enumerate(corpora):  # each reads on where it was
        own = [t for r in rollouts(made.take(0, 500)) if r.response[0] // 1000 == place for t in r.response]
        assert own == [1000 * place + k % corpus.length_D[0] for k in range(len(own))]


# -- the gradient ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("micro_batch", [0, 1])
@pytest.mark.parametrize("across", [False, True])
def test_the_gradient_is_that_of_the_mean_over_all_tokens_of_a_step(across, micro_batch):
    ids = [[(7 * d + 3 * k) % 150 + 5 for k in range(n - 1)] + [END] for d, n in enumerate(LENGTHS)]
    recipe = PRETRAIN.patch(sample=Documents(block=11, across=across))
    learner = tiny.learner(recipe, micro_batch=micro_batch, clip=0.0)
    made = TextBlocks([Given(ids)], (1.0,), 0, length=11, across=across, renderer=RENDERER)
    groups = made.take(0, 3)
    batch = learner.prepare(groups)
    (minibatch,) = passes(batch, recipe, Address(0, "reuse", 0))
    learner.gradient(Objective(recipe), minibatch)
    plain = tiny.model()
    total = sum(naive_nats(plain, r.prompt, r.response) for r in rollouts(groups))
    (total / (3 * 11)).backward()
    found = learner.optimizer.masters
    for name, parameter in plain.named_parameters():
        wanted = parameter.grad
        assert float((found[name].grad - wanted).abs().max()) < 1e-12 * float(wanted.abs().max().clamp(min=1))


def test_pieces_do_not_see_the_documents_beside_them():
    one = [[11, 12, 13, 14, END], [21, 22, 23, END], [31, 32, END]]
    other = [one[0], [41, 42, 43, END], one[2]]

    def logps(documents, across, seed):
        learner = tiny.learner(PRETRAIN.patch(sample=Documents(block=12, across=across)))
        made = TextBlocks([Given(documents)], (1.0,), seed, length=12, across=across, renderer=RENDERER)
        batch = learner.prepare(made.take(0, 1))
        logp_NT = learner.scorer.constants(batch, ["old_logp_NT"], torch.float64)["old_logp_NT"]
        return dict(zip([t for r in batch.rollouts for t in r.response], logp_NT[batch.mask_NT].tolist(), strict=True))

    shared = [11, 12, 13, 14, 31, 32]
    changed = []
    for seed in range(4):  # the document that is exchanged stands in other places
        apart = [logps(documents, False, seed) for documents in (one, other)]
        assert all(abs(apart[0][t] - apart[1][t]) < 1e-12 for t in shared)
        joined = [logps(documents, True, seed) for documents in (one, other)]
        changed.append(max(abs(joined[0][t] - joined[1][t]) for t in shared))
    assert max(changed) > 1e-3


# -- what is read -----------------------------------------------------------------------------------------------------


class Stories(Task):
    name = "stories"

    def problems(self, split):
        return [Problem(f"{split}/{i}", ({"role": "user", "content": f"Tom has {i} apples."},)) for i in range(4)]

    def demonstrations(self):
        return [Problem(p.id, p.messages, demonstration="#### 1") for p in self.problems("train")]

    def documents(self):
        return ["Tom has 3 apples.", "Eva has 5 pens and 2 eggs.", "Sam has 9 eggs."]

    def score(self, problems, responses):
        return [Score(1.0) for _ in responses]


def test_a_tasks_own_documents_are_packed_where_a_block_is_asked_for():
    policy = tiny.policy()
    assert blocks_of(None, Stories().documents(), Documents(), policy, 0) is None
    made = blocks_of(None, Stories().documents(), Documents(block=6), policy, 0)
    own = [RENDERER.response_ids(text) for text in Stories().documents()]
    num = sum(map(len, own))
    read = [t for r in rollouts(made.take(0, num // 6 + 1)) for t in r.response][:num]
    assert Counter(read) == Counter(t for ids in own for t in ids)
    assert OwnDocuments(["é"], RENDERER).bytes_D.tolist() == [2]


def test_a_step_of_more_blocks_than_the_text_has_is_refused():
    blocks = TextBlocks(
        [Given(numbered([30, 50, 20]), held_out=[2])], [1.0], 0, length=8, across=False, renderer=RENDERER
    )
    blocks.require(10)
    with pytest.raises(UserError, match="takes 11 blocks of 8 tokens, and the text has 10 to learn from; set problems"):
        blocks.require(11)


def test_of_several_sources_the_one_that_is_too_short_is_named():
    corpora = [Given(numbered([30])), Given(numbered([5]))]
    with pytest.raises(UserError, match=r"^source 2 of task\.text: the text has 5 tokens, .*recipe\.sample\.block"):
        TextBlocks(corpora, [1.0, 1.0], 0, length=8, across=False, renderer=RENDERER)


def test_a_block_of_text_is_512_tokens_or_what_the_positions_leave():
    assert [block_length(Documents(), n) for n in (10_000, 513, 512, 64)] == [512, 512, 511, 63]
    assert block_length(Documents(block=63), 64) == 63
    assert block_length(Demonstrations(), 64) == 63
    with pytest.raises(UserError, match=r"recipe.sample.block = 64 tokens.*64 positions; set it to 63"):
        block_length(Documents(block=64), 64)
    for sample in (Documents(), Documents(block=1), Demonstrations()):
        with pytest.raises(UserError, match="the model has 1 position, and to predict text takes 2 or more"):
            block_length(sample, 1)


def test_text_stands_in_the_place_of_documents_for_pretraining_and_replay():
    policy = tiny.policy()
    text = Text((Given(numbered([600, 600])),), (1.0,))
    settings = to_settings({"problems": 4})
    for recipe, num in ((PRETRAIN, 4), (SFT.patch(sample=Demonstrations(replay=0.5)), 2)):
        collect = collector(settings, recipe, Stories(), LocalSampler(policy), policy, text)
        kept = collect(recipe.sample, 0).kept
        read = [group for group in kept if group.problem.id.startswith("block/")]
        assert len(kept) == 4 and len(read) == num
        assert all(sum(len(r.response) for r in group.rollouts) == 255 for group in read)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"recipe": "grpo"}, "recipe grpo attempts problems, and text alone"),
        ({"recipe": "sft"}, "recipe sft imitates demonstrations, and text alone"),
        ({"recipe": {"name": "pretrain", "aggregate": "sequence_mean"}}, "set recipe.aggregate=token_mean"),
        ({"task": {"where": "x > 1"}}, "task.where is of no use to text alone"),
        ({"task": {"reward_workers": 2}}, "task.reward_workers is of no use to text alone"),
        ({"task": {"text": ["nowhere.txt"]}}, "there is no file, folder or data set nowhere.txt"),
    ],
)
def test_what_text_alone_cannot_do_is_one_line(given, complaint, tmp_path):
    task = {"text": [str(write_texts(tmp_path / "a.jsonl", 3))]} | given.get("task", {})
    settings = to_settings({"recipe": "pretrain"} | given | {"task": task})
    with pytest.raises(UserError, match=complaint) as raised:
        check_run(settings, resolve_recipe(settings.recipe), open_run_task(settings.task, 0))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("task", "complaint"),
    [
        ({"text_held_out": 0.5}, "text_held_out is given, and there is no text"),
        ({"text": ["a", "b"], "text_weights": [1]}, "1 text_weights for 2 of text"),
        ({"text": ["a"], "text_weights": [0]}, "must be finite numbers above 0"),
        ({"text": ["a"], "text_held_out": 1}, r"a share in \[0, 1\)"),
    ],
)
def test_settings_of_text_that_make_no_sense_are_refused(task, complaint):
    with pytest.raises(UserError, match=complaint):
        to_settings({"task": task})


@pytest.mark.parametrize(
    ("recipe", "complaint"),
    [
        ({"name": "pretrain"}, "has no documents to read; give --text"),
        ({"name": "pretrain", "sample": {"across": True}}, "documents to read|set a block as well"),
    ],
)
def test_documents_that_there_are_not_are_missed_before_a_run(recipe, complaint):
    class Bare(Stories):
        def documents(self):
            return ()

    settings = to_settings({"recipe": recipe})
    with pytest.raises(UserError, match=complaint):
        check_run(settings, resolve_recipe(settings.recipe), Bare())
    if "sample" in recipe:
        with pytest.raises(UserError, match="set a block as well"):
            check_run(settings, resolve_recipe(settings.recipe), Stories())


def test_the_recipe_of_pretraining_says_nothing_about_blocks_of_its_own():
    """A task's own documents are taken whole, as they always were."""
    assert FAMILY["pretrain"].recipe.sample == Documents(block=0, across=False)


def test_paths_of_text_in_a_run_file_are_beside_it(tmp_path):
    (tmp_path / "more").mkdir()
    write_texts(tmp_path / "more" / "a.jsonl", 2)
    file = tmp_path / "run.toml"
    file.write_text('task.text = ["more/a.jsonl", "more/*.jsonl", "owner/name", "none/*.txt"]\n')
    found = load_settings(file).task.text
    assert found == (str(tmp_path / "more/a.jsonl"), str(tmp_path / "more/*.jsonl"), "owner/name", "none/*.txt")


# -- stops ------------------------------------------------------------------------------------------------------------


def trained(folder, steps, text, *, resume=False, **more):
    settings = {
        "learn": {"lr": 1e-2, "warmup": 0, "dtype": "float32"},
        "eval": {"every": 2, "text_tokens": 200},
        "save": {"every": 2},
        "problems": 3,
    }
    recipe = {"name": "pretrain", "sample": {"block": 17} | more.pop("sample", {})}
    return up.train(
        "pocket:blank",
        text=text,
        recipe=recipe,
        steps=steps,
        folder=folder,
        resume=resume,
        progress=False,
        text_held_out=0.2,
        **settings,
        **more,
    )


def left_by(folder):
    rows = [json.loads(line) for line in (Path(folder) / "journal.jsonl").read_text().splitlines()]
    journal = [{k: v for k, v in row.items() if k not in MEASURED} for row in rows if row["kind"] != "resume"]
    saved = newest(Path(folder) / "checkpoints")
    assert saved is not None
    return journal, {f"{p.name}/{n}": t for p in saved.folder.glob("*.safetensors") for n, t in load_file(p).items()}


@pytest.mark.parametrize("how", ["apart", "across", "mixed", "killed"])
def test_pretraining_that_was_stopped_goes_on_bit_for_bit(how, tmp_path, monkeypatch):
    monkeypatch.setenv("UPSLOPE_CACHE", str(tmp_path / "cache"))
    text = [str(write_texts(tmp_path / "a.jsonl", 12)), str(write_texts(tmp_path / "b.jsonl", 40))]
    more = {"text_weights": [3, 1]} if how == "mixed" else {"sample": {"across": how == "across"}}
    trained(tmp_path / "whole", 7, text, **more)
    trained(tmp_path / "halves", 5 if how == "killed" else 3, text, **more)
    if how == "killed":  # what a kill after step 5 leaves: the checkpoint of step 4, and records of what came after it
        shutil.rmtree(tmp_path / "halves" / "checkpoints" / "step-000005")
    trained(tmp_path / "halves", 7, text, resume=True, **more)
    journals, weights = zip(*(left_by(tmp_path / name) for name in ("whole", "halves")), strict=True)
    # The end of the first half was evaluated as such; the whole run has no evaluation there.
    whole, halves = ([row for row in rows if (row["kind"], row["step"]) != ("eval", 3)] for rows in journals)
    assert whole == halves
    assert [row["step"] for row in whole if row["kind"] == "step"] == list(range(7))
    assert [row["step"] for row in whole if row["kind"] == "eval"] == [0, 2, 4, 6, 7]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert weights[0].keys() == weights[1].keys()


def test_text_that_changed_since_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("UPSLOPE_CACHE", str(tmp_path / "cache"))
    text = write_texts(tmp_path / "a.jsonl", 12)
    trained(tmp_path / "run", 2, [str(text)])
    write_texts(text, 13)
    run = trained(tmp_path / "run", 4, [str(text)], resume=True)
    rows = [json.loads(line) for line in (tmp_path / "run" / "journal.jsonl").read_text().splitlines()]
    (notes,) = [row["notes"] for row in rows if row["kind"] == "resume"]
    assert any(note.startswith("the text changed since step 2") for note in notes)
    assert len(run.rows()) == 4
