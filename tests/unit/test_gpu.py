"""What `make bench-gpu` counts as reached."""

from __future__ import annotations

import json

import pytest

from benchmarks.gpu import GOAL, Stage, utilisation
from benchmarks.gpu_run import kmeans


@pytest.mark.parametrize(
    ("of_bare", "needed", "met"), [(GOAL, 8.0, True), (0.89, 8.0, False), (0.5, 8.1, None), (0.95, 8.1, None)]
)
def test_the_goal_holds_where_the_cores_suffice(of_bare: float, needed: float, met: bool | None) -> None:
    stage = Stage("m", 2, 8, 100.0, of_bare, 3.0, 0.1, 0.5, needed)
    assert stage.met is met


def test_without_nvidia_smi_nothing_is_known_of_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with utilisation() as found:
        pass
    assert not found


def test_k_means(capsys: pytest.CaptureFixture[str]) -> None:
    kmeans(600, 5)
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {"gpus", "seconds", "cosine", "digest"}
    assert 0 < found["cosine"] < 1
