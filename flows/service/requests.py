"""What the front door accepts: bodies of limited size, and recipes that a run can start with."""

from __future__ import annotations

import posixpath
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flows import request
from made_core.digests import digest
from made_core.errors import RecipeError, SourceError, UserError
from made_core.ingest import finished
from made_core.recipe import Recipe
from made_core.settings import settings

MAX_BODY = 1 << 20  # bytes: a recipe that names thousands of sources


@dataclass(frozen=True)
class Request:
    """A recipe that can run."""

    recipe: dict[str, Any]  # the fields that were given
    key: str  # digest over the shards' fingerprints and the recipe


def checked(recipe: Recipe) -> Request:
    """Checks everything that needs no worker, so that a mistake never becomes a run.

    Raises:
        UserError: the request is not valid, see `flows.request.checked`; img2dataset has not finished
            a source; or MADE_DATABASE_URL is not set.
        StorageFailed: the storage did not answer.
    """
    _check_texts("", recipe.model_dump(exclude_unset=True))
    url = settings().database_url
    if url is None:
        raise UserError("MADE_DATABASE_URL is not set: the front door looks there who owns an output")
    wanted = request.checked(url, recipe, replace=False, deployed=True)
    sources, found = wanted.recipe.sources, wanted.found
    finished.check(sources, wanted.recipe.admission.require_stats)
    if found.refused:  # of a pattern, which names the shards to take
        some = ", ".join(posixpath.basename(tar) for tar in found.refused[:5])
        raise SourceError(
            f"{len(found.refused):,} tars of {', '.join(sources)} have no valid _stats.json: {some}"
        )
    given = recipe.model_dump(mode="json", exclude_unset=True)
    # An extended run's recipe is the default, so what was given matters; else a default is like its value.
    if recipe.extends:
        given["extends"] = wanted.recipe.extends  # its id, whatever it was named by
    values = given if recipe.extends else recipe.model_dump(mode="json")
    return Request(given, digest({"shards": sorted(s.fingerprint for s in found.shards), "recipe": values}))


def _check_texts(field: str, value: Any) -> None:
    """Refuses control characters and lone surrogates: PostgreSQL cannot store them, and no path has them."""
    for name, inner in _inside(field, value):
        if isinstance(inner, str):
            if any(unicodedata.category(c) in ("Cc", "Cs") for c in inner):
                raise RecipeError(
                    f"{name}: control characters and lone surrogates are not allowed (it is {inner!r})"
                )
        else:
            _check_texts(name, inner)


def _inside(field: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((f"{field}.{name}".lstrip("."), inner) for name, inner in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((f"{field}.{i}", inner) for i, inner in enumerate(value))


class Bodies:
    """ASGI middleware: every body is JSON, whatever its Content-Type: `curl -d` says it is a form.

    Answers 413 to one of more than `limit` bytes, and reads no more of it.
    """

    def __init__(self, app: ASGIApp, limit: int = MAX_BODY) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, with its body read."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = bytearray()
        message: Message = {"type": "http.request", "more_body": True}
        while message["type"] == "http.request" and message.get("more_body", False):
            message = await receive()
            body += message.get("body", b"")
            if len(body) > self.limit:
                text = f"body: more than {self.limit:,} bytes; name sources by folder or pattern"
                await JSONResponse({"detail": text}, 413)(scope, receive, send)
                return
        read = [{**message, "body": bytes(body)}]

        async def again() -> Message:
            return read.pop() if read else await receive()

        headers = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
        await self.app({**scope, "headers": [*headers, (b"content-type", b"application/json")]}, again, send)
