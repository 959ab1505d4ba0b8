"""A stored corpus with its decisions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from made_core.corpus import identity
from made_core.dedup import decide, decisions
from made_core.dedup.decisions import Decisions
from made_core.dedup.metadata_scan import scan
from made_core.output import decision_tables
from made_core.recipe import Recipe
from made_core.recipe_dedup import Dedup
from made_core.stages import ResolveOutput
from tests.support.corpora import Core, Samples, prepare, store

EPS = 0.125


def decided(folder: Path, make: Callable[[int], Samples], rule: str) -> tuple[Core, Decisions]:
    """A corpus of five shards, decided."""
    core = prepare(folder, store(folder, make(4)), 4, 2)
    recipe = Recipe(sources=("in",), output="out", dedup=Dedup(rule=rule, keep="largest"))
    found = scan(core.corpus, core.identities.canonical, recipe)
    dedup, pairs = recipe.dedup, core.pairs
    return core, decide.decide(core.identities, found.dropped, found.values, core.cluster, pairs, dedup, EPS)


def put(folder: Path, core: Core, found: Decisions) -> ResolveOutput:
    """The stored decisions."""
    hidden = np.zeros(core.corpus.samples, bool)
    return decisions.put(str(folder / "corpus"), found, core.identities, core.cluster, hidden)


def opened(folder: Path, core: Core, found: Decisions) -> decision_tables.Decided:
    """The same, with the identities, opened."""
    identities = identity.put(str(folder / "identities"), core.identities)
    return decision_tables.opened(identities, put(folder, core, found))
