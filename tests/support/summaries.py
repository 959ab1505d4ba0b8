"""Summaries of fictitious runs."""

from __future__ import annotations

from typing import Any

from made_core.output.summary import Summary


def summary_of(**changes: Any) -> Summary:
    """A summary; `changes` replace its fields."""
    facts: dict[str, Any] = {
        "run": "try-1",
        "made": "0.1.0",
        "decisions_digest": "0" * 16,
        "started": "2026-01-02T03:04:05+00:00",
        "seconds": 3723.0,
        "seconds_by_stage": {"embed": 3000.0, "pairs": 700.0},
        "state": "completed_with_failures",
        "samples": {
            "in": 12_800_000,
            "kept": 9_000_000,
            "dropped": {"near_duplicate": 3_000_000, "exact_copy": 799_999, "own_filter": 0},
            "unreadable": 1,
        },
        "extends": None,
        "placeholders": {"images": 0, "samples": 0},
        "shards": {"in": 1280, "failed": 2, "out": 900, "shortfall": 17},
        "encoder": {
            "model": "ViT-B-32", "dim": 512, "device": "cuda", "precision": "bf16", "batch_size": 256,
            "key": "00ff" * 4,
        },
        "clusters": {
            "k": 3578,
            "probes": 1,
            "trained_on": 915_968,
            "mean_cosine": 0.71239,
            "sizes": {"min": 0, "median": 3300.5, "max": 29114, "empty": 4},
        },
        "dedup": {
            "rule": "cover", "keep": "hard", "eps": 0.05, "eps_is_default": True, "eps_max": 0.1,
            "pairs": 42_134, "crowded_clusters": 0, "crowded_rows": 0,
        },
        "recall": None,
        "promise": {"checked": 3_799_999, "recomputed": 40_960, "broken": 0},
        "keep_npy": None,
        "warnings": ["2 shards are <short>"],
        "output": "s3://bucket/out",
        "store": "s3://bucket/store",
    }  # fmt: skip
    return Summary.model_validate(facts | changes)
