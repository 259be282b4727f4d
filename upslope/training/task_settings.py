"""The table ``task``: where problems and rewards come from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from upslope.bounds import at_least, require_bounds
from upslope.types import Form

MOST_WORKERS = 256
"""Processes for rewards."""
LONGEST_CHECK = 86_400
"""Seconds of ``reward_timeout``: a day."""


@dataclass(frozen=True)
class TaskSettings:
    """Where problems and rewards come from."""

    name: str = ""
    """code, gsm8k, math, pocket, user, reasoning-gym:NAME, verifiers:NAME, openenv:URL, or your own, FILE.py:NAME;
    empty: user if data is given, none if text is, else pocket."""
    data: str | None = None
    """A folder with train.* and test.*, one such file, a folder that ``datasets`` saved, or (gsm8k) nothing for the
    hub's copy. A file is jsonl, json, csv, tsv (each also .gz or .zst), parquet, arrow or feather."""
    eval_data: str | None = None
    """A file of held-out problems, or a folder that ``datasets`` saved."""
    also: tuple[str, ...] = ()
    """Further files or folders of demonstrations, read as ``data`` is and mixed into what is imitated."""
    weights: tuple[float, ...] = ()
    """The share of ``data``, then of each of ``also``, in what is imitated: any positive numbers, of which the
    proportions count; empty: by size. ``also = ["b.jsonl"]`` with ``weights = [3, 1]`` draws every fourth from b."""
    columns: dict[str, str] = field(default_factory=dict)
    """The data's own column for each field of the task that is called otherwise there: ``prompt = "question"``."""
    template: Form = "auto"
    """Whether prompts get the model's chat template around them. ``auto``: all but strings that it has written already;
    ``chat``: all; ``raw``: none, and they have to be strings."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the chat template, such as ``enable_thinking = false``; a row's own column of that name
    comes first."""
    keep_special: bool = False
    """Whether rewards read the special tokens of an attempt, all but the one that ends it."""
    where: str = ""
    """Only training problems whose columns fulfil it: ``0 < pass_rate < 0.8 and level in ["easy", "hard"]``; empty:
    all."""
    rewards: tuple[str, ...] = ()
    """Reward functions, FILE.py:FUNCTION each; FILE.py:FUNCTION=right for one that decides what is right."""
    reward_weights: tuple[float, ...] = ()
    """One weight a reward function; empty: 1 each."""
    right: float | None = None
    """From which reward on an attempt is right: of the functions marked ``=right``, else of all together. None: 1, and
    nothing for several unmarked functions whose weights do not sum to 1, which have no accuracy."""
    min_prompt_tokens: int = at_least(0, 0)
    """Only problems whose prompt, as the model reads it, has at least so many tokens, in training and held out."""
    max_prompt_tokens: int = at_least(0, 0)
    """Only problems whose prompt has at most so many; 0: of any length."""
    reward_timeout: float = at_least(0, 0.0)
    """Seconds that the check of one attempt may take, in a process of its own, which is killed then; 0: no limit."""
    on_timeout: Literal["stop", "mask"] = "stop"
    """What becomes of an attempt whose check takes longer: the run stops, or the attempt is masked: nobody learns from
    it, and an evaluation does not count it as right."""
    reward_workers: int = at_least(0, 0)
    """Processes that score attempts; what ends one of them does not end the run. 0: this process, or one more where
    there is a ``reward_timeout``."""
    too_long: Literal["stop", "drop", "truncate"] = "stop"
    """What becomes of rows that the model's positions have no room for (a prompt and ``sample.max_tokens``, or a prompt
    and what is to be imitated), all of which are known before the first step: the run does not begin, or goes without
    them, or shortens them: a prompt loses the beginning of its longest message (a string that is taken as it stands,
    of the longest words between its special tokens or the template's), what is imitated and documents their end. How
    many is said and stands in the journal."""
    tools: tuple[str, ...] = ()
    """Functions that an attempt may call, FILE.py:NAME,NAME each; python is a sandbox of upslope's."""
    environment: str = ""
    """A class whose methods an attempt may call, FILE.py:CLASS (TRL's ``environment_factory``); empty: none."""
    max_turns: int = at_least(0, 0)
    """Turns of a conversation with tools or an environment (also of openenv); 0: no limit."""
    max_seconds: float = at_least(0, 0.0)
    """Seconds that such a conversation may take, looked at between its turns; 0: no limit."""
    tool_seconds: float = at_least(0, 0.0)
    """Seconds that one call of a tool may take before it is answered with an error; 0: no limit."""
    options: dict[str, Any] = field(default_factory=dict)
    """What the task itself understands (gsm8k: calculator, keep_annotations; math: seconds; code: partial, seconds,
    memory_mb, instruction, trust_tests; reasoning-gym: size, levels, form, instruction, partial and what its data set
    has; verifiers: its environment's own; openenv: action, observation, reward, size, seconds, on_error; your own: the
    parameters of what makes it)."""
    text: tuple[str, ...] = ()
    """Plain text to read, in the place of the task's documents: files (txt, md, jsonl, parquet, each also .gz or .zst),
    folders, patterns, data sets of the hub. Recipe pretrain reads it, sft replays it (``recipe.sample.replay``), and
    evaluations measure how well its held-out documents are predicted."""
    text_weights: tuple[float, ...] = ()
    """What share of the tokens each of ``text`` gives; empty: by size."""
    text_column: str = "text"
    """The column of the text in files of rows."""
    text_held_out: float = at_least(0, 0.01)
    """Share of the documents of ``text`` that is held out, chosen by a hash of the text: the same in every run."""

    def __post_init__(self) -> None:
        require_bounds(self)
        self._check_text()
        if self.right is not None and not math.isfinite(self.right):
            raise ValueError(f"right = {self.right} must be a finite number")
        if 0 < self.max_prompt_tokens < self.min_prompt_tokens:
            raise ValueError(
                f"no prompt has at least min_prompt_tokens = {self.min_prompt_tokens} and at most max_prompt_tokens = "
                f"{self.max_prompt_tokens}"
            )
        if self.weights and not self.also:
            raise ValueError("weights is given, and nothing is mixed: set also as well, or leave weights out")
        if self.weights and len(self.weights) != 1 + len(self.also):
            raise ValueError(
                f"weights has {len(self.weights)} numbers for data and {len(self.also)} of also; one for each"
            )
        if not all(math.isfinite(weight) and weight > 0 for weight in self.weights):
            raise ValueError(f"weights must be positive numbers, not {list(self.weights)}")
        if self.reward_workers > MOST_WORKERS:
            raise ValueError(f"reward_workers = {self.reward_workers} must be at most {MOST_WORKERS}")
        if self.reward_timeout > LONGEST_CHECK:
            raise ValueError(f"reward_timeout = {self.reward_timeout:g} must be at most {LONGEST_CHECK} seconds")
        lent = bool(self.tools or self.environment)
        if (self.max_turns or self.max_seconds) and not (lent or self.name.startswith("openenv:")):
            raise ValueError("max_turns and max_seconds are for tools or an environment; leave them out")
        if self.tool_seconds and not lent:
            raise ValueError("tool_seconds is for tools or an environment; leave it out")
        if self.on_timeout == "mask" and not self.reward_timeout:
            raise ValueError("on_timeout = mask, and nothing times out: set reward_timeout as well")

    def _check_text(self) -> None:
        if not self.text:
            of_text = {f.name: f.default for f in fields(self) if f.name.startswith("text_")}
            used = [name for name, default in of_text.items() if getattr(self, name) not in (default, 0)]
            if used:
                raise ValueError(f"{used[0]} is given, and there is no text; set text as well")
        if self.text_weights and len(self.text_weights) != len(self.text):
            raise ValueError(f"{len(self.text_weights)} text_weights for {len(self.text)} of text: give one for each")
        if not all(0 < weight < math.inf for weight in self.text_weights):
            raise ValueError(f"text_weights must be finite numbers above 0, not {self.text_weights}")
        if not self.text_held_out < 1:
            raise ValueError(f"text_held_out is a share in [0, 1), not {self.text_held_out}")

    @property
    def text_alone(self) -> bool:
        """Whether there is text to read or predict and no problem to attempt."""
        return bool(self.text) and not self.name and not self.data
