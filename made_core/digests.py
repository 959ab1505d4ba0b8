"""Digests of JSON values: scopes, recipes, decisions."""

from __future__ import annotations

import hashlib
import json


def digest(value: object) -> str:
    """16 hex digits: blake2b-64 over a JSON value's text with sorted keys; equal for equal values."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
