"""The metadata scan: placeholders, and keep rules without values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from made_core import filters
from made_core.corpus import corpus as corpora
from made_core.corpus import identity, tables
from made_core.dedup import decide, near_pairs
from made_core.dedup.metadata_scan import MetadataScan, check_numbers, scan
from made_core.embed import metadata
from made_core.errors import RecipeError
from made_core.filters import min_chars
from made_core.reasons import EXACT_COPY, PLACEHOLDER, UNREADABLE
from made_core.recipe import Filters, Recipe
from made_core.recipe_dedup import Dedup
from made_core.types import Shard
from tests.support.factories import put_embedded

Row = tuple[int, str | None]  # image, caption


def corpus_of(
    folder: Path, *shards: Sequence[Row], fields: str = "{}", without: int | None = None
) -> corpora.Corpus:
    """Shards of samples whose uids ascend. `without`: an image whose json has none of the `fields`."""
    embedded = []
    for number, rows in enumerate(shards):
        records = [
            {
                "row": row, "key": f"{row:04d}", "uid": f"u{number}{row:03d}",
                "error": None if image >= 0 else "broken", "image_digest": bytes(15) + bytes([image % 256]),
                "width": 64, "height": 64, "caption": caption,
                "json": "{}" if image == without else fields,
            }
            for row, (image, caption) in enumerate(rows)
        ]  # fmt: skip
        table = pa.Table.from_pylist(records, schema=metadata.SCHEMA)
        output = put_embedded(str(folder / f"{number}"), np.ones((len(rows), 4), np.float16), table)
        shard = Shard(f"{number}", "x", f"{number:032x}", 1, None)
        embedded.append(corpora.Part(shard, 0, len(rows), output.rows, output.metadata))
    return corpora.build(embedded)


def look(corpus: corpora.Corpus, **dedup: object) -> tuple[MetadataScan, list[str | None], list[int]]:
    """The scan, and the reason and representative of each sample that it decides."""
    recipe = Recipe(sources=("in",), output="out", dedup=Dedup(**dedup), filters=Filters(min_chars=2))
    built = identity.build(corpus)
    found = scan(corpus, built.canonical, recipe)
    n = corpus.samples
    got = decide.decide(
        built, found.dropped, np.arange(n), np.zeros(n, np.int32), np.zeros(0, near_pairs.PAIR), recipe.dedup,
        0.1, (), found.placeholder,
    )  # fmt: skip
    return found, filters.names(got.reason), got.representative.tolist()


def test_one_image_under_many_captions(tmp_path: Path) -> None:
    """Detected if captions differ in more than whitespace, across shards."""
    corpus = corpus_of(
        tmp_path,
        [(1, "a cat"), (1, "a dog"), (2, "b"), (3, "same"), (3, "same")],
        [(1, "a  dog "), (1, "a bird"), (2, None), (3, "same "), (1, None), (-1, "q"), (-1, "r"), (-1, "s")],
    )
    found, names, stands = look(corpus, placeholder_captions=3)
    assert np.flatnonzero(found.placeholder).tolist() == [0, 1, 5, 6, 9]
    copy, hidden = EXACT_COPY.name, PLACEHOLDER.name
    filtered, broken = min_chars.FILTER.reason.name, UNREADABLE.name
    rest = [filtered, None, copy, hidden, hidden, filtered, copy, filtered, broken, broken, broken]
    assert names == [None, hidden, *rest]
    assert stands == [0, 0, -1, 3, 3, 0, 0, -1, 3, -1, -1, -1, -1]

    found, names, stands = look(corpus, placeholder_captions=3, placeholders="drop")
    assert names == [hidden, hidden, *rest]
    assert stands == [-1, -1, -1, 3, 3, -1, -1, -1, 3, -1, -1, -1, -1]


def test_captions_are_counted_by_image_and_without_whitespace(tmp_path: Path) -> None:
    """In each shard its own samples' images; unreadable samples show no image, whatever comes last."""
    corpus = corpus_of(
        tmp_path,
        [(2, "x"), (1, "a"), (3, "y"), (1, "b")],
        [(1, "c"), (2, "a"), (2, " a"), (-1, "p"), (-1, "q"), (-1, "r"), (2, "a\t")],
    )
    recipe = Recipe(sources=("in",), output="out", dedup=Dedup(placeholder_captions=3))
    canonical = identity.build(corpus).canonical
    assert np.flatnonzero(scan(corpus, canonical, recipe).placeholder).tolist() == [1, 3, 4]
    canonical[canonical == 0] = 10  # the last sample is a canonical one
    assert np.flatnonzero(scan(corpus, canonical, recipe).placeholder).tolist() == [1, 3, 4]


@pytest.mark.parametrize("most", [4, None])
def test_no_placeholder(most: int | None, tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, [(1, "aa"), (1, "bb"), (1, "cc"), (1, "cc")])
    found, names, _ = look(corpus, placeholder_captions=most, placeholders="drop")
    assert not found.placeholder.any() and names == [None, *[EXACT_COPY.name] * 3]


def test_the_default_needs_ten_captions(tmp_path: Path) -> None:
    for count, named in ((9, False), (10, True)):
        corpus = corpus_of(tmp_path / str(count), [(1, f"caption {n}") for n in range(count)])
        assert look(corpus)[0].placeholder.any() == named


def test_a_keep_rule_without_values(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "a", [(1, "aa"), (2, "bb")], fields=json.dumps({"score": "high"}))
    with pytest.raises(RecipeError, match=r"keep is column, but no sample's json has a number in score"):
        look(corpus, keep="column", keep_column="score")
    with pytest.raises(RecipeError, match=r"keep reads CLIP scores, .* in clip_l14_similarity_score, "):
        look(corpus, keep="clip_score")
    scored = corpus_of(tmp_path / "b", [(1, "aa")], fields=json.dumps({"similarity": 0.3}))
    assert look(scored, keep="clip_score")[0].values.tolist() == [-0.3]
    assert not len(look(corpora.build([]), keep="column", keep_column="score")[1])


NO_SCORES = r"reads CLIP scores, .* in clip_l14_similarity_score, "
READERS_OF_NUMBERS = [
    ({"dedup": {"keep": "clip_score"}}, f"dedup.keep {NO_SCORES}"),
    ({"filters": {"min_clip_score": 0.2}}, f"filters.min_clip_score {NO_SCORES}"),
    ({"dedup": {"keep": "column", "keep_column": "similarity"}}, "keep is column, .* number in similarity"),
]


@pytest.mark.parametrize(("reader", "message"), READERS_OF_NUMBERS)
def test_numbers_are_checked_in_as_few_shards_as_needed(
    reader: dict[str, object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: set[int] = set()  # of the parts that were read
    read = tables.read

    def noted(part: corpora.Part, columns: Sequence[str]) -> pa.Table:
        starts.add(part.start)
        return read(part, columns)

    monkeypatch.setattr(tables, "read", noted)
    recipe = Recipe(sources=("in",), output="out", **reader)
    rows = [[(1, "aa"), (2, "bb")]]
    without = corpus_of(tmp_path / "a", *rows * 12)
    for check in (lambda: check_numbers(without, recipe), lambda: scan(without, np.arange(24), recipe)):
        with pytest.raises(RecipeError, match=message):
            check()
    fields = json.dumps({"similarity": 0.3})
    scored = corpus_of(
        tmp_path / "b", *rows * 12, fields=fields, without=2
    )  # one number in a shard is enough
    for n in (1, 7, 8, 11):
        mixed = corpora.Corpus((*without.parts[:n], scored.parts[n], *without.parts[n + 1 :]))
        check_numbers(mixed, recipe)
        scan(mixed, np.arange(24), recipe)
    starts.clear()
    check_numbers(scored, recipe)
    assert starts == {0}


def test_a_recipe_that_reads_no_number_is_not_checked(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, [(1, "aa")])
    Path(corpus.parts[0].metadata.path).unlink()
    check_numbers(corpus, Recipe(sources=("in",), output="out", dedup=Dedup(keep="largest")))
