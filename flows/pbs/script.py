"""A job script in which everything is filled in."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from flows.pbs import batch, options
from made_core.errors import UserError

SCRIPTS = Path(__file__).resolve().parents[2] / "deployments" / "pbs"
CHUNK = re.compile(r"(\d+:)?[a-z_]\w*=[\w.\[\]-]+(:[a-z_]\w*=[\w.\[\]-]+)*", re.ASCII)
NAME = re.compile(r"[A-Za-z0-9_][\w.+-]{0,229}", re.ASCII)


@dataclass(frozen=True)
class Wish:
    """What a job asks of PBS."""

    select: str  # such as 2:ncpus=24:ngpus=4
    walltime: str  # HH:MM:SS
    name: str = "made"
    place: str | None = None
    queue: str | None = None
    account: str | None = None
    further: tuple[str, ...] = ()  # directives, such as "-W umask=022"

    def directives(self) -> list[str]:
        """The #PBS lines. Raises UserError for a value that PBS would refuse."""
        _check("--select", self.select, all(CHUNK.fullmatch(part) for part in self.select.split("+")),
               "chunks such as 2:ncpus=24:ngpus=4, joined by +")  # fmt: skip
        _check("--walltime", self.walltime, batch.seconds(self.walltime) is not None,
               "a duration as PBS writes it, such as 12:00:00")  # fmt: skip
        _check("--name", self.name, NAME.fullmatch(self.name), "letters, digits, . _ + and -")
        _check("--place", self.place, _fits(options.PLACE, self.place),
               "free, pack, scatter or vscatter, then :excl, :exclhost or :shared")  # fmt: skip
        _check("--queue", self.queue, _fits(options.QUEUE, self.queue), "letters, digits, . _ @ and -")
        _check("--account", self.account, _fits(options.ACCOUNT, self.account),
               "letters, digits, . _ : @ and -")  # fmt: skip
        for text in self.further:
            _check("--directive", text, _fits(options.DIRECTIVE, text),
                   f"one of {options.ALLOWED} and its value, such as '-W umask=022'")  # fmt: skip
            try:
                options.further(text)
            except ValueError as error:
                raise UserError(f"--directive {error}") from None
        wanted = [
            ("-N", self.name), ("-l", f"select={self.select}"), ("-l", self.place and f"place={self.place}"),
            ("-l", f"walltime={self.walltime}"), ("-q", self.queue), ("-A", self.account), ("-j", "oe"),
            ("-r", "y"),  # after a node's failure PBS runs it again: it goes on where it stopped
        ]  # fmt: skip
        lines = [f"#PBS {option} {value}" for option, value in wanted if value]
        return lines + [f"#PBS {text}" for text in self.further]


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


def _fits(pattern: str, value: str | None) -> bool:
    """Whether a value matches; None, which is not given, does."""
    return value is None or re.fullmatch(pattern, value) is not None


def _check(option: str, value: str | None, valid: object, expected: str) -> None:
    if not valid:
        raise UserError(f"{option} {value}: expected {expected}")
