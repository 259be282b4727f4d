"""The set of hashes against Python's own."""

from __future__ import annotations

from random import Random

from upslope.text.seen import Seen, hash_of


def test_hashes_that_were_there_before_are_known_within_a_call_and_over_calls() -> None:
    random = Random(0)
    seen, before = Seen(), set()
    for _ in range(200):
        hashes = [hash_of(b"%d" % random.randrange(5000)) for _ in range(random.randrange(1, 90))]
        hashes[0] = hash_of(b"%d" % random.randrange(50))[:15] + b"\x00"  # numpy cuts zeros from the end
        expected = []
        for one in hashes:
            expected.append(one not in before)
            before.add(one)
        assert seen.add(hashes) == expected
    assert seen.add([]) == []


def test_the_set_takes_16_bytes_a_document() -> None:
    seen = Seen()
    for begin in range(0, 100_000, 1000):
        seen.add([hash_of(b"%d" % number) for number in range(begin, begin + 1000)])
    assert sum(run.nbytes for run in seen._runs) == 1_600_000
    assert len(seen._runs) < 10
