"""What a job may ask of qsub, for `made pbs script` and for the pool: patterns without `^` and `$`."""

from __future__ import annotations

QUEUE = r"[A-Za-z0-9_.@-]{1,64}"  # or queue@server
ACCOUNT = r"[A-Za-z0-9_.:@-]{1,64}"
PLACE = r"(free|pack|scatter|vscatter)(:(excl|exclhost|shared))?(:group=[A-Za-z0-9_]+)?"
DIRECTIVE = r"-[lWmMpPac] [ -~]+"  # printable ASCII: no line break
ALLOWED = "-l, -W, -m, -M, -p, -P, -a and -c"
OWN = ("select", "walltime", "place")  # resources of -l that have variables and options of their own


def further(directive: str) -> str:
    """A further directive. Raises ValueError if its value has an option or variable of its own."""
    option, _, value = directive.partition(" ")
    names = [part.partition("=")[0].strip() for part in value.split(",")]
    if option == "-l" and any(name in OWN for name in names):
        raise ValueError(f"{directive!r}: {', '.join(OWN)} are set by their own options or variables")
    return directive
