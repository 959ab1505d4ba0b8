"""Self-contained HTML pages: renders templates and formats numbers."""

from __future__ import annotations

import base64
import math
import re
from numbers import Integral, Real
from typing import Any

from jinja2 import Environment, PackageLoader

from made_core.report.precision import Precision

CAPTION = 160  # characters of a caption that are shown
NOTHING = "\N{EN DASH}"
# Not allowed in HTML, or not encodable as UTF-8 (lone surrogates, from JSON).
ILLEGAL = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def fill(template: str, **values: Any) -> str:
    """Renders a template with all values escaped; the result can be encoded as UTF-8."""
    environment = Environment(
        loader=PackageLoader("made_core.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        n=number, share=share, cosine=cosine, duration=duration, short=short, uri=uri, interval=interval
    )
    html = environment.get_template(template).render(**values)
    return ILLEGAL.sub("\N{REPLACEMENT CHARACTER}", html)


def number(value: Any) -> str:
    """With thousands separators; fractions with one decimal."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return str(value)
    if isinstance(value, Integral):
        return f"{int(value):,}"
    number = float(value)
    if not math.isfinite(number):
        return NOTHING
    return f"{number:,.0f}" if number.is_integer() else f"{number:,.1f}"


def share(part: float, whole: float) -> str:
    """In percent; a share above 0 is never shown as 0, and a share below 1 never as 100."""
    if not whole:
        return NOTHING
    percent = 100 * part / whole
    if part and percent < 0.005:
        return "< 0.01%"
    if part < whole and percent >= 99.995:
        return "> 99.99%"
    return f"{percent:.2f}%"


def cosine(value: float | None) -> str:
    """With four decimals."""
    return NOTHING if value is None or math.isnan(value) else f"{value:.4f}"


def interval(found: Precision | None) -> str:
    """An estimate with its interval: "0.917 (0.742 to 0.977)"."""
    if found is None or found.estimate is None:
        return NOTHING
    return f"{found.estimate:.3f} ({found.low:.3f} to {found.high:.3f})"


def duration(seconds: float) -> str:
    """In seconds, minutes or hours."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def short(text: str) -> str:
    """The first CAPTION characters of a caption."""
    if len(text) <= CAPTION:
        return text
    return text[: CAPTION - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def uri(jpeg: bytes) -> str:
    """A data URI of an image."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
