"""What the simulation says of runs that were made, beside what their journals say.

    upslope train steps=10 threads=1 name=rates
    upslope train steps=10 threads=1 problems=16 name=smaller
    python benchmarks/plan_vs_run.py --rates runs/rates runs/rates runs/smaller

Rates and lengths come from the runs behind --rates alone (repeat it for a better fit); each of the other runs is
simulated with its own settings, cluster.samplers and cluster.staleness among them. The first step of every run is left
out, on both sides. A run with samplers of its own has phases that overlap, so of it the whole step is compared alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from upslope.cluster.planning.lengths import AddressedLengths, KeptLengths
from upslope.cluster.planning.outcome import SimulatedRun
from upslope.cluster.planning.rates import TimedRun, facts_of_run, measured_times
from upslope.cluster.planning.run_file import settings_in
from upslope.cluster.planning.setup import SimulatedSetup
from upslope.cluster.planning.simulate import simulate
from upslope.cluster.planning.times import MeasuredTimes


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("runs", nargs="+", type=Path, help="run folders")
    made.add_argument("--rates", action="append", required=True, type=Path, help="a run folder to take rates from")
    given = made.parse_args()
    rates = [facts_of_run(folder) for folder in given.rates]
    times = measured_times(rates)
    lengths = [n for run in rates for n in run.lengths]
    print(
        f"rates: a position {times.step * 1e3:.3f} ms and {times.row * 1e6:.2f} us an attempt; an update "
        f"{times.fixed * 1e3:.1f} ms and {times.token * 1e6:.2f} us a token; {times.share:.0%} of attempts learnt from"
    )
    print(f"{'run':16}{'workers':>9}{'phase':>9}{'predicted':>11}{'measured':>10}{'ratio':>7}   seconds a step")
    for folder in given.runs:
        compare(facts_of_run(folder), predicted(folder, times, lengths))


def predicted(folder: Path, times: MeasuredTimes, lengths: list[int]) -> SimulatedRun:
    """The run's own settings with others' rates."""
    settings = settings_in(folder)
    cluster, most = settings.cluster, settings.sample.max_tokens or max(lengths)
    return simulate(
        SimulatedSetup(
            times,
            AddressedLengths(KeptLengths(lengths, most), settings.seed),
            prompt=1,
            samplers=cluster.samplers,
            ranks=cluster.ranks,
            shard=cluster.shard,
            staleness=cluster.staleness,
            problems=settings.problems,
            group_size=settings.recipe["sample"]["group_size"],
            rows=settings.sample.max_rows or 512,
            steps=max(settings.steps, cluster.staleness + 2),
        )
    )


def compare(run: TimedRun, found: SimulatedRun) -> None:
    """Seconds of a step: all of it, and the phases where they do not overlap."""
    steps, whole = run.steps, found.seconds_a_step
    mean = {name: sum(getattr(step, name) for step in steps) / len(steps) for name in ("sample", "update", "beside")}
    rows = [("step", whole, sum(mean.values()))]
    if not found.samplers:
        rows.append(("sample", whole * found.learner["waiting"], mean["sample"]))
        rows.append(("learn", whole * found.learner["updating"], mean["update"] + mean["beside"]))
    for phase, said, measured in rows:
        ratio = said / measured
        print(f"{run.folder.name:16}{found.workers:9}{phase:>9}{said:11.3f}{measured:10.3f}{ratio:7.2f}")


if __name__ == "__main__":
    main()
