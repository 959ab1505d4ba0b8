"""benchmarks.corpus on few samples: the stages of one process run, and remove what was planted."""

from __future__ import annotations

from pathlib import Path

from benchmarks import corpus, corpus_run, scale_run


def test_a_small_corpus(tmp_path: Path) -> None:
    corpus.store(tmp_path, 3000, seed=0, part=500)
    found = corpus_run.run(tmp_path)
    assert found["n"] == 3000
    assert 0 < found["kept"] <= 3000 - int(corpus.COPIES * 500) * 6
    assert set(found["seconds"]) == set(corpus.STAGES)
    assert corpus_run.plain(scale_run.corpus_of(tmp_path)) > 0
