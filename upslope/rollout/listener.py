"""An episode, which reads and writes text, for a sampler, which knows tokens alone."""

from __future__ import annotations

from collections.abc import Sequence

from upslope.errors import UserError
from upslope.model.chat_renderer import reading
from upslope.model.renderer import Renderer, known_tokens
from upslope.rollout.stopping import TextOfToken, completed_stop
from upslope.tasks.episode import Episode


class Listeners:
    """Makes a ``Listener`` of every episode; they share what is known of the vocabulary."""

    def __init__(self, renderer: Renderer) -> None:
        self._texts = {special: TextOfToken(reading(renderer, special=special)) for special in (False, True)}

    def of(self, episode: Episode | None) -> EpisodeListener | None:
        """The listener of an attempt, if it has a world."""
        return (
            None
            if episode is None
            else EpisodeListener(episode, self._texts[bool(getattr(episode, "keep_special", False))])
        )


class EpisodeListener:
    """The ``Listener`` of one episode."""

    def __init__(self, episode: Episode, texts: TextOfToken) -> None:
        self._episode, self._renderer, self._texts = episode, texts.renderer, texts
        self._lasts = {stop[-1] for stop in episode.stops}

    def pauses(self, token: int) -> bool:
        """Whether a stop can end within this token, as far as the token alone can tell."""
        return self._texts.may_end(token, self._lasts)

    def reply(self, response: Sequence[int]) -> tuple[int, ...] | None:
        """The episode's reply as tokens, if the newest token completes a stop."""
        text, end = completed_stop(self._renderer, response, self._episode.stops)
        if end is None:
            return None
        answer = self._episode.reply(text)
        if answer is None or isinstance(answer, str):
            return None if answer is None else self._renderer.middle_ids(answer)
        tokens = known_tokens(self._renderer, answer)
        if len(tokens) < len(answer):
            raise UserError(
                "an episode with stops replied with messages, in the middle of a turn; give it no stops, so that it is "
                "asked when a turn ends, or let it reply with text"
            )
        return tokens
