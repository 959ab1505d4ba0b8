"""A job script in which everything is filled in."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from flows.pbs.job import seconds
from made_core.errors import UserError

SCRIPTS = Path(__file__).resolve().parents[2] / "deployments" / "pbs"
CHUNK = re.compile(r"(\d+:)?[a-z_]\w*=[\w.\[\]-]+(:[a-z_]\w*=[\w.\[\]-]+)*", re.ASCII)
NAME = re.compile(r"[A-Za-z0-9_][\w.+-]{0,229}", re.ASCII)
PLACE = re.compile(r"(free|pack|scatter|vscatter)(:(excl|exclhost|shared))?(:group=\w+)?", re.ASCII)


@dataclass(frozen=True)
class Wish:
    """What a job asks of PBS."""

    select: str  # such as 2:ncpus=24:ngpus=4
    walltime: str  # HH:MM:SS
    name: str = "made"
    place: str | None = None
    queue: str | None = None
    account: str | None = None

    def directives(self) -> list[str]:
        """The #PBS lines. Raises UserError for a value that PBS would refuse."""
        _check("--select", self.select, all(CHUNK.fullmatch(part) for part in self.select.split("+")),
               "chunks such as 2:ncpus=24:ngpus=4, joined by +")  # fmt: skip
        seconds(self.walltime)
        _check("--name", self.name, NAME.fullmatch(self.name), "letters, digits, . _ + and -")
        _check("--place", self.place, self.place is None or PLACE.fullmatch(self.place),
               "free, pack, scatter or vscatter, then :excl, :exclhost or :shared")  # fmt: skip
        for option, value in (("--queue", self.queue), ("--account", self.account)):
            _check(option, value, value is None or re.fullmatch(r"[\w.@-]+", value), "a name")
        options = [
            ("-N", self.name), ("-l", f"select={self.select}"), ("-l", self.place and f"place={self.place}"),
            ("-l", f"walltime={self.walltime}"), ("-q", self.queue), ("-A", self.account), ("-j", "oe"),
            ("-r", "y"),  # after a node's failure PBS runs it again: it goes on where it stopped
        ]  # fmt: skip
        return [f"#PBS {option} {value}" for option, value in options if value]


def job_script(wish: Wish, arguments: list[str], folder: Path, scripts: Path = SCRIPTS) -> str:
    """A script for qsub that runs `made curate ARGUMENTS` in `folder` on a Ray cluster over the job's nodes.

    Raises:
        UserError: PBS would refuse a value, or the scripts are not there.
    """
    if not (scripts / "run_in_job.sh").exists():
        raise UserError(f"{scripts} has no run_in_job.sh: run made from a checkout")
    return "\n".join(
        [
            "#!/bin/bash",
            *wish.directives(),
            "# Submit it again to go on where it stopped.",
            "",
            f"made_scripts={shlex.quote(str(scripts))}",
            f"export MADE_PYTHON={shlex.quote(sys.executable)}",
            f"export MADE_WALLTIME={wish.walltime}  # where qstat does not work on compute nodes",
            f"cd {shlex.quote(str(folder))} || exit 2",
            'source "$made_scripts/run_in_job.sh"',
            shlex.join(["run_in_job", "curate", *arguments]),
            "",
        ]
    )


def _check(option: str, value: str | None, valid: object, expected: str) -> None:
    if not valid:
        raise UserError(f"{option} {value}: expected {expected}")
