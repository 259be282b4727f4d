"""Prompts and demonstrations as tokens."""

from types import SimpleNamespace

import pytest
from tiny import TOKENIZER

from upslope.errors import UserError
from upslope.model import chat
from upslope.model.pocket import build_tokenizer

MESSAGES = ({"role": "user", "content": "Tom has 18 apples."},)


def test_a_prompt_is_the_templates_text_as_tokens_up_to_where_the_assistant_begins():
    ids = list(chat.prompt_ids(TOKENIZER, MESSAGES))
    text = TOKENIZER.apply_chat_template(list(MESSAGES), tokenize=False, add_generation_prompt=True)
    assert ids == TOKENIZER(text, add_special_tokens=False).input_ids
    assert [t for t in TOKENIZER.convert_ids_to_tokens(ids) if t[0] not in "<\n"] == ["Tom", "has", "18", "apples", "."]


def test_a_demonstration_continues_the_prompt_and_ends_with_the_end_token():
    ids = chat.response_ids(TOKENIZER, "#### 18", TOKENIZER.eos_token_id)
    whole = TOKENIZER.apply_chat_template([*MESSAGES, {"role": "assistant", "content": "#### 18"}], tokenize=False)
    assert list(chat.prompt_ids(TOKENIZER, MESSAGES) + ids) == TOKENIZER(whole).input_ids
    assert ids[-1] == TOKENIZER.eos_token_id


def test_a_tokenizer_without_a_template_gets_the_plain_one():
    bare = build_tokenizer()
    bare.chat_template = None
    ids = chat.prompt_ids(bare, MESSAGES)
    rendered = chat.PLAIN_TEMPLATE
    assert "capitalize" in rendered
    assert list(ids) == bare("User: Tom has 18 apples.\n\nAssistant:\n").input_ids


def test_every_end_token_counts_and_padding_is_not_asked():
    tokenizer = SimpleNamespace(eos_token_id=5, pad_token_id=9)
    assert chat.end_ids(tokenizer, SimpleNamespace(eos_token_id=[7, 5])) == (5, 7)
    assert chat.end_ids(tokenizer, SimpleNamespace(eos_token_id=7)) == (5, 7)


def test_a_model_that_can_never_end_is_refused():
    with pytest.raises(UserError, match="no end token"):
        chat.end_ids(SimpleNamespace(eos_token_id=None))
