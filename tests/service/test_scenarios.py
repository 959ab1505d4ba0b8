"""Runs of the deployments that are killed, suspended and started twice: each scenario of scenarios.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.service import scenarios
from tests.service.place import Place, place

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The servers of the scenarios."""
    with place(tmp_path_factory.mktemp("scenarios")) as started:
        yield started


@pytest.mark.parametrize("scenario", scenarios.ALL, ids=lambda scenario: scenario.__name__)
def test_scenario(here: Place, scenario: Callable[[Place, Path], None], tmp_path: Path) -> None:
    scenario(here, tmp_path / "out")
