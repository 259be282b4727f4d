"""What the assistant writes in a chat, turn by turn, as its template writes it.

A turn is two texts: what stands before the assistant begins, and what it then has to write, its end included. Where
the template marks what the assistant says (``{% generation %}``), both are read from the marks. Otherwise they are read
from prefixes: the chat before the turn with a generation prompt, against the chat with the turn.

Between the generation prompt and the text a template may write something of its own. It is the assistant's to write (a
space, a channel's name), unless the template leaves it out again as soon as the chat goes on: then (the empty thinking
of Qwen3) it is left out here too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from upslope.errors import UserError
from upslope.types import Message

PROBE = "probe"
"""Stands for a turn's text, to see what the template writes around it."""


class Refused(UserError):
    """A chat template does not take a chat; ``cause`` is what it says."""

    def __init__(self, message: str, cause: str) -> None:
        super().__init__(message)
        self.cause = cause


class Turn(NamedTuple):
    """One assistant turn.

    >>> Turn("<|user|>hi<|end|><|assistant|>", "Hello.<|end|>").written
    'Hello.<|end|>'
    """

    prompt: str
    """Everything before it, up to where the assistant begins to write."""
    written: str
    """Its text as the template writes it, and its end; no end where the template writes none."""


class Rendering(Protocol):
    """A chat template, and special tokens as text."""

    ends: tuple[str, ...]
    """Those that the template may end a turn with: all there are."""
    stops: tuple[str, ...]
    """Those that end a response wherever they stand."""

    def __call__(self, messages: Sequence[Message], *, generate: bool) -> str:
        """The chat as text, with a generation prompt if ``generate``. Raises Refused."""
        ...

    def marked(self, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int]]] | None:
        """The chat as text, and where the assistant speaks in it, (begin, end) in characters; None: the template has
        no marks. Raises Refused."""
        ...


def turns_of(messages: Sequence[Message], render: Rendering) -> list[Turn]:
    """The assistant turns of a chat that are not ``train: False``, in order.

    Raises UserError, which names the message, where the template does not take the chat, and for a text that holds a
    token that ends a turn.
    """
    chat = [{key: value for key, value in message.items() if key != "train"} for message in messages]
    assistant = [i for i, message in enumerate(chat) if message["role"] == "assistant"]
    counted = [i for i in assistant if messages[i].get("train", True)]
    for i in counted:
        _require_no_end(chat, i, chat[i]["content"], render)
    turns = _turns(chat, assistant, counted, render)
    for i, turn in zip(counted, turns, strict=True):  # thoughts and calls too
        end = max((end for end in render.ends if turn.written.rstrip().endswith(end)), key=len, default="")
        _require_no_end(chat, i, turn.written.rstrip().removesuffix(end), render)
        require_named(chat[i].get("tool_calls"), turn.written, f"{_named(chat, i)}: its tool_calls")
        _require_thoughts(chat, i, turn.written)
    return turns


def require_named(functions: object, text: str, what: str) -> None:
    """Raise UserError where a template leaves functions (tools, or calls of them) out of what it writes without a word:
    whoever learnt from that would learn something else."""
    for each in functions if isinstance(functions, Sequence) else ():
        named = each.get("function", each) if isinstance(each, Mapping) else {}
        name = named.get("name") if isinstance(named, Mapping) else None
        if isinstance(name, str) and name not in text:
            raise UserError(
                f"{what} are not written by the model's chat template ({name!r} is nowhere in it): give it a template "
                "that has a place for them, or leave them out"
            )


def _require_thoughts(chat: Sequence[Message], i: int, text: str) -> None:
    thoughts = chat[i].get("reasoning_content")
    if isinstance(thoughts, str) and thoughts.strip() not in text:
        raise UserError(
            f"{_named(chat, i)}: its reasoning_content is not written by the model's chat template: give it a template "
            "that has a place for it, or leave it out"
        )


def _turns(chat: Sequence[Message], assistant: list[int], counted: list[int], render: Rendering) -> list[Turn]:
    try:
        text, spans = render.marked(chat) or ("", [])
        if len(spans) != len(assistant):  # marks that are not one for each turn say nothing of turns
            return [_by_prefix(chat, i, render) for i in counted]
    except Refused as error:
        raise UserError(_blamed(chat, render) or str(error)) from error
    found = dict(zip(assistant, spans, strict=True))
    return [Turn(text[: found[i][0]], _to_its_end(text, *found[i], render)) for i in counted]


def _require_no_end(chat: Sequence[Message], i: int, text: str, render: Rendering) -> None:
    held = [stop for stop in render.stops if stop in text]
    if held:
        raise UserError(f"{_named(chat, i)}: its text holds {held[0]!r}, which ends a turn; take it out")


def end_of_turn(after: str, ends: Sequence[str]) -> str:
    """What ends a turn, of what a template writes after its text: up to the first special token, if that is the first
    thing but spaces; else nothing.

    >>> end_of_turn(" </s>[INST]", ["</s>", "[INST]"]), end_of_turn("<|im_end|>\\n", ["<|im_end|>"])
    (' </s>', '<|im_end|>')
    """
    space = after[: len(after) - len(after.lstrip())]
    first = max((end for end in ends if after.startswith(end, len(space))), key=len, default="")
    return space + first if first else ""


def _by_prefix(chat: Sequence[Message], i: int, render: Rendering) -> Turn:
    prompt = _before(chat, i, render)
    probed = render([*chat[:i], {"role": "assistant", "content": PROBE}], generate=False)
    before, found, after = probed.rpartition(PROBE)
    if not found:
        raise UserError(f"{_named(chat, i)}: the model's chat template does not write what an assistant says")
    full = render(chat[: i + 1], generate=False)
    end = end_of_turn(after, render.ends)
    if not full.startswith(prompt):
        return Turn(prompt, _own_text(chat, i, prompt, full) + end)
    written = full[len(prompt) :]
    lead = before[len(prompt) :]
    if lead.strip() and written.startswith(lead) and not _stays(chat, i, prompt, lead, render):
        written = written[len(lead) :]
    if written.endswith(after):
        return Turn(prompt, written[: len(written) - len(after)] + end)
    return Turn(prompt, written.rstrip())  # a call of a tool may end otherwise


def _before(chat: Sequence[Message], i: int, render: Rendering) -> str:
    """The chat before a turn, with the generation prompt."""
    try:
        return render(chat[:i], generate=True)
    except Refused as error:
        if i:
            raise
        raise UserError(
            f"{_named(chat, i)}: nothing stands before it, and the model's chat template takes no empty chat; give it "
            "train = false, or a message before it"
        ) from error


def _own_text(chat: Sequence[Message], i: int, prompt: str, full: str) -> str:
    """A turn's own text, where the generation prompt is not how the template begins the turn. What it has begun for the
    assistant (``<think>``), and the text begins with as well, is there once."""
    message = chat[i]
    if any(message.get(key) for key in ("tool_calls", "reasoning_content")):
        raise UserError(
            f"{_named(chat, i)}: the chat template's generation prompt does not begin the turn as the template writes "
            "it, so its parts cannot be told apart; give its content alone"
        )
    text: str = message["content"] if message["content"] in full else message["content"].strip()
    same = next((n for n, (a, b) in enumerate(zip(prompt, full, strict=False)) if a != b), len(full))
    begun = prompt[same:]
    return text[len(begun) :] if begun.strip() and text.startswith(begun) else text


def _stays(chat: Sequence[Message], i: int, prompt: str, lead: str, render: Rendering) -> bool:
    """Whether what the template writes before a turn's text is still there when the chat goes on."""
    try:
        later = render([*chat[: i + 1], {"role": "user", "content": PROBE}], generate=False)
    except Refused:
        return True
    return later.startswith(prompt + lead)


def _to_its_end(text: str, begin: int, end: int, render: Rendering) -> str:
    """A marked span, with the token that ends its turn, and without what follows that."""
    span = text[begin:end]
    if any(span.rstrip().endswith(each) for each in render.ends):
        return span.rstrip()
    return span + end_of_turn(text[end:], render.stops)


def _blamed(chat: Sequence[Message], render: Rendering) -> str:
    """The first message that the template does not take, and why; empty if it takes each."""
    for i in range(len(chat)):
        try:
            render(chat[: i + 1], generate=chat[i]["role"] != "assistant")
        except Refused as error:
            return f"{_named(chat, i)}: the model's chat template does not take it: {error.cause}"
    return ""


def _named(chat: Sequence[Message], i: int) -> str:
    return f"message {i + 1} ({chat[i]['role']})"
