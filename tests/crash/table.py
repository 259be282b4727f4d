"""The table of docs/nothing-lost.md: ``python tests/crash/table.py [--every N] [--kills N] [--others N] [--seed N]``.

Exit code 1 if any run was not what it had to be: standard error says what was wrong, and its folder is kept."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

from crash.campaign import SIGNALS, Campaign
from crash.cases import RECIPES, furnished
from crash.forks import serving
from crash.trials import Found


def line(what: str, found: Iterable[Found]) -> bool:
    """Count and print a line; whether nothing was wrong."""
    all_of_it = []
    for one in found:
        all_of_it.append(one)
        if one.faults:
            print(f"{one.label}: {one.faults}", file=sys.stderr, flush=True)
    bad, stops = sum(bool(one.faults) for one in all_of_it), sum(one.stops for one in all_of_it)
    lost = max((one.lost for one in all_of_it), default=0)
    print(f"| {what} | {len(all_of_it)} | {stops} | {lost} | {bad} |", flush=True)
    return bad == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="at random moments, over all recipes")
    parser.add_argument("--every", type=int, default=1, help="1: at every change; 5: at a fifth of them")
    parser.add_argument("--others", type=int, default=60, help="of each other ending, over all recipes")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    each, sound, began = asked.others // len(RECIPES), True, time.monotonic()
    place = Path(tempfile.mkdtemp(prefix="upslope-crash-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    with serving(place) as server:
        bench = furnished(server, place)
        campaigns = [Campaign(bench, recipe, asked.seed) for recipe in RECIPES]

        def of_all(trials: Callable[[Campaign], Iterable[Found]]) -> Iterable[Found]:
            return chain.from_iterable(map(trials, campaigns))

        print("| ended by | runs | endings | steps lost at most | wrong |\n|---|---|---|---|---|")
        for one in campaigns:
            sound &= line(f"SIGKILL at random moments, `{one.recipe}`", one.kills(asked.kills // len(RECIPES)))
        for one in campaigns if server.tap else ():
            sound &= line(f"SIGKILL at a change on the disk, `{one.recipe}`", one.kills_at_changes(asked.every))
            again = one.kills_at_changes(asked.every, resumed=True)
            sound &= line(f"the same in a run that goes on, `{one.recipe}`", again)
        for number in SIGNALS:
            sound &= line(f"{number.name} at random moments", of_all(lambda one, n=number: one.signals(n, each)))
        sound &= line("closed or full output", of_all(lambda one: one.unheard(each)))
        if server.tap:
            sound &= line("a full disk, by a call that says so", of_all(lambda one: one.full_disks(each // 2)))
        sound &= line("a small disk", _if_allowed(of_all(lambda one: one.small_disks(each))))
        sound &= line("a second process", of_all(lambda one: one.disputed()))
        sound &= line("SIGKILL of a process that is no fork", campaigns[0].kills_afresh(asked.others // 10))
    print(f"{time.monotonic() - began:.0f} seconds", file=sys.stderr)
    if sound:
        shutil.rmtree(place)
    return 0 if sound else 1


def _if_allowed(found: Iterable[Found]) -> Iterable[Found]:
    """None of it where this user can mount no disk."""
    try:
        yield from found
    except PermissionError as error:
        print(error, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
