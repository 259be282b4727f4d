"""The kernels' own tests mean nothing on a machine that has none."""

import pytest

from upslope.native import build


@pytest.fixture(autouse=True)
def kernels_are_there(request: pytest.FixtureRequest) -> None:
    if build.why_not() and request.node.path.name != "test_build.py":
        pytest.skip(build.why_not())
