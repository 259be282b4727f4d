"""From objects to a finished run: a model, a task, a recipe, settings, and where records go."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from upslope.algo.recipe import Recipe
from upslope.errors import Exhausted, Stopped, UserError, of_system
from upslope.model.load import pick_device
from upslope.native.threads import ask_for_same_bits
from upslope.plugins import blamed
from upslope.record.checkpoint import Checkpoint
from upslope.record.recorder import Recorder
from upslope.record.trackers.known import require_place, tracker_of
from upslope.record.trackers.recorder import TrackedRecorder
from upslope.training.assemble import assemble
from upslope.training.company import Company, Nobody
from upslope.training.corpora import Text
from upslope.training.disk import require_disk
from upslope.training.ending import AtOnce
from upslope.training.fitting import Fitted
from upslope.training.loop import train
from upslope.training.memory import bound_kernel_caches
from upslope.training.run import Run
from upslope.training.settings import RunSettings
from upslope.training.view import View


def run_to_end(
    model: Any,
    tokenizer: Any,
    fitted: Fitted,
    recipe: Recipe,
    settings: RunSettings,
    recorder: Recorder,
    view: View,
    document: Mapping[str, Any],
    saved: Checkpoint | None = None,
    company: Company | None = None,
    *,
    resume: bool = False,
    made_with: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    text: Text | None = None,
    kind: type[Run] = Run,
) -> Run:
    """Train, from the start or from ``saved`` (whose weights ``model`` has); returns the run, which holds the model.
    ``resume`` without ``saved``: from the start, in the folder of a run that was stopped before its first checkpoint.

    ``fitted`` is the task, with rows that all fit; ``document`` the resolved configuration, for the record; ``text``
    what it names, opened; ``company`` whoever else works on it, None: nobody; ``kind`` the run's own class. Raises
    UserError for what a user can mend, ``Stopped`` after Ctrl-C.
    """
    device = pick_device(settings.device)
    require_place(settings.track, recorder.folder)
    tracked = TrackedRecorder(recorder, settings.track, tracker_of, view.message) if settings.track else None
    recorder = tracked or recorder
    with process_state(settings, device):
        company = company or Nobody()
        with _named_by(company):
            company.begin(model, tokenizer, recipe, settings, view.message, recorder.folder)
            learner = assemble(model, tokenizer, recipe, settings, recorder, saved, company.build, device)
            if recorder.folder is not None:
                require_disk(recorder.folder, learner, recipe, settings)
            task = company.task(fitted.task)
            named = (settings, recorder, recipe, task, company.sampler(learner), learner, view, dict(document))
            run = kind(*named, made_with, notes, text, fitted)
            run.require_readable()
            if saved is not None:
                run.resume(saved)
            elif resume:
                run.rewind(0)
        try:
            try:
                company.join(run)
                train(run)
            except Exhausted as cause:
                run.end_early(str(cause))
        except BaseException as caught:
            error = company.cause(caught) or _of_users_code(caught)
            kept = _rescued(run)
            if tracked is not None:
                tracked.close()
            view.close(False)
            if kept and isinstance(error, UserError):
                raise type(error)(f"{error}; {kept}") from error.__cause__
            if kept and isinstance(error, OSError):
                raise UserError(f"{of_system(error)}; {kept}") from error
            if isinstance(error, AtOnce):
                raise AtOnce(error.signal, kept or "no step was finished, so there is no checkpoint") from None
            if kept and isinstance(error, Exception) and not isinstance(error, Stopped):
                error.add_note(kept)
            raise error from (None if error is caught else caught)
        if tracked is not None:
            tracked.close()
        view.close(True)
    return run


@contextlib.contextmanager
def _named_by(company: Company) -> Iterator[None]:
    """An error that somebody else's end brought about is told as that, also before the first step."""
    try:
        yield
    except Exception as caught:
        error = company.cause(caught)
        if error is None:
            raise
        raise error from caught


def _of_users_code(error: BaseException) -> BaseException:
    """What a slot, a task or anything else from a file of the user's raised, as the one line that a reward's crash is;
    another error as it is. ``sys.exit`` in such a file is no end of a run."""
    if isinstance(error, (UserError, Stopped, KeyboardInterrupt, MemoryError)):
        return error
    told = blamed(error)
    if not told:
        return error
    found = UserError(f"code of yours crashed: {told}")
    found.__cause__ = error
    return found


def _rescued(run: Run) -> str:
    """What ``run.rescue`` says, or why it could not."""
    try:
        return run.rescue()
    except (OSError, UserError) as error:
        why = of_system(error) if isinstance(error, OSError) else error
        return f"what was learnt since the newest checkpoint could not be saved ({why}); {run.how_to_go_on()}"


@contextlib.contextmanager
def process_state(settings: RunSettings, device: torch.device) -> Iterator[None]:
    """What a run changes of the whole process, and puts back when it ends: the number of threads, and (on a CPU, with
    ``settings.deterministic``) sums in one order. What it leaves: fewer compiled products are kept by oneDNN (see
    ``upslope.training.memory``), and MKL is asked for one order of sums, if torch has multiplied nothing yet."""
    bound_kernel_caches()
    threads, fill = torch.get_num_threads(), torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    before, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    if settings.deterministic and device.type == "cpu":
        repeat_bits()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(before, warn_only=warns)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


def repeat_bits() -> None:
    """Make sums of gradients come in one order: on a CPU several threads otherwise add up in the order they finish,
    and two runs of one seed drift apart. Costs nothing measurable there; on a GPU some operations have no such order.

    The order within products of matrices has to be chosen before the process's first product (``native/threads.py``);
    the command line and ``import upslope`` have done so by now.
    """
    ask_for_same_bits()
    torch.use_deterministic_algorithms(True)
    # Nothing here reads memory that it has not written, so none has to be filled first.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
