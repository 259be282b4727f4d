"""Problems and their rewards. The built-in tasks, for Python:

>>> import upslope as up
>>> up.tasks.pocket(seed=0).problems("test")[0].truth.isdigit()
True
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from upslope.tasks.base import Task
    from upslope.tasks.elsewhere import OnTimeout
    from upslope.tasks.reward_calls import RewardFunction
    from upslope.types import Form

__all__ = ["code", "gsm8k", "math", "open", "pocket", "rows"]


def code(
    data: str,
    *,
    eval_data: str | None = None,
    partial: bool = False,
    seconds: int = 5,
    memory_mb: int = 256,
    trust_tests: bool = False,
    columns: Mapping[str, str] | None = None,
) -> Task:
    """Rows with tests (as MBPP and HumanEval have them), rewarded if the program in a response passes all of them, or
    with ``partial`` by the share that it passes; programs run in a sandbox (docs/code.md). A row's own solution has to
    pass them, unless ``trust_tests``. Raises UserError."""
    options = {"partial": partial, "seconds": seconds, "memory_mb": memory_mb, "trust_tests": trust_tests}
    return open("code", data=data, eval_data=eval_data, columns=columns, options=options)


def gsm8k(
    data: str | None = None,
    *,
    eval_data: str | None = None,
    keep_annotations: bool = False,
    calculator: bool = False,
    rewards: Sequence[str | RewardFunction] = (),
    reward_weights: Sequence[float] = (),
    columns: Mapping[str, str] | None = None,
) -> Task:
    """Grade-school word problems (arXiv 2110.14168), rewarded for the number after ``####``: from a folder with
    ``train.jsonl`` and ``test.jsonl``, or from the hub. With ``calculator`` an attempt that says ``<<3*6=`` is told
    ``18>>``. ``rewards`` replace the exact reward. Raises UserError."""
    return open(
        "gsm8k",
        data=data,
        eval_data=eval_data,
        rewards=rewards,
        reward_weights=reward_weights,
        columns=columns,
        options={"keep_annotations": keep_annotations, "calculator": calculator},
    )


def math(
    data: str,
    *,
    eval_data: str | None = None,
    seconds: float = 5.0,
    rewards: Sequence[str | RewardFunction] = (),
    reward_weights: Sequence[float] = (),
    columns: Mapping[str, str] | None = None,
) -> Task:
    """Problems whose answer stands in ``\\boxed{}``, as in MATH (arXiv 2103.03874): numbers are compared exactly, other
    expressions by math-verify (``upslope[math]``), for which each has ``seconds``. ``rewards`` replace that. Raises
    UserError."""
    return open(
        "math",
        data=data,
        eval_data=eval_data,
        rewards=rewards,
        reward_weights=reward_weights,
        columns=columns,
        options={"seconds": seconds},
    )


def pocket(seed: int = 0) -> Task:
    """Word problems that a model of 172 thousand parameters learns in a minute; a function of the seed."""
    return open("pocket", seed=seed)


def rows(
    data: str,
    rewards: Sequence[str | RewardFunction],
    *,
    eval_data: str | None = None,
    reward_weights: Sequence[float] = (),
    right: float | None = None,
    whole: bool = False,
    columns: Mapping[str, str] | None = None,
) -> Task:
    """Rows of a file or folder (docs/extending.md has the formats) with reward functions: callables with TRL's
    signature, or FILE.py:FUNCTION. An attempt is right from the reward ``right`` on, or by the function that is marked
    FILE.py:FUNCTION=right. ``whole``: all rows of a file that is not divided are held out, to be evaluated. Raises
    UserError."""
    return open(
        "user",
        data=data,
        eval_data=eval_data,
        rewards=rewards,
        reward_weights=reward_weights,
        columns=columns,
        right=right,
        whole=whole,
    )


def open(
    name: str,
    *,
    data: str | None = None,
    eval_data: str | None = None,
    columns: Mapping[str, str] | None = None,
    rewards: Sequence[str | RewardFunction] = (),
    reward_weights: Sequence[float] = (),
    seed: int = 0,
    options: Mapping[str, object] | None = None,
    template: Form = "auto",
    chat_template_kwargs: Mapping[str, object] | None = None,
    keep_special: bool = False,
    where: str = "",
    reward_workers: int = 0,
    reward_timeout: float = 0.0,
    on_timeout: OnTimeout = "stop",
    right: float | None = None,
    whole: bool = False,
) -> Task:
    """The task of a name, or a user's own by ``FILE.py:NAME``; ``where`` is a condition on the columns of its training
    problems (``0 < pass_rate < 0.8``). ``template``, ``chat_template_kwargs`` and ``keep_special`` are settings of that
    name (docs/settings.md). ``reward_workers`` processes score its attempts, each within ``reward_timeout``
    seconds (0: no limit); ``on_timeout`` ``mask`` leaves out those whose check takes longer, ``stop`` is a UserError.
    ``right``: the reward from which on an attempt is right. ``whole``: nothing is learnt from a file that is not
    divided, so all of it is held out. Raises UserError."""
    from upslope.tasks.registry import open_task

    return open_task(
        name,
        data=data,
        eval_data=eval_data,
        columns=columns,
        rewards=rewards,
        reward_weights=reward_weights,
        seed=seed,
        options=options,
        template=template,
        chat_template_kwargs=chat_template_kwargs,
        keep_special=keep_special,
        where=where,
        reward_workers=reward_workers,
        reward_timeout=reward_timeout,
        on_timeout=on_timeout,
        right=right,
        whole=whole,
    )
