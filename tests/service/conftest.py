"""One service, started by `made up`, for the tests of its pages and requests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.test_service import Service, up


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that is up."""
    with up(tmp_path_factory.mktemp("service")) as found:
        yield found
