"""What a job asks for: the options of qsub and the #PBS lines of its script."""

from __future__ import annotations

import getopt
import re
import shlex
from dataclasses import dataclass, field

OPTIONS = "a:A:c:C:e:fhIj:J:k:l:m:M:N:o:p:P:q:r:R:S:u:v:VW:Xz"
USAGE_ERROR = 2
UNKNOWN_RESOURCE, LIMITS, UNKNOWN_QUEUE, BAD_VALUE = 15035, 15036, 15018, 15014
CHUNK_RESOURCES = ("ncpus", "ngpus", "mem", "mpiprocs", "ompthreads", "host", "vnode")
JOB_RESOURCES = ("walltime", "select", "place", "cput", "mem", "ncpus", "software")
PLACE = re.compile(r"(free|pack|scatter|vscatter)?(:?(excl|exclhost|shared))?(:?group=\w+)?", re.ASCII)


class Refused(Exception):
    """qsub refuses the job: a message, and PBS's error number or the exit code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Chunk:
    """A chunk of a select statement: resources that one host must have."""

    ncpus: int = 1
    ngpus: int = 0
    mpiprocs: int = 1
    host: str | None = None


@dataclass
class Request:
    """A job as it is submitted."""

    options: dict[str, list[str]] = field(default_factory=dict)  # by letter, in order
    script: str | None = None
    resources: dict[str, str] = field(default_factory=dict)

    def last(self, letter: str, default: str = "") -> str:
        """The value of an option: the last one counts."""
        return self.options.get(letter, [default])[-1]

    @property
    def interactive(self) -> bool:
        """Whether -I was given."""
        return "I" in self.options

    @property
    def chunks(self) -> list[Chunk]:
        """The chunks of the select statement, repeated."""
        return chunks(self.resources.get("select", f"1:ncpus={self.resources.get('ncpus', '1')}"))

    @property
    def place(self) -> str:
        """The place statement."""
        return self.resources.get("place", "free")

    @property
    def walltime(self) -> float | None:
        """Seconds; None: no limit."""
        text = self.resources.get("walltime")
        return None if text is None else seconds(text)


def parse(arguments: list[str]) -> Request:
    """The request of a command line. Raises Refused."""
    try:
        given, rest = getopt.getopt(arguments, OPTIONS)
    except getopt.GetoptError as error:
        raise Refused(
            f"invalid option -- '{error.opt}'\nusage: qsub [-a date_time] ...", USAGE_ERROR
        ) from None
    if len(rest) > 1:
        raise Refused("usage: qsub [-a date_time] ...", USAGE_ERROR)
    request = Request(script=rest[0] if rest else None)
    for option, value in given:
        request.options.setdefault(option[1:], []).append(value)
    return request


def complete(request: Request, text: str) -> Request:
    """Adds the directives of the script, which the command line overrides, and checks all. Raises Refused."""
    prefix = request.last("C", "#PBS")
    line_options: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith(prefix):
            try:
                given, rest = getopt.getopt(shlex.split(line[len(prefix) :], comments=True), OPTIONS)
            except (getopt.GetoptError, ValueError) as error:
                raise Refused(
                    f"directive error: {line[len(prefix) :].strip()} ({error})", USAGE_ERROR
                ) from None
            if rest:
                raise Refused(f"directive error: {line[len(prefix) :].strip()}", USAGE_ERROR)
            for option, value in given:
                line_options.setdefault(option[1:], []).append(value)
        elif line.strip() and not line.startswith(("#", ":")):
            break  # directives after the first command are ignored
    for listed in (line_options, request.options):  # the command line last: it overrides
        for value in listed.get("l", []):
            request.resources.update(_resources(value))
    request.options = {**line_options, **request.options}
    _check(request)
    return request


def _resources(text: str) -> dict[str, str]:
    found = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals or not value or " " in part:
            raise Refused("illegal -l value", USAGE_ERROR)
        if name not in JOB_RESOURCES:
            raise Refused(f"Unknown resource Resource_List.{name}", UNKNOWN_RESOURCE)
        found[name] = value
    return found


def _check(request: Request) -> None:
    seen = chunks(request.resources["select"]) if "select" in request.resources else []
    if seen and "ncpus" in request.resources:
        raise Refused('"-lresource=" cannot be used with "select" or "place"', BAD_VALUE)
    if not PLACE.fullmatch(request.place):
        raise Refused("Illegal attribute or resource value Resource_List.place", BAD_VALUE)
    if "walltime" in request.resources:
        seconds(request.resources["walltime"])
    name = request.last("N", "STDIN")
    if not re.fullmatch(r"[\w.+-]{1,230}", name):
        raise Refused("illegal -N value", USAGE_ERROR)
    if request.last("j", "n") not in ("oe", "eo", "n"):
        raise Refused("illegal -j value", USAGE_ERROR)
    if request.last("r", "y") not in ("y", "n"):
        raise Refused("illegal -r value", USAGE_ERROR)


def chunks(select: str) -> list[Chunk]:
    """The chunks of a select statement, `N:name=value:...+...`. Raises Refused."""
    found = []
    for part in select.split("+"):
        count, _, rest = part.partition(":") if part[:1].isdigit() else ("1", "", part)
        values: dict[str, str] = {}
        for item in filter(None, rest.split(":")):
            name, equals, value = item.partition("=")
            if not count.isdigit() or int(count) < 1 or not equals or not value:
                raise Refused("Illegal attribute or resource value Resource_List.select", BAD_VALUE)
            if name not in CHUNK_RESOURCES:
                raise Refused(f"Unknown resource: {name}", UNKNOWN_RESOURCE)
            values[name] = value
        if not all(values.get(name, "1").isdigit() for name in ("ncpus", "ngpus", "mpiprocs")):
            raise Refused("Illegal attribute or resource value Resource_List.select", BAD_VALUE)
        found += int(count) * [
            Chunk(
                int(values.get("ncpus", 1)), int(values.get("ngpus", 0)), int(values.get("mpiprocs", 1)),
                values.get("host", values.get("vnode")),
            )
        ]  # fmt: skip
    return found


def seconds(text: str) -> float:
    """A duration, [[HH:]MM:]SS[.fff]. Raises Refused."""
    if not re.fullmatch(r"(\d+:){0,2}\d+(\.\d+)?", text):
        raise Refused("Illegal attribute or resource value Resource_List.walltime", BAD_VALUE)
    total = 0.0
    for part in text.split(":"):
        total = 60 * total + float(part)
    return total
