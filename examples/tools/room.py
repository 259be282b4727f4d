"""The guessing game as an environment, as TRL wants it: the same file works there (``environment_factory=Room``).

Guesses are calls of a tool, of which two are free, and the environment itself says what was earned.

    python examples/tools/make_tools.py
    upslope train --data examples/tools/guessing --environment examples/tools/room.py:Room --model DIRECTORY
"""

from typing import Any


class Room:
    """Somebody in it thinks of a number."""

    def reset(self, low: int, high: int, secret: int, **columns: Any) -> str:
        self._secret, self._left, self._won = secret, 2, False
        return f" I think of a number from {low} to {high}."

    def guess(self, number: int) -> str:
        """
        Guess the number.

        Args:
            number: The guess.

        Returns:
            Whether it is right, or else whether the number is higher or lower.
        """
        if not self._left:
            raise ValueError("no guess is left")
        self._left -= 1
        self._won = self._won or number == self._secret
        return "Right." if number == self._secret else "Higher." if number < self._secret else "Lower."

    def get_reward(self) -> float:
        return float(self._won)
