"""The review: a page on which a person marks pairs as right or wrong and reads the precision at each eps."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from made_core.corpus.corpus import Corpus
from made_core.dedup.inputs import ResolveInputs
from made_core.output.summary import Summary
from made_core.report import bands, html
from made_core.report.bands import Band
from made_core.report.report import Example

SIDE = 384  # pixels: the longer side of an image
SEED = 0  # of the order of the bands


@dataclass(frozen=True)
class Pair:
    """A pair to mark."""

    band: int  # number of the band that it was drawn from
    kept: Example
    removed: Example


def drawn(corpus: Corpus, inputs: ResolveInputs, every: Sequence[Band], number: int) -> list[Pair]:
    """At most `number` pairs of each band, drawn at random, in the order in which they are shown.

    Seeded. One of each band after the other, the bands and the pairs of each in random order: whoever stops
    early has marked a random sample of each band, of about the same size.

    Raises:
        DamagedFile: a stored file is missing or damaged.
    """
    random = np.random.default_rng(SEED)
    mixed = []
    for place, band in enumerate(every):
        found = bands.pairs(corpus, inputs, band, number, SIDE)
        mixed.append([Pair(place, *found[n]) for n in random.permutation(len(found))])
    rounds = max(map(len, mixed), default=0)
    return [
        mixed[place][turn]
        for turn in range(rounds)
        for place in random.permutation(len(mixed))
        if turn < len(mixed[place])
    ]


def render(run: Summary, every: Sequence[Band], pairs: Sequence[Pair]) -> str:
    """The review as one HTML page that needs nothing else. `run`: the run's summary."""
    loader = PackageLoader("made_core.report")
    script = loader.get_source(Environment(autoescape=True), "review.js")[0]
    policy = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    data = {
        "run": run.run,
        "decisions_digest": run.decisions_digest,
        "bands": [{"eps": band.eps, "removed": len(band.removed)} for band in every],
        "pairs": [
            {"band": pair.band, "kept": _shown(pair.kept), "removed": _shown(pair.removed)} for pair in pairs
        ],
    }
    return html.fill(
        "review.html.j2",
        run=run,
        bands=every,
        pairs=pairs,
        policy=policy,
        script=Markup(script),  # the project's own file
        # In a script element only "</" and "<!--" are special; as escapes they are the same JSON.
        data=Markup(json.dumps(data).replace("<", "\\u003c")),
    )


def _shown(example: Example) -> dict[str, str | float | None]:
    return {
        "uid": example.uid,
        "where": f"{example.shard}/{example.key}",
        "caption": html.short(example.caption),
        "similarity": example.similarity,
        "image": None if example.jpeg is None else html.uri(example.jpeg),
    }
