"""Prompts, demonstrations and documents as tokens, and what a policy wrote as text."""

import ast
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import TOKENIZER, bare_tokenizer as bare, policy

import upslope
from upslope.errors import UserError
from upslope.model import chat_renderer, chat_template
from upslope.model.chat_renderer import ChatRenderer
from upslope.text import encoder

MESSAGES = ({"role": "user", "content": "Tom has 18 apples."},)
CHAT = ChatRenderer.of(TOKENIZER)


def test_a_prompt_is_the_templates_text_as_tokens_up_to_where_the_assistant_begins():
    ids = list(CHAT.prompt_ids(MESSAGES))
    text = TOKENIZER.apply_chat_template(list(MESSAGES), tokenize=False, add_generation_prompt=True)
    assert ids == TOKENIZER(text, add_special_tokens=False).input_ids
    assert [t for t in TOKENIZER.convert_ids_to_tokens(ids) if t[0] not in "<\n"] == ["Tom", "has", "18", "apples", "."]


def test_a_demonstration_continues_the_prompt_and_ends_with_the_end_token():
    ids = CHAT.response_ids("#### 18")
    whole = TOKENIZER.apply_chat_template([*MESSAGES, {"role": "assistant", "content": "#### 18"}], tokenize=False)
    assert list(CHAT.prompt_ids(MESSAGES) + ids) == TOKENIZER(whole).input_ids
    assert ids[-1] == TOKENIZER.eos_token_id


def test_a_tokenizer_without_a_template_gets_the_plain_one():
    ids = ChatRenderer.of(bare()).prompt_ids(MESSAGES)
    assert list(ids) == bare()("User: Tom has 18 apples.\n\nAssistant:\n").input_ids


def test_the_plain_template_follows_a_start_token_and_a_chat_template_writes_its_own():
    start = TOKENIZER.convert_tokens_to_ids("Tom")
    assert ChatRenderer.of(bare(bos_token="Tom")).prompt_ids(MESSAGES)[0] == start
    assert ChatRenderer.of(bare()).prompt_ids(MESSAGES)[0] != start
    templated = bare(bos_token="Tom")
    templated.chat_template = TOKENIZER.chat_template
    assert ChatRenderer.of(templated).prompt_ids(MESSAGES) == CHAT.prompt_ids(MESSAGES)


def test_a_document_follows_the_start_token_or_the_end_token():
    assert ChatRenderer.of(bare()).start_ids == (TOKENIZER.eos_token_id,)
    assert ChatRenderer.of(bare(bos_token="Tom")).start_ids == (TOKENIZER.convert_tokens_to_ids("Tom"),)
    assert replace(CHAT, end_ids=(7, 5)).start_ids == (7,)


def test_text_is_without_special_tokens_and_with_every_space():
    """What the policy's words are read as; its first and last tokens are special ones."""
    words = TOKENIZER("9 + 9 = 18 .", add_special_tokens=False).input_ids
    assert CHAT.text((TOKENIZER.pad_token_id, *words, TOKENIZER.eos_token_id)) == TOKENIZER.decode(words)
    seen = {}
    noting = SimpleNamespace(decode=lambda ids, **how: seen.update(how, ids=ids) or "x")
    assert ChatRenderer(noting, (1,)).text((4, 1)) == "x"
    assert seen == {"ids": [4, 1], "skip_special_tokens": True, "clean_up_tokenization_spaces": False}


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{{ raise_exception('roles must alternate') }}", "does not take .*Tom has 18.*: roles must alternate"),
        ("{% for m in messages %}", "does not take"),
        ("{{ '' }}", "makes no tokens of .*Tom has 18"),
    ],
)
def test_a_template_that_cannot_render_is_a_users_error_in_one_line(template, told):
    tokenizer = bare()
    tokenizer.chat_template = template
    with pytest.raises(UserError, match=told) as raised:
        ChatRenderer.of(tokenizer).prompt_ids(MESSAGES)
    assert "\n" not in str(raised.value)


def test_every_end_token_counts_and_padding_is_not_asked():
    tokenizer = SimpleNamespace(eos_token_id=5, pad_token_id=9)
    assert ChatRenderer.of(tokenizer, SimpleNamespace(eos_token_id=[7, 5])).end_ids == (5, 7)
    assert ChatRenderer.of(tokenizer, SimpleNamespace(eos_token_id=7)).end_ids == (5, 7)


def test_a_model_that_can_never_end_is_refused():
    with pytest.raises(UserError, match="no end token"):
        ChatRenderer.of(SimpleNamespace(eos_token_id=None))


def test_a_policy_ends_where_its_renderer_says():
    subject = policy()
    assert subject.end_ids == subject.renderer.end_ids == (TOKENIZER.eos_token_id,)
    subject.renderer = replace(subject.renderer, end_ids=(3, 4))
    assert subject.end_ids == (3, 4) and subject.end_tensor.tolist() == [3, 4]


TOKENISES = {"apply_chat_template", "batch_decode", "batch_encode_plus", "encode_plus", "convert_tokens_to_ids"}
"""Methods of a tokenizer alone. ``encode`` and ``decode`` are also those of strings and bytes."""


def tokenising(source):
    """Lines that turn text to tokens or back: a tokenizer that is called, or one of its methods."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        path = ast.unparse(called).split(".")
        is_tokenizer = path[-1] == "tokenizer"
        of_tokenizer = path[-2:-1] == ["tokenizer"] and path[-1] in ("encode", "decode")
        if is_tokenizer or of_tokenizer or path[-1] in TOKENISES:
            found.append(node.lineno)
    return found


def test_all_tokenising_is_in_one_file():
    """Pitfall 12. The pocket model's tokenizer is made elsewhere; it is not used there. Documents are tokenised in
    processes of their own, without a chat and without torch. The chat template makes text alone."""
    package = Path(upslope.__file__).parent
    elsewhere = {
        f"{path.relative_to(package)}:{line}"
        for path in package.rglob("*.py")
        if path not in (Path(chat_renderer.__file__), Path(encoder.__file__), Path(chat_template.__file__))
        for line in tokenising(path.read_text(encoding="utf-8"))
    }
    assert elsewhere == set()
    assert len(tokenising(Path(chat_renderer.__file__).read_text(encoding="utf-8"))) == 3
    rendering = Path(chat_template.__file__).read_text(encoding="utf-8")
    assert len(tokenising(rendering)) == 1 and '"tokenize": False' in rendering


@pytest.mark.parametrize(
    "line",
    [
        "tokenizer('a')",
        "policy.tokenizer(text).input_ids",
        "self.tokenizer.decode(ids)",
        "tokenizer.encode(text)",
        "x.apply_chat_template(m)",
        "anything.batch_decode(ids)",
    ],
)
def test_tokenising_elsewhere_would_be_seen(line):
    assert tokenising(line) == [1]


@pytest.mark.parametrize("line", ["text.encode()", "build_tokenizer()", "tokenizer.save_pretrained(folder)"])
def test_what_is_no_tokenising_is_left_alone(line):
    assert tokenising(line) == []


class Prefixing:
    """A tokenizer as SentencePiece makes them: a space is put before whatever it is given."""

    eos_token_id, bos_token_id, chat_template = 0, None, None

    def __call__(self, text, add_special_tokens=False, verbose=True):
        return SimpleNamespace(input_ids=[ord(letter) for letter in f" {text}"])

    def decode(self, ids, **_):
        return "".join(map(chr, ids))


def test_words_in_the_middle_of_a_response_bring_no_space_of_the_tokenizers():
    assert "".join(map(chr, ChatRenderer(Prefixing(), (0,)).middle_ids("18>>"))) == "18>>"
    assert CHAT.text(CHAT.middle_ids("18")).strip() == "18"
    assert CHAT.middle_ids("") == ()


def test_what_a_tokenizer_cannot_write_is_said():
    class Deaf(Prefixing):
        def __call__(self, text, add_special_tokens=False, verbose=True):
            return SimpleNamespace(input_ids=[ord("?")])

    with pytest.raises(UserError, match="cannot write '18>>' in the middle of a response"):
        ChatRenderer(Deaf(), (0,)).middle_ids("18>>")
