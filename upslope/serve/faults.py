"""What went wrong, as a client is told."""

from __future__ import annotations

import sys
import traceback

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
    if isinstance(error, HTTPException):
        return Declined(str(error.detail), status=error.status_code)
    if isinstance(error, Unavailable):
        return Declined(str(error), status=503, kind="server_error")
    if isinstance(error, NonFinite):
        return Declined(str(error), status=500, kind="server_error")
    if isinstance(error, UserError):
        return Declined(str(error))
    traceback.print_exception(error, file=sys.stderr)
    return Declined(f"the server failed: {type(error).__name__}", status=500, kind="server_error")


async def answered(request: HttpRequest, error: Exception) -> Response:
    """For starlette's handlers of exceptions."""
    if isinstance(error, HungUp):
        return Response(status_code=499)  # nobody reads it
    declined = told_of_fault(error)
    return JSONResponse(declined.told(), declined.status, headers=getattr(error, "headers", None))
