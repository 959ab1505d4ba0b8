"""`make test-service`: runs the scenarios, prints a table, then one JSON line; exits 0 if all hold."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import traceback
from pathlib import Path

from tests.service.place import place
from tests.service.scenarios import ALL


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("only", nargs="*", help="names of scenarios; default: all")
    only = parser.parse_args().only
    results: dict[str, float | str] = {}
    with tempfile.TemporaryDirectory(prefix="made-service-") as folder, place(Path(folder)) as here:
        for scenario in ALL:
            name = scenario.__name__
            if only and name not in only:
                continue
            began = time.monotonic()
            try:
                scenario(here, Path(folder) / name / "out")
                results[name] = round(time.monotonic() - began, 1)
            except Exception as error:
                traceback.print_exc()
                results[name] = f"{type(error).__name__}: {error}"[:200]
            print(f"{name:32} {results[name]}", flush=True)
    holds = bool(results) and all(isinstance(value, float) for value in results.values())
    print(json.dumps({"seconds": results, "holds": holds}))
    return 0 if holds else 1


if __name__ == "__main__":
    raise SystemExit(main())
