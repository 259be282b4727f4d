"""First line of the loop: whoever acts acts, the task scores it, and the recipe keeps what it wants."""

from __future__ import annotations

import functools
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from upslope.algo.learnable import Learnable
from upslope.algo.sample import Attempts, Demonstrations, Documents, Sample
from upslope.errors import Exhausted, UserError
from upslope.model.chat_renderer import reading
from upslope.model.renderer import Renderer
from upslope.record.drawn import DrawnStep
from upslope.rollout.address import Address
from upslope.rollout.base import Progress, Sampler
from upslope.rollout.groups import sample_groups
from upslope.tasks.base import Task
from upslope.tasks.response import Standing
from upslope.training.beside import Outlet, beside
from upslope.training.blocks import TextBlocks
from upslope.training.known import KnownProblems
from upslope.training.prompt_notes import SpecialWatch
from upslope.training.scored import metrics_told, score, standing_at
from upslope.training.short_of import why_short
from upslope.training.shown import shown_group
from upslope.training.source import FileOrder, MixedDemonstrations, Order, Shuffled, pool_of
from upslope.types import Group, Problem, Rollout, Sampling

LEAST_SHARE = 1 / 8
"""Assumed of the problems still untried, however few groups were kept so far."""
WORTH_A_THREAD = 0.1
"""Share of the time that scoring must take before it is done beside the sampling. Two threads that both use torch cost
a small model a third of its speed."""


@dataclass(frozen=True)
class Collected:
    """All attempts of a step, and the groups that are left to learn from."""

    attempted: list[Group]
    kept: list[Group]
    told: dict[str, float] = field(default_factory=dict)
    """For the journal: what is known of the problems, where they are drawn by that; how many checks timed out."""


class Collects(Protocol):
    """Whoever has a step's attempts: a ``Collector``, or what upslope.cluster puts around one."""

    blocks: TextBlocks | None
    overlaps: bool

    def __call__(self, sample: Sample, step: int, progress: Progress | None = None) -> Collected: ...

    def state(self) -> Mapping[str, Any]: ...

    def load(self, sample: Sample, state: Mapping[str, Any]) -> None: ...

    def drawn(self, step: int, patient: Callable[[], bool]) -> Sequence[DrawnStep]:
        """Number ``step`` and what follows, as far as attempts are there already: for a checkpoint. A step that is
        being sampled is waited for as long as ``patient`` says."""
        ...


class Collector:
    """Everything ``collect`` needs besides the step: the task's problems in the run's order, and who acts."""

    def __init__(
        self,
        task: Task,
        sampler: Sampler,
        renderer: Renderer,
        sampling: Sampling,
        seed: int,
        per_step: int,
        *,
        max_positions: int = sys.maxsize,
        blocks: TextBlocks | None = None,
        order: Order = "shuffled",
        cuts: bool = False,
        steps: int = 0,
    ) -> None:
        """``max_positions``: of prompt and text to imitate together; ``cuts``: what is longer loses its end.
        ``blocks``: of text in the place of the task's documents; None: those, whole. ``order``: of the problems.
        ``steps``: of the run, which rewards are told."""
        self._task, self._sampler, self._sampling = task, sampler, sampling
        self._renderer, self._watch = reading(renderer, special=task.keep_special), SpecialWatch()
        self._seed, self._per_step, self._max_positions, self._cuts = seed, per_step, max_positions, cuts
        self.blocks, self._order = blocks, order
        self._steps, self._standing = steps, Standing()
        self._pools: dict[str, Shuffled[Any] | FileOrder[Any]] = {}
        self._mixture: MixedDemonstrations | None = None
        self._scoring, self._timed_out = 0.0, 0
        self.known: KnownProblems | None = None  # where the recipe draws problems by what is known of them
        self.overlaps = False
        """Whether attempts are scored beside the sampling, from what scoring took the last time."""

    def __call__(self, sample: Sample, step: int, progress: Progress | None = None) -> Collected:
        """The groups of a step, scored and filtered. Raises UserError for a reward that is not a number, Exhausted if
        dynamic sampling cannot fill the step within its budget."""
        if not isinstance(sample, Attempts):
            given = self._imitate(sample, step)
            return Collected(given, given)
        self._timed_out = 0
        self._standing = standing_at(step, self._steps, self._per_step, len(pool_of(self._task, "training problems")))
        problems = self._problems(sample, step)
        groups = self._attempt(problems, sample, step, progress)
        if not groups:
            raise UserError(f"step {step}: the checks of all attempts timed out; raise task.reward_timeout")
        kept = self._kept(groups, sample)
        found = Collected(groups, kept)
        if sample.refill and len(kept) < self._per_step:
            found = self._refilled(problems, groups, sample, step, progress)
        if self.known is not None:
            found.told.update(self.known.row(step, found.attempted))
            self.known.learn(step, found.attempted)
        if self._timed_out:
            found.told["timed_out"] = self._timed_out
        found.told.update(metrics_told(found.attempted))
        self._watch(found.attempted, self._renderer)
        return found

    def _problems(self, sample: Attempts, step: int) -> list[Problem]:
        """Whom the step tries: its share of a pass, or drawn by what is known of them."""
        if not isinstance(sample, Learnable):
            return self._take("training problems", step, self._per_step)
        return self.knowing(sample).take(step, self._per_step)

    def upcoming(self, sample: Sample, steps: range) -> Sequence[Problem]:
        """Whom these steps try or imitate, each once, as far as it can be known before; all, where that depends on what
        comes of them. Raises UserError where there are fewer than a step takes."""
        if isinstance(sample, Documents):
            return ()
        found = pool_of(self._task, "training problems" if isinstance(sample, Attempts) else "demonstrations")
        if isinstance(sample, Learnable):
            self.knowing(sample).require(self._per_step)
            return found
        if isinstance(sample, Attempts) and sample.refill:
            if steps:
                self._take("training problems", steps.start, self._per_step)
            return found
        taken: dict[str, Problem] = {}
        for step in steps:
            if len(taken) == len(found):
                break
            if isinstance(sample, Attempts):
                now = self._take("training problems", step, self._per_step)
            else:
                now = self._demonstrations(step, self._per_step - round(sample.replay * self._per_step))
            taken.update({problem.id: problem for problem in now})
            if (step - steps.start) * self._per_step > 2 * len(found):  # the rest is at the end of some pass
                return found
        return list(taken.values())

    def knowing(self, sample: Learnable) -> KnownProblems:
        """What is known of the training problems so far."""
        if self.known is None:
            self.known = KnownProblems(pool_of(self._task, "training problems"), sample, self._seed)
        return self.known

    def state(self) -> dict[str, Any]:
        """What it learnt of the problems, for a checkpoint."""
        return {} if self.known is None else {"known": self.known.state()}

    def load(self, sample: Sample, state: Mapping[str, Any]) -> None:
        """Go on with what a checkpoint says that it learnt."""
        if isinstance(sample, Learnable):
            self.knowing(sample).load(state.get("known", {}))

    def drawn(self, step: int, patient: Callable[[], bool]) -> Sequence[DrawnStep]:
        """None: it collects a step when that is asked for."""
        return ()

    def _attempt(
        self, problems: Sequence[Problem], sample: Attempts, step: int, progress: Progress | None
    ) -> list[Group]:
        """Attempts at every problem, scored: beside the sampling where scoring takes long enough, else after it."""
        start, self._scoring = time.perf_counter(), 0.0
        generate = functools.partial(
            sample_groups,
            self._sampler,
            self._renderer,
            problems,
            sample.group_size,
            self._sampling,
            Address(self._seed, "sample", step),
            episode=self._task.episode,
            standing=self._standing,
        )
        if self.overlaps:
            groups = self._scored_beside(problems, generate, progress)
        else:
            groups = self._scored(problems, generate(progress))
        self.overlaps = self._scoring > WORTH_A_THREAD * (time.perf_counter() - start)
        groups = [group for group in groups if group.rollouts]
        if self.known is not None:
            groups = [replace(g, weight=self.known.weight_of.get(g.problem.id, 1.0)) for g in groups]
        return groups

    def _scored(self, problems: Sequence[Problem], attempts: Sequence[Sequence[Rollout]]) -> list[Group]:
        start = time.perf_counter()
        groups = score(self._task, self._renderer, problems, attempts, self._standing)
        self._scoring += time.perf_counter() - start
        return [self._known_of(group) for group in groups]

    def _known_of(self, group: Group) -> Group:
        """Without the attempts whose check took too long: they are no part of the group, of its baseline neither."""
        known = tuple(r for r in group.rollouts if not r.score.timed_out)
        self._timed_out += len(group.rollouts) - len(known)
        return replace(group, rollouts=known) if len(known) < len(group.rollouts) else group

    def _scored_beside(
        self, problems: Sequence[Problem], generate: Callable[..., object], progress: Progress | None
    ) -> list[Group]:
        """Sample in another thread while this one scores the groups that are complete: a user's code may need the main
        thread (signal.alarm does), and the sampler does not."""
        groups: dict[int, Group] = {}
        so_far = (0, 0)

        def sampled(outlet: Outlet[tuple[int, list[Rollout]]]) -> None:
            def watch(num_tokens: int, num_rows: int) -> None:
                nonlocal so_far
                outlet.check()
                so_far = (num_tokens, num_rows)

            generate(watch, lambda index, rollouts: outlet.put((index, rollouts)))

        with closing(beside(sampled)) as waiting:
            for complete in waiting:
                if progress is not None:
                    progress(*so_far)
                if complete:
                    scored = self._scored([problems[index] for index, _ in complete], [r for _, r in complete])
                    groups.update(zip((index for index, _ in complete), scored, strict=True))
        return [groups[index] for index in range(len(problems))]

    def _kept(self, groups: Sequence[Group], sample: Attempts) -> list[Group]:
        return [kept for kept in map(sample.keep, groups) if kept is not None]

    def _refilled(
        self,
        tried: Sequence[Problem],
        groups: list[Group],
        sample: Attempts,
        step: int,
        progress: Progress | None,
    ) -> Collected:
        """Try further problems until as many groups are kept as problems were asked for. Raises Exhausted."""
        pool = self.known or self._pools["training problems"]
        others = pool.others(step, tried)
        budget = min(int(sample.refill * self._per_step), len(groups) + len(others))
        kept = self._kept(groups, sample)
        while (missing := self._per_step - len(kept)) > 0:
            share = max(len(kept) / len(groups), LEAST_SHARE)
            num = min(math.ceil(missing / share), self._per_step, budget - len(groups), len(others))
            if num <= 0:
                raise Exhausted(why_short(groups, kept, self._per_step, sample, step, len(others)))
            more = self._attempt(others[:num], sample, step, progress)
            others = others[num:]
            groups, kept = groups + more, kept + self._kept(more, sample)
        return Collected(groups, kept[: self._per_step])

    def _imitate(self, sample: Demonstrations | Documents, step: int) -> list[Group]:
        if isinstance(sample, Documents):
            return self._read(step, self._per_step)
        num_replayed = round(sample.replay * self._per_step)
        problems = self._demonstrations(step, self._per_step - num_replayed)
        shown = [shown_group(self._renderer, problem, self._max_positions, cuts=self._cuts) for problem in problems]
        return shown + (self._read(step, num_replayed) if num_replayed else [])

    def _read(self, step: int, num: int) -> list[Group]:
        """A step's share of the text: whole documents, or blocks."""
        if self.blocks is not None:
            return self.blocks.take(step, num)
        return [self._document(text, step, i) for i, text in enumerate(self._take("documents", step, num))]

    def _demonstrations(self, step: int, num: int) -> list[Problem]:
        if self._mixture is None:
            shares = self._task.shares()
            if not shares:
                return self._take("demonstrations", step, num)
            self._mixture = MixedDemonstrations(shares, self._seed)
        return self._mixture.take(step, num)

    def _take(self, kind: str, step: int, num: int) -> list[Any]:
        """A step's share of the task's problems, demonstrations or documents, each kind in an order of its own."""
        if kind not in self._pools:
            found = pool_of(self._task, kind)
            in_order = self._order == "file"
            self._pools[kind] = FileOrder(found, kind) if in_order else Shuffled(found, self._seed, kind)
        return self._pools[kind].take(step, num)

    def _document(self, text: str, step: int, index: int) -> Group:
        problem = Problem(f"document/{step}/{index}", (), demonstration=text)
        return shown_group(self._renderer, problem, self._max_positions, cuts=self._cuts)
