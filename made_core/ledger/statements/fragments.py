"""Parts that several statements share."""

from __future__ import annotations

from made_core.types import UnitState

# The end of a lease that starts now.
LEASE = "now() + make_interval(secs => :lease)"

# The keys of a call, one row each. They are passed as JSON: for 100,000 keys this takes a tenth of the time
# of an array parameter, and the plan uses the index whatever their number and the statistics.
KEYS = "SELECT json_array_elements_text(CAST(:keys AS json))"

# The units of a scope with one of the keys.
THESE = f"stage = :stage AND scope = :scope AND key = ANY(ARRAY({KEYS}))"

# The same, or all units of the scope if `keys` is null.
THESE_OR_ALL = f"stage = :stage AND scope = :scope AND (CAST(:keys AS text) IS NULL OR {THESE})"

# When an open or running unit can be claimed.
READY_AT = "CASE state WHEN 'open' THEN not_before ELSE lease_until END"

# True, and the transaction's commit does not wait for the disk, which has it within a second. If the server
# is killed before, a claim is as if it had not happened: the worker has lost its lease, the unit is done
# again, and files that the worker wrote in that moment stay. Not for transitions that record a result.
NO_WAIT = "(SELECT set_config('synchronous_commit', 'off', true)) = 'off'"

# The columns of a records.Tally.
TALLY = (
    ", ".join(f"count(*) FILTER (WHERE state = '{s.value}') AS {s.value}" for s in UnitState)
    + ", CAST(coalesce(sum(coalesce(samples, progress)), 0) AS bigint) AS samples"
)
