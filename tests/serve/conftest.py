"""A tiny model behind the server, for all that is asked of it without a socket."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from served import Asker, served_policy

from upslope.serve.app import Service, serving


@pytest.fixture(scope="module")
def asker() -> Iterator[Asker]:
    policy = served_policy()
    with serving(policy, Service("tiny")) as (app, engine):
        yield Asker(app, engine, policy)
