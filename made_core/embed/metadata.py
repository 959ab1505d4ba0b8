"""The metadata of a shard, one row for EVERY sample: what its json and txt say, and errors."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from made_core.ingest import tar
from made_core.io import stored
from made_core.io.arrays import read_array
from made_core.types import FileRef, Shard
from made_core.vectors import Rows

SCHEMA = pa.schema(
    [
        ("row", pa.int32()),  # position in the tar, 0 for the first
        ("key", pa.string()),
        ("uid", pa.string()),  # from the json; else derived from the shard and the key, as hex
        ("error", pa.string()),  # why it is unreadable; null: it has an embedding
        ("warning", pa.string()),  # what is wrong with the json or txt; the sample is used anyway
        ("image_digest", pa.binary(16)),  # blake2b-128 of the image's bytes
        ("content_digest", pa.binary(16)),  # of all members, checked again on writing
        ("width", pa.int32()),  # of the decoded image, pixels
        ("height", pa.int32()),
        ("caption", pa.string()),
        ("url", pa.string()),  # from which img2dataset downloaded the image
        ("json", pa.string()),  # as in the tar
    ]
)
NESTING = 100  # of a json: the parser's own limit depends on the version of Python and on the call stack
# A string that is not closed ends with the text: a pattern that can fail would take quadratic time.
STRINGS, BRACKETS = re.compile(r'"(?:[^"\\]|\\.?)*(?:"|\Z)', re.DOTALL), re.compile(r"[][{}]")
MAX_UID = 128  # bytes of UTF-8: the array of uids has the width of the longest


class Record(TypedDict):
    """A row of SCHEMA."""

    row: int
    key: str
    uid: str
    error: str | None
    warning: str | None
    image_digest: bytes | None
    content_digest: bytes
    width: int | None
    height: int | None
    caption: str | None
    url: str | None
    json: str | None


@dataclass(frozen=True)
class Described:
    """The content of a sample's json and txt."""

    fields: dict[str, Any]  # of the json; {} without one
    text: str | None  # of the json, if it is an object
    caption: str | None
    url: str | None
    warnings: list[str]  # what is wrong with the json and txt


def _nesting(text: str) -> int:
    """The deepest nesting that a json can have: where few brackets open, their number."""
    most = text.count("[") + text.count("{")
    if most <= NESTING:
        return most
    depth = deepest = 0
    for bracket in BRACKETS.findall(STRINGS.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def described(sample: tar.Sample) -> Described:
    """The content of a sample's json and txt; a caption in the txt precedes one in the json."""
    warnings: list[str] = []
    fields: dict[str, Any] = {}
    text = _text(sample.get("json"), "json", warnings)
    if text is not None:
        try:
            if _nesting(text) > NESTING:
                raise ValueError(f"nested deeper than {NESTING} levels")
            fields = json.loads(text)
            if not isinstance(fields, dict):
                raise ValueError("not an object")
        except (ValueError, RecursionError) as error:
            warnings.append(f"json: {error}")
            fields, text = {}, None
    caption = _text(sample.get("txt"), "txt", warnings)
    if caption is None and isinstance(fields.get("caption"), str):
        caption = fields["caption"]
    url = fields.get("url")
    return Described(
        fields,
        text,
        None if caption is None else valid(caption),
        valid(url) if isinstance(url, str) else None,
        warnings,
    )


def record(sample: tar.Sample, entry: tar.Entry, shard: Shard) -> Record:
    """The sample's row of SCHEMA, before its image is decoded."""
    found = described(sample)
    warnings = list(found.warnings)
    uid = _uid(found.fields.get("uid"), warnings) or derived_uid(shard.fingerprint, entry)
    return {
        "row": entry.row,
        "key": valid(entry.key),
        "uid": uid,
        "error": None,
        "warning": "; ".join(warnings)[:500] or None,
        "image_digest": None,
        "content_digest": sample.content_digest,
        "width": None,
        "height": None,
        "caption": found.caption,
        "url": found.url,
        "json": found.text,
    }


def _uid(found: Any, warnings: list[str]) -> str | None:
    """The json's uid; None if it has none, or one that the array of uids cannot hold.

    A value that many samples may have, as NaN for a missing one, would make them repeats of one sample.
    """
    if found is None or found == "":
        return None
    is_finite = not isinstance(found, float) or math.isfinite(found)
    if isinstance(found, bool) or not isinstance(found, (str, int, float)) or not is_finite:
        warnings.append(f"uid {json.dumps(found)[:100]} is not a text or a number; a derived uid is used")
        return None
    uid = valid(str(found))
    size = len(uid.encode())
    if size > MAX_UID or "\0" in uid:
        what = f"has {size} bytes, allowed: up to {MAX_UID}" if size > MAX_UID else "has a zero byte"
        warnings.append(f"uid {what}; a derived uid is used")
        return None
    return uid


def derived_uid(fingerprint: str, entry: tar.Entry) -> str:
    """32 hex digits for a sample without a uid in its json: blake2b-128 of `<fingerprint>/<key>`.

    `#<row>` is appended if an earlier sample of the tar has the same key.
    """
    name = f"{entry.key}#{entry.row}" if entry.is_repeat else entry.key
    text = f"{fingerprint}/{name}".encode("utf-8", "surrogateescape")
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def _text(data: bytes | None, what: str, warnings: list[str]) -> str | None:
    if data is None:
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        warnings.append(f"{what} is not valid UTF-8: {error.reason} at byte {error.start}")
        return data.decode("utf-8", "replace")


def valid(text: str) -> str:
    """`text` with lone surrogates escaped, which UTF-8 cannot represent."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def read_rows(ref: FileRef) -> Rows:
    """(n, dim) float16 unit rows, memory-mapped. Raises DamagedFile."""
    rows: Rows = read_array(ref)
    return rows


def read_table(ref: FileRef, columns: Sequence[str]) -> pa.Table:
    """The `columns` of a metadata table. Raises DamagedFile."""
    # ParquetFile: read_table takes twice as long to open a small file.
    with stored.local(ref) as path, pq.ParquetFile(path) as file:
        return file.read(columns=list(columns), use_threads=False)
