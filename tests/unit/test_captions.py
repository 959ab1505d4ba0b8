"""Captions: rows equal open_clip's though the context is cut, and scores are cosines of stored rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from made_core import filters, recipe
from made_core.corpus import corpus as corpora
from made_core.corpus import tables
from made_core.embed import captions, encoder, metadata, models, text_tower
from made_core.embed.settle import settle
from made_core.embed.text_tower import LONGEST, TextTower
from made_core.errors import EncoderError, RecipeError
from made_core.io.arrays import read_array
from made_core.recipe import Filters, Recipe
from made_core.types import Shard
from tests.support.factories import TINY, WORDS, put_embedded, tiny_open_clip

CAPTIONS = [
    "a cat", "", "two dogs on a beach, seen from above", "a", "日本の猫", "word " * 200,
    "emoji 😀 and &amp; entities", "x" * 300, "\x00\n\t ", "A CAT",
]  # fmt: skip


def section(model: tuple[Path, Path], **changes: Any) -> recipe.Encoder:
    """A model's section of the recipe, on the CPU."""
    fields = {"config": str(model[0]), "pretrained": str(model[1]), "device": "cpu", "precision": "fp32"}
    return recipe.Encoder(**{"model": model[0].stem, "batch_size": 1, **fields, **changes})


def loaded(model: tuple[Path, Path], **changes: Any) -> encoder.Encoder:
    encoder.load.cache_clear()
    return encoder.load(encoder.resolve(section(model, **changes)))


def tower(model: tuple[Path, Path]) -> TextTower:
    found = loaded(model).text
    assert found is not None
    return found


@pytest.fixture(scope="module")
def able(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model whose captions can be embedded."""
    return tiny_open_clip(tmp_path_factory.mktemp("able"), "able", text=WORDS)


@pytest.mark.parametrize(
    ("name", "text", "is_cut"),
    [
        ("causal", {}, True),
        ("custom", {"custom": True}, True),
        ("by-eos", {"custom": True, "pool_type": "eos", "eos_id": 49407}, True),
        ("both-ways", {"custom": True, "no_causal_mask": True, "pool_type": "last"}, False),
        ("last", {"custom": True, "pool_type": "last"}, False),
        ("cls", {"custom": True, "embed_cls": True}, False),
    ],
)
def test_rows_equal_open_clips_at_full_context(
    tmp_path: Path, name: str, text: dict[str, Any], is_cut: bool
) -> None:
    """Towers that look back only, on a cut context; all others on the whole one."""
    options = {k: v for k, v in text.items() if k != "custom"}
    config = TINY | {"text_cfg": TINY["text_cfg"] | WORDS | {"layers": 2} | options}
    if "custom" in text:
        config |= {"custom_text": True}
    path, checkpoint = tmp_path / f"{name}.json", tmp_path / f"{name}.pt"
    path.write_text(json.dumps(config))
    open_clip.add_model_config(path)
    torch.manual_seed(0)
    model = open_clip.create_model(name)
    torch.save(model.state_dict(), checkpoint)
    ours = tower((path, checkpoint))
    lengths: list[int] = []

    def forward(tokens: torch.Tensor) -> torch.Tensor:
        lengths.append(tokens.shape[1])
        return ours.forward(tokens)

    found = replace(ours, forward=forward).encode(CAPTIONS)
    with torch.no_grad():
        expected = model.eval().encode_text(open_clip.get_tokenizer(name)(CAPTIONS), normalize=True).numpy()
    assert np.abs(found - expected).max() < 1e-6
    assert len(lengths) == 3 and (lengths[0] < 8) == is_cut and lengths[-1] == 77


def test_a_row_does_not_depend_on_its_order(able: tuple[Path, Path]) -> None:
    ours = tower(able)
    found = ours.encode(CAPTIONS)
    assert np.abs(ours.encode(CAPTIONS[::-1])[::-1] - found).max() < 1e-6
    assert (ours.encode(CAPTIONS) == found).all()
    assert np.isfinite(ours.encode(["word " * LONGEST])).all()


def test_the_tokenizer_does_not_keep_every_word(
    able: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would keep a word for each caption in a language without spaces, for as long as the worker lives."""
    monkeypatch.setattr(text_tower, "WORDS", 100)
    plain = open_clip.SimpleTokenizer()
    tokenizer = open_clip.SimpleTokenizer()
    tokenize = text_tower.bounded(tokenizer)
    letters = [chr(code) for code in range(0x4E00, 0x4E00 + 40)]
    for first in letters:
        captions = [f"{first}{second}" for second in letters] + ["<end_of_text> a cat"]
        assert torch.equal(tokenize(captions), plain(captions))
        assert len(tokenizer.cache) <= 100 + len(letters) + 5
    assert len(plain.cache) > len(letters) ** 2


def test_the_images_key_does_not_change(able: tuple[Path, Path]) -> None:
    with_captions, without = loaded(able).encoding, loaded(able, captions="skip").encoding
    assert with_captions.key == without.key and without.caption_key is None
    other = tiny_open_clip(able[0].parent / "other", "able", text=WORDS | {"width": 32})
    weights = torch.load(other[1]) | {
        name: tensor for name, tensor in torch.load(able[1]).items() if name.startswith("visual.")
    }
    torch.save(weights, other[1])
    assert loaded(other).encoding.key == without.key
    assert loaded(other).encoding.caption_key != with_captions.caption_key is not None


def test_a_model_without_a_fitting_tokenizer(tmp_path: Path) -> None:
    few = tiny_open_clip(tmp_path, "few")
    settled = settle(section(few))
    assert settled.section.captions == "skip"
    assert (
        settled.warning is not None
        and "captions are not embedded: its text tower knows 64" in settled.warning
    )
    assert settle(section(few, captions="skip")).warning is None
    with pytest.raises(
        EncoderError, match="captions is embed, but few: its text tower knows 64 tokens, open_clip"
    ):
        models.check(section(few, captions="embed"))
    for model in ("xlm-roberta-base-ViT-B-32", "ViT-B-16-SigLIP"):
        wanted = recipe.Encoder(model=model, pretrained=str(few[1]), captions="embed")
        with pytest.raises(EncoderError, match=r"needs the package transformers; allowed: auto, skip"):
            models.check(wanted)
    with pytest.raises(ValueError, match="model perceptual has no text tower"):
        recipe.Encoder(captions="embed")


@pytest.fixture
def shard(tmp_path: Path, able: tuple[Path, Path]) -> corpora.Part:
    """An embedded shard: captions, one missing, one blank, and an unreadable image."""
    texts = ["a cat", None, " ", "a dog", "x"]
    records = [
        {"row": n, "key": str(n), "uid": f"u{n}", "caption": text, "json": '{"similarity": 0.5}'}
        for n, text in enumerate(texts)
    ]
    rows = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float16)
    rows[3] = 0
    table = pa.Table.from_pylist(records, schema=metadata.SCHEMA)
    output = put_embedded(str(tmp_path / "x"), rows, table)
    given = Shard("00000", "in/00000.tar", "0" * 32, 1, None)
    return corpora.Part(given, 0, 5, output.rows, output.metadata)


def test_scores_are_cosines_of_the_stored_rows(
    shard: corpora.Part, able: tuple[Path, Path], tmp_path: Path
) -> None:
    done: list[int] = []
    output = captions.embed(str(tmp_path / "c"), shard.rows, shard.metadata, tower(able), done.append)
    rows, images = read_array(output.rows), read_array(shard.rows)
    assert rows.dtype == np.float16 and rows.shape == (5, 16) and done == [5]
    assert rows.any(axis=1).tolist() == [True, False, False, True, True] and output.captions == 3
    scores = pq.read_table(output.table.path)["clip_score"].to_pylist()
    assert [n for n, score in enumerate(scores) if score is None] == [1, 2, 3]
    for n in (0, 4):
        a, b = images[n].astype(float), rows[n].astype(float)
        assert scores[n] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-12)
    again = captions.embed(str(tmp_path / "d"), shard.rows, shard.metadata, tower(able), done.append)
    assert [ref.digest for ref in again.refs] == [ref.digest for ref in output.refs]

    corpus = corpora.build([shard]).with_table("captions", {"0" * 32: output.table})
    read = tables.read(corpus.parts[0], ["clip_score", "key", "error"])
    assert read["clip_score"].to_pylist() == scores and set(read.column_names) == {
        "key",
        "error",
        "clip_score",
    }
    wanted = Filters(min_clip_score=min(s for s in scores if s is not None) + 1e-9)
    dropped = filters.names(filters.apply(tables.read(shard_with(corpus), filters.columns(wanted)), wanted))
    assert dropped.count("low_clip_score") == 4 and dropped.count(None) == 1


def shard_with(corpus: corpora.Corpus) -> corpora.Part:
    return corpus.parts[0]


def test_without_embedded_captions_the_jsons_score_is_read(shard: corpora.Part) -> None:
    assert tables.read(shard, ["clip_score", "json"])["clip_score"].to_pylist() == [0.5] * 5
    assert corpora.build([shard]).without_table("captions").parts[0].tables == {}


def test_a_filter_without_any_score_is_refused(tmp_path: Path) -> None:
    from made_core.corpus import identity
    from made_core.dedup.metadata_scan import scan

    table = pa.Table.from_pylist([{"row": 0, "key": "0", "uid": "u"}], schema=metadata.SCHEMA)
    output = put_embedded(str(tmp_path / "x"), np.ones((1, 4), np.float16), table)
    given = Shard("0", "x", "0" * 32, 1, None)
    corpus = corpora.build([corpora.Part(given, 0, 1, output.rows, output.metadata)])
    canonical = identity.build(corpus).canonical
    wanted = Recipe(sources=("in",), output="out", filters=Filters(min_clip_score=0.2))
    with pytest.raises(RecipeError, match=r"filters\.min_clip_score reads CLIP scores, but captions are not"):
        scan(corpus, canonical, wanted)
