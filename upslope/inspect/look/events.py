"""Tells the page when a run has grown, while it stays open (server-sent events)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import StreamingResponse

from upslope.inspect.look.library import Library

EVERY = 1.0
"""Seconds between two looks at the files."""
STILL_THERE = 15
"""Looks without news after which a line is sent all the same, so that a closed page is noticed."""


class Events:
    """``GET /api/events?run=NAME`` (or without a run: all of them): a line ``{"runs": {NAME: steps}}`` when the number
    of steps or evaluations of one of them has changed."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self.closing = False
        """The server ends: no stream goes on."""

    async def answer(self, request: Request) -> StreamingResponse:
        stream = self._stream(request, request.query_params.get("run", ""))
        return StreamingResponse(stream, media_type="text/event-stream")

    async def _stream(self, request: Request, name: str) -> AsyncIterator[str]:
        before = await asyncio.to_thread(self._sizes, name)
        quiet = 0
        yield f"data: {json.dumps({'runs': {}})}\n\n"
        while not self.closing and not await request.is_disconnected():
            await asyncio.sleep(EVERY)
            now = await asyncio.to_thread(self._sizes, name)
            changed = {run: size[0] for run, size in now.items() if before.get(run) != size}
            gone = set(before) - set(now)
            quiet = 0 if changed or gone else quiet + 1
            if changed or gone or quiet >= STILL_THERE:
                quiet = 0
                yield f"data: {json.dumps({'runs': changed, 'gone': sorted(gone)})}\n\n"
            before = now

    def read_on(self) -> None:
        """Read the journals as far as they are, which takes a while where they are long."""
        self._library.runs()

    def _sizes(self, name: str) -> dict[str, tuple[int, int, int]]:
        runs = [run for run in self._library.runs() if name in ("", run.place.name)]
        return {run.place.name: (len(run.tail.steps), len(run.tail.evals), len(run.tail.notes)) for run in runs}
