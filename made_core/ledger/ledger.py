"""The ledger: who does which unit of work, and what is done.

Files come first, the row second: a unit is done when its row says so. All times are the database's.
"""

from __future__ import annotations

from made_core.ledger.database import Database
from made_core.ledger.progress import Progress
from made_core.ledger.runs import Runs
from made_core.ledger.units import Units


class Ledger:
    """Runs, units, progress. It holds no connection between calls; threads may share it.

    Every call may raise StorageFailed, when the database did not answer for `patience` seconds.
    """

    def __init__(self, url: str, patience: float = 300) -> None:
        """Args: url: `postgresql://` or `postgresql+psycopg://`; patience: seconds.

        Raises:
            DatabaseError: no such URL.
        """
        self._database = Database(url, patience)
        self.runs = Runs(self._database)
        self.progress = Progress(self._database)
        self.units = Units(self._database)

    @classmethod
    def open(cls, url: str, patience: float = 300) -> Ledger:
        """A ledger whose database answered and has its tables, created where there were none.

        Raises:
            DatabaseError: unreachable (tried once), or of another version.
        """
        ledger = cls(url, patience)
        ledger._database.prepare()
        return ledger

    def close(self) -> None:
        """Close the engine."""
        self._database.close()
