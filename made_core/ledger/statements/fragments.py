"""Parts that several statements share."""

from __future__ import annotations

from made_core.types import UnitState

# The end of a lease that begins now.
LEASE = "now() + make_interval(secs => :lease)"

# The keys of a call, a row each. They travel as JSON: 100,000 of them pass in a tenth of the time of an
# array parameter, and the plan is by the index however many there are and whatever the statistics say.
KEYS = "SELECT json_array_elements_text(CAST(:keys AS json))"

# The units of a scope that have one of the keys.
THESE = f"stage = :stage AND scope = :scope AND key = ANY(ARRAY({KEYS}))"

# The same, or all units of the scope where `keys` is null.
THESE_OR_ALL = f"stage = :stage AND scope = :scope AND (CAST(:keys AS text) IS NULL OR {THESE})"

# When an open or running unit can be claimed.
READY_AT = "CASE state WHEN 'open' THEN not_before ELSE lease_until END"

# The columns of a records.Tally.
TALLY = (
    ", ".join(f"count(*) FILTER (WHERE state = '{s.value}') AS {s.value}" for s in UnitState)
    + ", CAST(coalesce(sum(coalesce(samples, progress)), 0) AS bigint) AS samples"
)
