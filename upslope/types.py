"""The data that crosses rooms.

One legend of axes serves the whole project. P problems (or their distinct prompts), G samples a problem, N = P * G
rollouts, T tokens of a response, V vocabulary. In scoring and sampling also: K tokens laid end to end without padding,
R the rows of a table of logits, B segments of L queries and S keys, M tokens of a prompt, H heads, J heads of keys and
values, D depth of a head, E end tokens. A name carries its axes (``logp_NT``, ``reward_N``); a count starts with
``num_``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from upslope.forks import Fork
from upslope.marks import FULL_MARKS, comes_to

if TYPE_CHECKING:  # tasks import this file and must not pay for torch
    from torch import Tensor

Message = Mapping[str, Any]
"""``role`` and ``content``, both text; what else the chat template reads of it (``tool_calls``, ``name``)."""
Ended = Literal["stop", "stop_string", "length", "turns", "seconds"]
Form = Literal["auto", "chat", "raw"]


@dataclass(frozen=True)
class Problem:
    """Something to attempt, and what is needed to score an attempt.

    >>> Problem("toy/0", ({"role": "user", "content": "1 + 1 = ?"},), truth="2", demonstration="#### 2").truth
    '2'
    """

    id: str
    """Unique in its task; the address of every random draw made for this problem."""
    messages: tuple[Message, ...]
    """The chat so far, roles and contents; the policy writes the next assistant turn, or goes on with the last one
    where that is the assistant's."""
    truth: str = ""
    """The right answer in the task's own form."""
    demonstration: str | None = None
    """A worked response to imitate (it may be wrong: that is the annotator's business), or None."""
    replies: tuple[tuple[int, int], ...] = ()
    """Where the world speaks in the demonstration, (begin, end) in characters, in order: read and never imitated."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """All further columns of the data row, handed to user reward functions."""
    plain: bool = False
    """The prompt was given as bare text, so reward functions see strings instead of chat messages."""
    conversation: tuple[Message, ...] = ()
    """A whole chat to imitate in place of the demonstration, which is the text of its last assistant turn: every
    assistant turn of it, but those with ``train: False``."""
    template: Mapping[str, Any] = field(default_factory=dict)
    """What the chat template is given besides messages: ``tools``, and keywords such as ``enable_thinking``."""
    form: Form = "auto"
    """Whether the prompt gets the chat template around it (``chat``) or is a string that is taken as it stands
    (``raw``); ``auto``: a plain one is taken so if it holds the template already."""


@dataclass(frozen=True)
class Score:
    """What a task thinks of one response.

    >>> Score(1.0, extracted="18").reward
    1.0
    """

    reward: float
    extracted: str | None = None
    """The answer as read from the response, None where there was none."""
    lenient: float | None = None
    """The reward if the answer may stand anywhere in the response; for evaluation, nothing learns from it. None: the
    task has no such reading."""
    parts: Mapping[str, float | None] = field(default_factory=dict)
    """The value of every reward function by name, where a task has several; None: not applicable."""
    steps: tuple[tuple[int, float], ...] = ()
    """Rewards on the way, beside ``reward``, which is paid at the end: (number of characters, reward), paid to the
    token with which the response reached that many characters."""
    by_token: tuple[float, ...] | None = None
    """The same rewards, one number for every token of the response. Left out, it is made of ``steps``."""
    by_turn: tuple[float, ...] = ()
    """Further rewards, one for each turn of the policy's (fewer: the first ones), paid at its end."""
    told: Mapping[str, float] = field(default_factory=dict)
    """What reward functions say of the whole batch that it was scored in, by name (``log_metric``)."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What they say of this response, by name (``log_extra``)."""
    timed_out: bool = False
    """Its check took longer than it may, so that nothing is known of it: nobody learns from it, and an evaluation does
    not count it as right."""
    right: bool | None = None
    """Whether it counts as right; None: a reward of at least ``FULL_MARKS`` does."""
    decided: bool = True
    """False: nothing says what is right (several reward functions, and none of them decides); there is no accuracy
    then."""

    @property
    def is_right(self) -> bool:
        """The one rule of right, for every share of right attempts that is told or used."""
        return comes_to(self.reward, FULL_MARKS) if self.right is None else self.right


@dataclass(frozen=True)
class Rollout:
    """One attempt at a problem (or one demonstration): exactly the tokens, never text to be tokenised again.

    >>> r = Rollout("toy/0", sample=0, prompt=(5, 6), response=(7, 2), mask=(True, True), logp=(-0.1, -0.2),
    ...             version=0, ended="stop", text="hi", score=Score(1.0))
    >>> r.reward, len(r.response)
    (1.0, 2)
    """

    problem_id: str
    sample: int
    """Which of the problem's G attempts."""
    prompt: tuple[int, ...]
    response: tuple[int, ...]
    mask: tuple[bool, ...]
    """Per response token: True where the policy chose it (template and tool output are not its choice)."""
    logp: tuple[float, ...] | None
    """Per response token, in nats, under the distribution it was really drawn from; None for demonstrations."""
    version: int
    """How many turns of the loop the weights that wrote it had been through; of several, the newest."""
    ended: Ended
    """``stop``: with an end token, and its world, if any, had no more to say. ``stop_string``: with a token that
    completes one of ``Sampling.stop``. ``length``: cut. ``turns``, ``seconds``: a conversation reached that limit."""
    text: str
    """The response decoded without special tokens, up to the end of a stop string: what the reward reads."""
    score: Score = Score(0.0)
    unanswered: int = 0
    """How often the world was asked in between and had nothing to say."""
    versions: tuple[int, ...] | None = None
    """Per response token, where not all were written by weights of ``version``."""
    turns: tuple[int, ...] = ()
    """Where each turn after the first begins: a token of the response that the policy chose."""
    forks: tuple[Fork, ...] = ()
    calls: int = 0
    wrong_calls: int = 0
    """How often it called a tool, and how often of these in vain."""
    chat: tuple[Message, ...] = ()
    """A conversation after its prompt, message by message; empty where there was none."""
    earned: Score | None = None
    """What its world says that it earned, in place of the task; None: the task is asked."""

    @property
    def num_turns(self) -> int:
        return 1 + len(self.turns)

    @property
    def answer(self) -> str:
        """What is judged: the text, of a conversation its last turn's."""
        return next((str(m["content"]) for m in reversed(self.chat) if m["role"] == "assistant"), self.text)

    @property
    def reward(self) -> float:
        return self.score.reward

    @property
    def num_chosen(self) -> int:
        """Tokens of the response that the policy chose."""
        return sum(self.mask)

    @property
    def num_heard(self) -> int:
        """Tokens of the response that the world wrote."""
        return len(self.mask) - self.num_chosen


@dataclass(frozen=True)
class Group:
    """All kept attempts at one problem."""

    problem: Problem
    rollouts: tuple[Rollout, ...]
    weight: float = 1.0
    """What it counts for beside the others of its step: not 1 where its problem was drawn more or less often than
    they, and that is to make no difference in expectation."""


@dataclass(frozen=True)
class Batch:
    """The rollouts of one step as rectangles, T padded to the longest response; padding is masked and holds zeros.

    Fields are None until something a recipe needs fills them. ``take`` keeps every denominator: ``weight_NT`` was
    fixed on the whole before any split, so a sum over parts is the sum over the whole.
    """

    rollouts: tuple[Rollout, ...]
    mask_NT: Tensor
    """bool; True where the policy chose the token."""
    reward_N: Tensor
    """What an attempt earned in all; after ``prepare`` shaped, less what a penalty paid in the reward costs."""
    group_N: Tensor
    """int64; rollouts of one problem share a number."""
    truncated_N: Tensor
    """bool; ended by the length limit."""
    draw_weight_N: Tensor | None = None
    """What its group counts for beside the others (``Group.weight``); None: all alike."""
    version_NT: Tensor | None = None
    """int64; turns of the loop that the weights which wrote the token had been through."""
    turn_NT: Tensor | None = None
    """int64; of which turn of its attempt a token is, from 0; None: no attempt has several."""
    limit: int = 0
    """The longest response that sampling allows, in tokens; 0: unknown (given text)."""
    sampler_logp_NT: Tensor | None = None
    """Log-probability under the distribution it was drawn from, as logged by the sampler."""
    old_logp_NT: Tensor | None = None
    """Log-probability under the policy before the first update of this step, as the learner scores it."""
    old_entropy_NT: Tensor | None = None
    """Entropy of that policy at every state, in nats."""
    present_logp_NT: Tensor | None = None
    """Log-probability under the policy before this very update."""
    reference_logp_NT: Tensor | None = None
    """Log-probability under the frozen reference."""
    reference_kl_NT: Tensor | None = None
    """Exact KL(pi_old || reference) at every state, in nats, for a penalty that is paid in the reward."""
    reward_NT: Tensor | None = None
    """The reward token by token: what a token costs, and the outcome at the last chosen one."""
    value_NT: Tensor | None = None
    """The critic's V(state before token t) before the first update of this step."""
    return_NT: Tensor | None = None
    """What the critic is to predict: its targets, in units of reward."""
    advantage_NT: Tensor | None = None
    weight_NT: Tensor | None = None
    """What a token counts for in the loss."""
    value_weight_NT: Tensor | None = None
    """What a token counts for in the critic's loss."""
    marks: Mapping[str, Tensor] = field(default_factory=dict)
    """By slot, [N, T]: what its ``over_update`` made of the whole update."""

    @property
    def num_rollouts(self) -> int:
        return len(self.rollouts)

    def take(self, rows: Sequence[int]) -> Batch:
        """The given rollouts, in the given order."""
        if list(rows) == list(range(self.num_rollouts)):
            return self
        picked: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if value is None or isinstance(value, int):
                picked[f.name] = value
            elif f.name == "marks":
                picked[f.name] = {slot: mark_NT[list(rows)] for slot, mark_NT in value.items()}
            elif f.name == "rollouts":
                picked[f.name] = tuple(value[i] for i in rows)
            else:
                picked[f.name] = value[list(rows)]
        return Batch(**picked)


def given(value: Tensor | None, name: str) -> Tensor:
    """A batch's field, which ``prepare`` must have filled because the slot declares it in ``needs``."""
    if value is None:
        raise RuntimeError(f"a slot reads {name}, but prepare did not fill it: declare it in the slot's `needs`")
    return value


@dataclass(frozen=True)
class Sampling:
    """The distribution that attempts are drawn from; sampler and learner read the same one.

    >>> Sampling(temperature=0.0).greedy
    True
    """

    temperature: float = 1.0
    """Logits are divided by it; 0 is greedy decoding."""
    top_k: int = 0
    """Only the k most likely tokens; 0: all."""
    top_p: float = 1.0
    """Only the fewest most likely tokens that together hold at least p; 1: all."""
    min_tokens: int = 0
    """The end token cannot be drawn before this many tokens."""
    max_tokens: int = 256
    """An attempt is cut here, whoever wrote its tokens."""
    stop: tuple[str, ...] = field(default=(), repr=False)
    """Texts that end an attempt: with the token of the policy's own that completes one, from ``min_tokens`` on. The
    token is learnt from whole; its text is cut behind the stop string."""

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"needs temperature >= 0, top_k >= 0 and 0 < top_p <= 1: {self}")
        if self.max_tokens < 1 or not 0 <= self.min_tokens <= self.max_tokens:
            raise ValueError(f"needs max_tokens >= 1 and 0 <= min_tokens <= max_tokens: {self}")
        stop: object = self.stop
        if not isinstance(stop, tuple) or not all(isinstance(text, str) and text for text in stop):
            raise ValueError(f"stop is a tuple of texts, none of them empty, not {stop!r:.60}")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def scorable(self) -> bool:
        """Whether a learner can score a drawn token exactly: every token that it may have to score has support."""
        return not self.greedy and self.top_k == 0 and self.top_p == 1
