"""A part of `make fuzz-requests`: malformed requests to the front door and to Prefect's API start no work."""

from __future__ import annotations

from pathlib import Path

from made_core.sample.write import write_sample
from tests.fuzz import requests
from tests.support import doors


def test_malformed_requests(servers: str, elsewhere: dict[str, str], tmp_path: Path) -> None:
    write_sample(tmp_path, samples=20, shards=2, seed=1)
    base = {"sources": [str(tmp_path / "shards")], "output": str(tmp_path / "out")}
    doors.deploy()
    with (
        requests.confined(str(tmp_path)),
        doors.front_door({**elsewhere, "MADE_ROOTS": str(tmp_path)}, tmp_path) as door,
        door.client() as client,
    ):
        api = requests.client(elsewhere)
        found = requests.run(client, api, base, servers, cases=60, number=1, texts=False)
    assert found.findings == []
    assert sum(n for kind, answers in found.answers.items() for n in answers.values()) >= 100
    assert not (tmp_path / "out").exists()
