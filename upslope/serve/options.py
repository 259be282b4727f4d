"""What a client may ask for. Every option takes effect or is refused: nothing is accepted and ignored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from upslope.errors import nearest
from upslope.types import Sampling

MOST_CHOICES = 128
MOST_STOPS = 64


class Declined(Exception):
    """A request that is not served; told as OpenAI's error object.

    >>> Declined("no such model", code="model_not_found", status=404).told()["error"]["code"]
    'model_not_found'
    """

    def __init__(
        self,
        message: str,
        param: str | None = None,
        *,
        code: str | None = None,
        status: int = 400,
        kind: str = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.param, self.code, self.status, self.kind = param, code, status, kind

    def told(self) -> dict[str, Any]:
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}


OptionCheck = Callable[[Any, str], Any]
"""A value as it is used; raises Declined, which names the option."""


def a_number(least: float, most: float) -> OptionCheck:
    def check(value: Any, name: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise Declined(f"{name} must be a number from {least:g} to {most:g}, not {value!r:.60}", name)
        return float(value)

    return check


def whole(least: int, most: int) -> OptionCheck:
    def check(value: Any, name: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise Declined(f"{name} must be a whole number from {least} to {most}, not {value!r:.60}", name)
        return value

    return check


def flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise Declined(f"{name} must be true or false, not {value!r:.60}", name)
    return value


def text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise Declined(f"{name} must be text, not {value!r:.60}", name)
    return value


def an_object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Declined(f"{name} must be an object, not {value!r:.60}", name)
    return value


def anything(value: Any, name: str) -> Any:
    return value


def stops(value: Any, name: str) -> tuple[str, ...]:
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not all(isinstance(stop, str) and stop for stop in given):
        raise Declined(f"{name} must be a text or a list of texts, none of them empty, not {value!r:.60}", name)
    if len(given) > MOST_STOPS:
        raise Declined(f"{name} has {len(given)} texts; at most {MOST_STOPS}", name)
    return tuple(given)


def tokens(value: Any, name: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(token) is int for token in value):
        raise Declined(f"{name} must be a list of token ids, not {value!r:.60}", name)
    return tuple(value)


def stream_options(value: Any, name: str) -> dict[str, Any]:
    given = {key: item for key, item in an_object(value, name).items() if item is not None}
    for key in given:
        if key != "include_usage":
            raise Declined(f"{name} has no option {key!r}; it has include_usage", name)
        flag(given[key], f"{name}.{key}")
    return given


SAMPLED: dict[str, OptionCheck] = {
    "max_tokens": whole(0, 2**31),
    "temperature": a_number(0, 2),
    "top_p": a_number(1e-9, 1),
    "top_k": whole(-1, 2**31),
    "min_tokens": whole(0, 2**31),
    "n": whole(1, MOST_CHOICES),
    "seed": whole(-(2**63), 2**63 - 1),
    "stop": stops,
}
"""What every way of asking has in common."""
_TALKED: dict[str, OptionCheck] = SAMPLED | {
    "model": text,
    "stream": flag,
    "stream_options": stream_options,
    "user": text,  # names whoever asks, and is not to change anything
    "return_token_ids": flag,
}
CHAT: dict[str, OptionCheck] = _TALKED | {
    "messages": anything,
    "max_completion_tokens": whole(1, 2**31),
    "logprobs": flag,
    "top_logprobs": whole(0, 20),
    "chat_template_kwargs": an_object,
}
COMPLETION: dict[str, OptionCheck] = _TALKED | {"prompt": anything, "logprobs": whole(0, 20), "echo": flag}
GENERATE: dict[str, OptionCheck] = {
    "model": text,
    "token_ids": tokens,
    "sampling_params": an_object,
    "request_id": text,
    "cache_salt": text,  # keeps caches of prompts apart, and what is served here is one model's
}
GENERATED: dict[str, OptionCheck] = SAMPLED | {
    "stop_token_ids": tokens,
    "logprobs": whole(0, 20),
    "skip_special_tokens": flag,  # of text, and tokens come out
}

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "min_p": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "store": (False,),
    "metadata": ({},),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "suffix": ("",),
    "best_of": (1,),
    "use_beam_search": (False,),
    "ignore_eos": (False,),
    "priority": (0,),
    "stream": (False,),
    "parallel_tool_calls": (True, False),
}
"""Options that exist elsewhere, with the values that change nothing: these are taken, others refused."""


def checked(body: Any, known: Mapping[str, OptionCheck]) -> dict[str, Any]:
    """The options that were given, as they are used; null is as good as left out.

    >>> checked({"n": 2, "seed": None, "presence_penalty": 0}, SAMPLED)
    {'n': 2}

    Raises Declined for one that is not known, or not supported.
    """
    if not isinstance(body, dict):
        raise Declined("the body must be a JSON object")
    given: dict[str, Any] = {}
    for name, value in body.items():
        if value is None:
            continue
        if name in known:
            given[name] = known[name](value, name)
        elif name not in NEUTRAL:
            raise Declined(f"there is no option {name[:60]!r} here{nearest(name, known)}", name[:60])
        elif not any(type(value) is type(same) and value == same for same in _spelt(NEUTRAL[name])):
            raise Declined(f"{name} is not supported; leave it out", name, code="unsupported_parameter")
    return given


def _spelt(values: tuple[Any, ...]) -> list[Any]:
    """Whole numbers as decimals too."""
    return [*values, *(float(v) for v in values if type(v) is int)]


@dataclass(frozen=True)
class Ordered:
    """How responses are to be written.

    >>> asked = Ordered.of({"temperature": 0, "stop": ("END",)}, 16)
    >>> asked.sampling(9).greedy, asked.num, asked.stops
    (True, 1, ('END',))
    """

    options: Mapping[str, Any]
    max_tokens: int | None
    """None: as many as there is room for."""

    @staticmethod
    def of(options: Mapping[str, Any], max_tokens: int | None) -> Ordered:
        """Of what ``checked`` leaves; ``max_tokens`` where none are given. Raises Declined for options that contradict
        each other."""
        named = [options[name] for name in ("max_completion_tokens", "max_tokens") if name in options]
        if len(set(named)) > 1:
            raise Declined("max_tokens and max_completion_tokens differ; give one of them", "max_tokens")
        if "stream_options" in options and not options.get("stream"):
            raise Declined("stream_options is for stream = true", "stream_options")
        return Ordered(options, named[0] if named else max_tokens)

    @property
    def num(self) -> int:
        return int(self.options.get("n", 1))

    @property
    def stops(self) -> tuple[str, ...]:
        return tuple(self.options.get("stop", ()))

    def sampling(self, max_tokens: int) -> Sampling:
        """Raises Declined where the options contradict each other."""
        top_k = self.options.get("top_k", 0)
        least = self.options.get("min_tokens", 0)
        if least > max_tokens:
            raise Declined(f"min_tokens = {least} is more than the longest response has, {max_tokens}", "min_tokens")
        return Sampling(
            temperature=self.options.get("temperature", 1.0),
            top_k=max(0, top_k),
            top_p=self.options.get("top_p", 1.0),
            min_tokens=least,
            max_tokens=max_tokens,
        )
