"""Retries with exponential backoff."""

from __future__ import annotations

import logging

from tenacity import Retrying, before_sleep_log, retry_if_exception_type, stop_after_attempt, wait_exponential

from made_core.errors import Transient

log = logging.getLogger(__name__)

BACKOFF_SECONDS = 2.0  # before the second attempt; doubled before each further one
BACKOFF_MOST = 60.0  # seconds: bounds the wait of a unit that lost many workers


def backoff(attempt: int) -> float:
    """Seconds to wait after attempt number `attempt` (the first is 1) failed."""
    return min(BACKOFF_MOST, BACKOFF_SECONDS * 2.0 ** (attempt - 1))


def retrying(attempts: int) -> Retrying:
    """Retries a callable that raises Transient; for steps that are not units of the ledger."""
    return Retrying(
        retry=retry_if_exception_type(Transient),
        stop=stop_after_attempt(attempts),
        wait=wait_exponential(multiplier=BACKOFF_SECONDS, max=BACKOFF_MOST),
        before_sleep=before_sleep_log(log, logging.WARNING),
        reraise=True,
    )
