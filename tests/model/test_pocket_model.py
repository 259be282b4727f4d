"""The pocket model and tokenizer: lossless on the whole pocket world, small, and a function of the seed."""

from __future__ import annotations

import math
import random

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from upslope.model.pocket import MAX_POSITIONS, build_model, build_tokenizer
from upslope.tasks.pocket_problems import Pocket, open_pocket


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="module")
def task() -> Pocket:
    return open_pocket()


def _texts(task: Pocket) -> list[str]:
    problems = [*task.problems("train")[:3_000], *task.problems("test"), *task.demonstrations()]
    asked = [problem.messages[0]["content"] for problem in problems]
    return [*asked, *(problem.demonstration or "" for problem in problems), *task.documents()[:5_000]]


def test_every_text_survives_the_round_trip(tokenizer: PreTrainedTokenizerFast, task: Pocket) -> None:
    texts = _texts(task)
    ids = tokenizer(texts)["input_ids"]
    assert tokenizer.unk_token_id not in {token for row in ids for token in row}
    assert tokenizer.batch_decode(ids) == texts
    assert max(map(len, ids)) < MAX_POSITIONS


def test_any_tokens_a_policy_may_write_survive_the_round_trip(tokenizer: PreTrainedTokenizerFast) -> None:
    draw = random.Random(0)
    ordinary = sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids))
    for _ in range(300):
        ids = draw.choices(ordinary, k=24)
        text = tokenizer.decode(ids)
        assert tokenizer.encode(text) == ids, text


def test_a_number_is_one_token(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer.convert_tokens_to_ids(["9", "+", "9", "=", "18", "\n", "####", "18", tokenizer.eos_token])
    assert tokenizer.decode(ids, skip_special_tokens=True) == "9 + 9 = 18\n#### 18"
    assert tokenizer.encode("100") == [tokenizer.unk_token_id]


def test_the_chat_template_opens_the_answer(tokenizer: PreTrainedTokenizerFast) -> None:
    asked = [{"role": "user", "content": "Tom has 2 books."}]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    names = tokenizer.convert_ids_to_tokens(prompt)
    assert names == ["Tom", "has", "2", "books", ".", "\n"]
    told = [*asked, {"role": "assistant", "content": "#### 2"}]
    whole = tokenizer.apply_chat_template(told, return_dict=False)
    # What is imitated is what is later sampled: the prompt, the response, the end token.
    assert whole == [*prompt, *tokenizer.encode("#### 2"), tokenizer.eos_token_id]
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}) == 3


def test_the_model_is_small_and_made_by_its_seed(tokenizer: PreTrainedTokenizerFast) -> None:
    before = torch.get_rng_state()
    first, again, other = build_model(0), build_model(0), build_model(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert 150_000 < first.num_parameters() < 200_000
    weights, same, different = (model.get_input_embeddings().weight for model in (first, again, other))
    assert torch.equal(weights, same) and not torch.equal(weights, different)
    assert first.config.vocab_size == len(tokenizer) and first.dtype == torch.float32
    assert first.lm_head.weight is first.model.embed_tokens.weight
    assert first.config.eos_token_id == tokenizer.eos_token_id != first.config.pad_token_id
    # A model that knows nothing spreads its guesses: the entropy of each is near log(V).
    logits = first(torch.tensor([tokenizer.encode("Tom has 2 books.")])).logits
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    assert entropy.min().item() > 0.9 * math.log(len(tokenizer))
