"""The report: self-contained, escaped, complete, with a sentence in place of empty parts."""

from __future__ import annotations

import base64
from io import BytesIO

import pytest
from PIL import Image

from made_core.report.charts import Histogram, valley
from made_core.report.report import Example, Group, Unreadable, render, thumbnail
from tests.support.page import Page
from tests.support.summaries import summary_of

HOSTILE = '</p><script>alert(\'x\')</script>" onerror="alert(1)" \x00\ud83d \u202eقطة 猫'


def _jpeg(size: tuple[int, int] = (640, 320), kind: str = "JPEG", mode: str = "RGB") -> bytes:
    out = BytesIO()
    Image.new(mode, size).save(out, kind)
    return out.getvalue()


def _image(similarity: float | None, caption: str = "a cat", jpeg: bool = True) -> Example:
    return Example("u" * 32, "00003", "000030007", similarity, caption, thumbnail(_jpeg()) if jpeg else None)


HISTOGRAM = Histogram((0.90, 0.925, 0.95, 0.975, 1.0), (40_000, 900, 0, 1_234), 0.95)
NO_PAIRS = Histogram((), (), 0.95)


def _full() -> str:
    removed = (_image(0.98765), _image(0.95001, HOSTILE), _image(1.0, "x" * 900, jpeg=False))
    groups = [
        Group(_image(None), removed, 1234),
        Group(_image(None), (_image(float("nan"), ""),), 2),
    ]
    unreadable = [Unreadable("not an image <b>" + "y" * 500, 1, ("00001/000010002",))]
    failed = [("00712", "the shard cannot be read: <eof>"), ("00713", "gone")]
    doubtful = [(_image(None), _image(0.9512, HOSTILE)), (_image(None), _image(0.9599))]
    return render(summary_of(), HISTOGRAM, groups, unreadable, failed, doubtful)


def test_the_report_suggests_an_eps_where_pairs_are_rarest() -> None:
    edges = tuple(round(0.8 + n / 100, 2) for n in range(21))
    alike, gap, equal = [400, 300, 200, 100, 60, 30, 10, 4], [2, 1, 0, 1, 2], [9, 30, 60, 80, 90, 95, 99]
    found = valley(Histogram(edges, (*alike, *gap, *equal), 0.95))
    assert found == pytest.approx(0.1, abs=0.01)
    falling = Histogram(edges, tuple(range(400, 0, -20)), 0.95)
    for histogram in (falling, Histogram(edges, (1,) * 20, 0.95), NO_PAIRS):
        assert valley(histogram) is None
    text = Page(render(summary_of(), Histogram(edges, (*alike, *gap, *equal), 0.95), [], [], [])).text
    assert f"rarest around eps = {found:g}" in text and "nothing was changed" in text


def test_the_time_of_a_stage_that_computed_nothing() -> None:
    text = Page(render(summary_of(seconds_by_stage={"embed": None, "write": 3.0}), NO_PAIRS, [], [], [])).text
    assert "embed reused write 3.0 s 100.00%" in text.replace("\N{NO-BREAK SPACE}", " ")
    assert "reused" not in Page(render(summary_of(), NO_PAIRS, [], [], [])).text


def test_doubtful_removals() -> None:
    text = Page(_full()).text
    assert "The least certain removals" in text and "0.9512" in text and "0.9599" in text
    assert "2 pairs drawn at random from those up to 0.9625" in text
    assert "made sweep" in text
    assert "least certain" not in Page(render(summary_of(), NO_PAIRS, [], [], [])).text


def test_needs_nothing_from_outside() -> None:
    html = _full()
    page = Page(html)
    for tag, attrs in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "base"}
        for name, value in attrs.items():
            assert not name.startswith("on")
            if name in {"src", "href", "xlink:href"}:
                assert value.startswith(("data:image/", "#")), value
    assert "url(" not in html and "@import" not in html
    assert html.lstrip().startswith("<!DOCTYPE html>")


def test_counts_are_shown() -> None:
    text = Page(_full()).text
    for words in (
        "9,000,000 of 12,800,000 samples kept, 70.31%",
        "Completed with failures. 2 shards failed",
        "Near-duplicate 3,000,000 23.44%",
        "799,999 6.25%",
        "Own filter 0 0.00%",
        "Unreadable 1 < 0.01%",
        "2 shards are <short>",
        "Each of the 3,799,999 removed duplicates is represented by a kept sample",
        "similarities are above 1 \N{MINUS SIGN} eps = 0.9500.",
        "40,960 of the similarities, drawn from all shards",
        "1. 1,234 samples",
        "and 1,230 more",
        "similarity 0.9877",
        "no thumbnail",
        "no caption",
        "00003/000030007",
        "00001/000010002",
        "00712 the shard cannot be read: <eof>",
        "Mean cosine to centroid 0.7124",
        "3,300.5",
        "0.05 (the encoder's default)",
        "1 h 02 min",
        "s3://bucket/out",
        "embed 50 min 00 s 81.08%",
    ):
        assert words in text.replace("\N{NO-BREAK SPACE}", " ").replace("\n", " "), words


def test_shards_that_were_not_written() -> None:
    """Kept samples are not said to be in an output that has none."""
    shards = {"in": 4, "failed": 0, "out": 0, "shortfall": 0, "written": False}
    text = Page(render(summary_of(shards=shards), NO_PAIRS, [], [], [])).text
    assert "No output shards were written (writing.shards is false)" in text
    assert "listed in keep.parquet and keep.npy." in text and "Out none: writing.shards is false" in text
    assert "70.31%in the keep lists" in text.replace("% in", "%in") and "in the output" not in text
    text = Page(render(summary_of(shards=shards, keep_npy="not hex"), NO_PAIRS, [], [], [])).text
    assert "listed in keep.parquet." in text
    text = Page(_full()).text
    assert "were written" not in text and "in the output" in text and "Out 900" in text


def test_filters_are_shown_with_their_bounds() -> None:
    """Also one that dropped nothing."""
    samples = {"in": 3, "kept": 1, "dropped": {"few_words": 2}, "unreadable": 0}
    bounds = {"min_side": 200, "min_words": 3}
    text = Page(render(summary_of(samples=samples, filters=bounds), NO_PAIRS, [], [], [])).text
    assert "Few words 2 66.67% the caption has fewer words than filters.min_words (3)" in text
    assert (
        "Small image 0 0.00% the shorter side of the original image is below filters.min_side (200)" in text
    )
    assert "filters.max_aspect" not in text


def test_hostile_captions_are_text() -> None:
    html = _full()
    page = Page(html)
    assert page.all("script") == []
    assert '</p><script>alert(\'x\')</script>" onerror="alert(1)" \ufffd\ufffd' in page.text
    assert "قطة 猫" in page.text
    assert html.encode("utf-8").decode() == html and "\0" not in html
    assert "x" * 161 not in html, "long captions are cut"


def test_images_decode_and_have_alt_texts() -> None:
    images = Page(_full()).all("img")
    assert len(images) == 9
    for image in images:
        head, data = image["src"].split(",", 1)
        assert head == "data:image/jpeg;base64"
        assert Image.open(BytesIO(base64.b64decode(data))).size == (160, 80)
        assert image["alt"].endswith("image 00003/000030007")
    assert [i["alt"].split()[0] for i in images] == [
        "Kept",
        "Removed",
        "Removed",
        "Kept",
        "Removed",
        *("Kept", "Removed") * 2,
    ]


def test_tables_and_charts_are_accessible() -> None:
    page = Page(_full())
    assert all("scope" in cell for cell in page.all("th"))
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    for svg in page.all("svg"):
        named = svg.get("aria-label") or svg.get("aria-labelledby") in ids
        assert named or svg.get("aria-hidden") == "true"
    assert page.all("html")[0]["lang"] == "en"


def test_unread_shards_are_no_complete_run() -> None:
    shards = {"in": 3, "failed": 0, "out": 1, "shortfall": 0}
    whole = Page(render(summary_of(state="completed", shards=shards), NO_PAIRS, [], [], [])).text
    assert "All shards were processed" in whole and "Not all of the data" not in whole
    shards |= {"unread": 2, "unfinished_folders": 1}
    text = Page(render(summary_of(state="completed", shards=shards), NO_PAIRS, [], [], [])).text
    assert "Not all of the data. img2dataset has not finished: 2 shards not read, see the warnings." in text
    assert "All shards were processed" not in text


def test_no_samples() -> None:
    summary = summary_of(samples={"in": 0, "kept": 0, "dropped": {}, "unreadable": 0})
    assert "No samples went in" in Page(render(summary, NO_PAIRS, [], [], [])).text


def test_a_run_without_duplicates_says_so() -> None:
    summary = summary_of(
        state="completed",
        samples={"in": 400, "kept": 400, "dropped": {}, "unreadable": 0},
        shards={"in": 4, "failed": 0, "out": 1, "shortfall": 0},
        promise={"checked": 0, "recomputed": 0, "broken": 0},
    )
    text = Page(render(summary, NO_PAIRS, [], [], [])).text
    for words in (
        "400 of 400 samples kept, 100.00%",
        "Completed.",
        "nothing to check",
        "No duplicates were found.",
        "No pair of images is similar enough",
        "Every sample could be read.",
        "No shard failed.",
    ):
        assert words in text


def _bars(histogram: Histogram) -> tuple[list[dict[str, str]], str]:
    page = Page(render(summary_of(), histogram, [], [], []))
    bars = [r for r in page.all("rect") if r.get("class") in {"above", "below"}]
    return bars, page.text.replace("\N{NO-BREAK SPACE}", " ")


def test_histogram_colours_by_the_threshold() -> None:
    bars, text = _bars(HISTOGRAM)
    assert [bar["class"] for bar in bars] == ["below", "below", "above"]
    assert "42,134 pairs of images reach a similarity of 0.9000" in text
    assert "1,234 (2.93%) of them are above the threshold, 1 \N{MINUS SIGN} eps = 0.9500" in text
    assert "The vertical axis is logarithmic" not in text, "40,000 is not 50 times 900"


def test_histogram_is_logarithmic_if_counts_differ_much() -> None:
    bars, text = _bars(Histogram((0.9, 0.95, 1.0), (2_000_000_000, 1), 0.95))
    assert "The vertical axis is logarithmic" in text
    assert float(bars[1]["height"]) > 5, "a single pair is seen"
    assert "1 (< 0.01%) of them is above" in text


def test_a_bin_with_the_threshold_is_not_counted_as_above() -> None:
    bars, text = _bars(Histogram((0.9, 0.94, 0.98, 1.0), (5, 7, 2), 0.95))
    assert [bar["class"] for bar in bars] == ["below", "below", "above", "above"]
    assert "Between 2 and 9 of them are above" in text


def test_the_threshold_may_lie_outside_the_bins() -> None:
    bars, text = _bars(Histogram((0.9, 0.95), (3,), 0.99))
    assert [bar["class"] for bar in bars] == ["below"]
    assert "0 (0.00%) of them are above" in text


@pytest.mark.parametrize("counts", [(1,), (7,), (0, 12), (49, 1), (51, 1), (10**9, 10**9)])
def test_bars_stay_in_the_box(counts: tuple[int, ...]) -> None:
    edges = tuple(0.9 + 0.1 * i / len(counts) for i in range(len(counts) + 1))
    bars, _ = _bars(Histogram(edges, counts, 0.95))
    assert bars
    for bar in bars:
        assert float(bar["height"]) > 0
        assert 30 <= float(bar["y"]) < 250 and float(bar["x"]) + float(bar["width"]) <= 740.5


@pytest.mark.parametrize("edges", [(0.9,), (0.9, 0.95), (0.9, 0.95, 0.95), (0.9, float("nan"), 1.0)])
def test_a_histogram_that_does_not_fit_is_refused(edges: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="one more edge"):
        Histogram(edges, (1, 2), 0.95)


@pytest.mark.parametrize("kind,mode", [("JPEG", "CMYK"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "1")])
def test_thumbnails_are_small_jpegs(kind: str, mode: str) -> None:
    data = thumbnail(_jpeg((50, 400), kind, mode), side=100)
    assert data is not None
    image = Image.open(BytesIO(data))
    image.load()
    assert (image.format, image.size) == ("JPEG", (12, 100))


def test_a_thumbnail_is_never_larger_than_the_image() -> None:
    data = thumbnail(_jpeg((30, 20)))
    assert data is not None
    assert Image.open(BytesIO(data)).size == (30, 20)


@pytest.mark.parametrize("data", [b"", b"no image", _jpeg()[:900]])
def test_no_thumbnail_of_what_is_no_image(data: bytes) -> None:
    assert thumbnail(data) is None
