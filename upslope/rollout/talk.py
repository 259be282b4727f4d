"""An attempt as a conversation, as far as it has come: tokens, and the messages that they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from upslope.forks import Fork
from upslope.model.chat_renderer import reading
from upslope.model.renderer import Renderer, known_tokens
from upslope.rollout.base import Listener, Request, require_prompt
from upslope.rollout.stopping import text_read
from upslope.tasks.episode import Episode, Reply
from upslope.tasks.response import Response, Standing
from upslope.types import Ended, Message, Problem, Rollout, Sampling, Score


class OngoingAttempt:
    """One attempt: what was read and written. Its tokens are added to and never changed."""

    def __init__(
        self,
        problem: Problem,
        sample: int,
        opening: Sequence[Message],
        prompt: tuple[int, ...],
        sampling: Sampling,
        episode: Episode | None,
        listener: Listener | None,
    ) -> None:
        self.problem, self.sample, self.episode, self._listener = problem, sample, episode, listener
        self._sampling = sampling
        self._opening, self._prompt = tuple(opening), prompt
        self._row = [*prompt]
        self._most_positions = len(prompt) + sampling.max_tokens
        most = episode.limits.tokens if episode is not None else 0
        self._most = min(most or sampling.max_tokens, sampling.max_tokens)
        self._tokens: list[int] = []
        self._mask: list[bool] = []
        self._logp: list[float] = []
        self._versions: list[int] = []
        self._turns: list[int] = []
        self._forks: list[Fork] = []
        self._unanswered = 0
        self._chat: list[Message] = []
        self._spelled: list[Message] = []
        """The same with the policy's turns spelled out, special tokens and all: what a template is shown."""
        self._resumed: set[int] = set()
        """Which messages of the chat go on with the one before them, which somebody else began for the assistant."""
        self._last: Ended = "stop"

    @property
    def converses(self) -> bool:
        """Whether its world is asked when a turn ends."""
        return self.episode is not None and not self.episode.stops

    @property
    def num_turns(self) -> int:
        return len(self._turns)

    @property
    def chat(self) -> tuple[Message, ...]:
        """What was said after the prompt."""
        return tuple(self._chat)

    def judged(self, standing: Standing) -> tuple[Message, ...]:
        """The same for whoever judges it: its last turn knows all tokens that the policy chose, and how far the run
        is."""
        chosen = [token for token, own in zip(self._tokens, self._mask, strict=True) if own]
        last = max((n for n, m in enumerate(self._chat) if m["role"] == "assistant"), default=-1)
        return tuple(
            {**m, "content": Response(m["content"], chosen, standing)} if n == last else m
            for n, m in enumerate(self._chat)
        )

    @property
    def cut(self) -> bool:
        """Whether the last turn was cut short."""
        return self._last == "length"

    @property
    def _end(self) -> int:
        """Before which token it is cut: where a fork's prompt is longer than what it stands for, earlier."""
        return min(self._most, len(self._tokens) + self._most_positions - len(self._row))

    def request(self) -> Request:
        """Its next turn."""
        return Request(
            self.problem.id, self.sample, tuple(self._row), self._listener, begin=len(self._tokens), end=self._end
        )

    def add(self, rollout: Rollout, renderer: Renderer) -> str:
        """Take the turn that was written; returns its text, as its world reads it. Raises UserError for one that
        follows other tokens than those that were read and written so far."""
        require_prompt(rollout, tuple(self._row))
        self._turns.append(len(self._tokens))
        self._tokens += rollout.response
        self._mask += rollout.mask
        self._logp += rollout.logp or ()
        self._versions += rollout.versions or (rollout.version,) * len(rollout.response)
        self._row += rollout.response
        self._unanswered += rollout.unanswered
        self._last = rollout.ended
        text = text_read(renderer, rollout, self._sampling)
        if [*self._opening, *self._chat][-1]["role"] == "assistant":
            self._resumed.add(len(self._chat))
        spelled = reading(renderer, special=True).text(rollout.response)
        self._chat.append({"role": "assistant", "content": text})
        self._spelled.append({"role": "assistant", "content": spelled})
        return spelled if self.episode is not None and self.episode.keep_special else text

    def hear(self, reply: Reply, renderer: Renderer) -> bool:
        """Take what the world says to the last turn; returns whether there is room for another turn. Raises UserError
        as ``Renderer.next_turn`` does."""
        if not reply:
            self._unanswered += reply is not None
            return False
        before = self._as_read()
        tokens = known_tokens(renderer, reply)
        forks = False
        if tokens:
            new: list[Message] = [{"role": "user", "content": renderer.text(tokens)}]
        else:
            said = [{"role": "user", "content": reply}] if isinstance(reply, str) else reply
            new = [message for message in said if isinstance(message, Mapping)]
            tokens, forks = renderer.next_turn(before, new, self._row, self.problem.template)
        self._chat += new
        self._spelled += new
        if forks:
            self._row = [*tokens]
            if self._end > len(self._tokens):
                self._forks.append(Fork(len(self._tokens), tokens))
                return True
        elif self._end > len(self._tokens) + len(tokens):
            self._row += tokens
            self._tokens += tokens
            self._mask += [False] * len(tokens)
            self._logp += [0.0] * len(tokens) if self._logp else ()
            self._versions += self._versions[-1:] * len(tokens)
            return True
        self._last = "length"
        return False

    def _as_read(self) -> list[Message]:
        """The whole chat so far, a turn that somebody else began in one message."""
        found = list(self._opening)
        for place, message in enumerate(self._spelled):
            if place in self._resumed:
                found[-1] = {**found[-1], "content": found[-1]["content"] + message["content"]}
            else:
                found.append(message)
        return found

    def rollout(self, renderer: Renderer, ended: Ended, earned: Score | None) -> Rollout:
        """The whole attempt."""
        one = len(set(self._versions)) == 1
        return Rollout(
            problem_id=self.problem.id,
            sample=self.sample,
            prompt=self._prompt,
            response=tuple(self._tokens),
            mask=tuple(self._mask),
            logp=tuple(self._logp) if len(self._logp) == len(self._tokens) else None,  # kept attempts have none
            version=max(self._versions),
            ended=ended,
            text=renderer.text(self._tokens) if self.converses else str(self._chat[-1]["content"]),
            unanswered=self._unanswered,
            versions=None if one else tuple(self._versions),
            turns=tuple(self._turns[1:]),
            forks=tuple(self._forks),
            calls=self.episode.calls if self.converses and self.episode else 0,
            wrong_calls=self.episode.wrong_calls if self.converses and self.episode else 0,
            chat=self.chat if self.converses else (),
            earned=earned,
        )
