"""How a run ends: its summary and the shards that are missing from it; as a state of its flow run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from posixpath import basename
from typing import Any

from prefect.states import Completed

from made_core.ingest.finished import Unfinished
from made_core.output.summary import NO_SHARDS, Summary

WITH_FAILURES = "CompletedWithFailures"  # name of the state
NAMED = 10  # shards in a state's message


@dataclass(frozen=True)
class Outcome:
    """The result of a run."""

    summary: Summary
    failed: Mapping[str, str] = field(default_factory=dict)  # shard -> error
    refused: Sequence[str] = ()  # URLs of tars that were not read: their upstream job has not finished them
    unfinished: Sequence[Unfinished] = ()  # folders among the sources

    @property
    def unread(self) -> dict[str, str]:
        """See `unread`."""
        return unread(self.refused, self.unfinished)

    @property
    def sentence(self) -> str:
        """Samples in and kept, and the shards that are missing."""
        samples = self.summary.samples
        parts = [f"{samples.in_:,} in, {samples.kept:,} kept"]
        if not self.summary.shards.written:
            parts.append(f"no output shards ({NO_SHARDS})")
        if self.failed:
            parts.append(f"failed shards: {_some(sorted(self.failed))}")
        if unread := self.unread:
            names = [basename(url).removesuffix(".tar") for url in unread]
            parts.append(f"unfinished shards, not read: {_some(sorted(names))}")
        running = [folder.folder for folder in self.unfinished if folder.running]
        parts += [f"img2dataset runs or was killed: {folder} has a folder _tmp" for folder in running]
        return f"{'; '.join(parts)} (run {self.summary.run})"

    def state(self) -> Any:
        """The end of a flow, which Prefect shows; a caller of the flow gets the summary."""
        name = WITH_FAILURES if self.failed or self.refused or self.unfinished else "Completed"
        return Completed(name=name, message=self.sentence, data=self.summary)


def unread(refused: Sequence[str], unfinished: Sequence[Unfinished]) -> dict[str, str]:
    """Why shards were not read, by path or URL: those that their upstream job has not finished."""
    missing = {
        f"{folder.folder.rstrip('/')}/{name}.tar": fault
        for folder in unfinished
        for name, fault in folder.shards.items()
    }
    return missing | dict.fromkeys(refused, "it has no valid _stats.json beside it")


def _some(names: Sequence[str]) -> str:
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {rest:,} more" if rest > 0 else "")
