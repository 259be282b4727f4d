"""What went wrong, as a client is told."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from upslope.errors import NonFinite, Unavailable, UserError
from upslope.serve.options import Declined
from upslope.serve.talk import HungUp


def told_of_fault(error: Exception) -> Declined:
    """A defect of ours is told as one, and its traceback goes to standard error."""
    if isinstance(error, Declined):
        return error
    if isinstance(error, Unavailable):
        return Declined(str(error), status=503, kind="server_error")
    if isinstance(error, NonFinite):
        return Declined(str(error), status=500, kind="server_error")
    if isinstance(error, UserError):
        return Declined(str(error))
    traceback.print_exception(error, file=sys.stderr)
    return Declined(f"the server failed: {type(error).__name__}", status=500, kind="server_error")


Endpoint = Callable[[HttpRequest], Awaitable[Response]]


def faultless(endpoint: Endpoint) -> Endpoint:
    """The same, with whatever it raises told as an answer."""

    async def answering(request: HttpRequest) -> Response:
        try:
            return await endpoint(request)
        except HungUp:
            return Response(status_code=499)  # nobody reads it
        except Exception as error:
            return as_answer(told_of_fault(error))

    return answering


async def unrouted(request: HttpRequest, error: Exception) -> Response:
    """For what no route takes: an ``HTTPException`` of starlette's."""
    assert isinstance(error, HTTPException)
    return as_answer(Declined(str(error.detail), status=error.status_code), error.headers)


def as_answer(declined: Declined, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse(declined.told(), declined.status, headers=headers)
