"""Whether conversations that are to be imitated end with something to imitate."""

from __future__ import annotations

from upslope.errors import UserError
from upslope.tasks.base import Task


def require_endings(task: Task) -> None:
    """Raise UserError for a conversation of the task's rows that does not end with the assistant's words."""
    try:
        problems = task.problems("train")
    except UserError:  # demonstrations may be all that it has
        return
    for problem in problems:
        if problem.demonstration is None and problem.columns.get("messages") is not None:
            role = problem.messages[-1]["role"]
            what = "the beginning of an answer" if role == "assistant" else f"a message of the {role}'s"
            raise UserError(
                f"{task.place(problem)}: its messages end with {what}, so that nothing is to be imitated after it; "
                "end them with the assistant's, or drop the row"
            )
