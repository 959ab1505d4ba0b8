"""The ledger: runs, and the state and output of each unit of work.

A unit's files are written first and its row second: it is done when its row says so. All times are those
of the database.
"""

from __future__ import annotations

from made_core.ledger.database import Database
from made_core.ledger.progress import Progress
from made_core.ledger.runs import Runs
from made_core.ledger.units import Units


class Ledger:
    """Runs, units and progress. Thread-safe; keeps no connection between calls unless told to.

    Every call can raise StorageFailed if the database did not answer for `patience` seconds.
    """

    def __init__(self, url: str, patience: float = 300, keep: bool = False) -> None:
        """Prepares the connection; none is made yet.

        Args:
            url: `postgresql://` or `postgresql+psycopg://`.
            patience: seconds.
            keep: keep a connection between calls, until `rest` or `close`.

        Raises:
            DatabaseError: the URL is invalid.
        """
        self._database = Database(url, patience, keep)
        self.runs = Runs(self._database)
        self.progress = Progress(self._database)
        self.units = Units(self._database)

    @classmethod
    def open(cls, url: str, patience: float = 300, keep: bool = False) -> Ledger:
        """A ledger whose database is reachable and has the latest schema; creates or upgrades it.

        Raises:
            DatabaseError: the database is unreachable (tried once), or has an unknown schema version.
        """
        ledger = cls(url, patience, keep)
        ledger._database.prepare()
        return ledger

    def rest(self) -> None:
        """Close the kept connection, if any; the next call makes another."""
        self._database.rest()

    def close(self) -> None:
        """Close the engine."""
        self._database.close()
