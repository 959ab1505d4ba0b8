"""What the front door accepts: bodies of limited size, and recipes that a run can start with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flows import preflight
from made_core.digests import digest
from made_core.errors import RecipeError, SourceError
from made_core.ingest import discovery, finished
from made_core.io import files
from made_core.io.paths import located
from made_core.output.claim import check_claim
from made_core.recipe import Recipe

MAX_BODY = 1 << 20  # bytes: a recipe that names thousands of sources


@dataclass(frozen=True)
class Request:
    """A recipe that can run."""

    recipe: dict[str, Any]  # the fields that were given, with absolute paths
    key: str  # digest over the shards' fingerprints and the recipe


def checked(recipe: Recipe) -> Request:
    """Checks everything that needs no worker, so that a mistake never becomes a run.

    Raises:
        UserError: a path is relative or cannot be used, the sources are not finished, or another check of
            `made curate` fails.
        StorageFailed: the storage did not answer.
    """
    _check_texts("", recipe.model_dump(exclude_unset=True))
    _check_absolute(recipe)
    at = located(recipe)
    found = discovery.discover(at.sources, at.admission.require_stats)
    finished.check(at.sources, at.admission.require_stats)
    if found.refused:
        raise SourceError(f"{found.refused[0]} and {len(found.refused) - 1} more have no _stats.json")
    preflight.check(at, [shard.url for shard in found.shards], None)
    if at.extends is None:  # otherwise the owner depends on the recipe of the extended run
        check_claim(at, replace=False, log_folder=None)
    given = recipe.model_dump(mode="json", exclude_unset=True)
    # An extended run's recipe is the default, so what was given matters; else a default is like its value.
    values = given if recipe.extends else recipe.model_dump(mode="json")
    return Request(given, digest({"shards": sorted(s.fingerprint for s in found.shards), "recipe": values}))


def _check_absolute(recipe: Recipe) -> None:
    named = {f"sources.{i}": source for i, source in enumerate(recipe.sources)}
    named |= {
        "output": recipe.output,
        "store": recipe.store or "/",
        "encoder.config": recipe.encoder.config or "/",
    }
    for field, url in named.items():
        if files.is_local(url) and not os.path.isabs(url.split("://", 1)[-1]):
            raise RecipeError(f"{field}: {url} is a relative path, which a worker would look for elsewhere; "
                              "name an absolute path")  # fmt: skip


def _check_texts(field: str, value: Any) -> None:
    """Refuses control characters in texts: no path has them, and PostgreSQL cannot store NUL."""
    for name, inner in _inside(field, value):
        if isinstance(inner, str):
            if any(ord(c) < 32 or ord(c) == 127 for c in inner):
                raise RecipeError(f"{name}: control characters are not allowed (it is {inner!r})")
        else:
            _check_texts(name, inner)


def _inside(field: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((f"{field}.{name}".lstrip("."), inner) for name, inner in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((f"{field}.{i}", inner) for i, inner in enumerate(value))


class BodyLimit:
    """ASGI middleware: answers 413 to a body of more than `limit` bytes, and reads no more of it."""

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

        await self.app(scope, again, send)
