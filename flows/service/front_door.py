"""The front door: starts, shows and cancels runs for callers who hold the trigger token, and nothing else.

Prefect's own API can do all that its worker can, because it can create deployments that run any command. It
stays on loopback or with the operators; upstream jobs get this door: `python -m flows.service.front_door`.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable
from typing import Annotated
from uuid import UUID

import httpx
import uvicorn
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prefect.settings import get_current_settings

from flows.service import prefect_runs, requests, tokens
from flows.service.records import Refusal, TriggeredRun
from made_core import __version__
from made_core.errors import MadeError, RecipeError, Transient, UserError
from made_core.recipe import Recipe
from made_core.recipe_file import validate
from made_core.settings import settings

SHOWN = 2000  # characters of an error
REFUSALS = {
    401: "no token, or a wrong one",
    413: "the body is too large",
    422: "the request is not valid: the sentence names the field",
    503: "Prefect's server or the storage does not answer",
}


def application(token: str) -> FastAPI:
    """The application that answers callers who send `Authorization: Bearer <token>`."""
    app = FastAPI(
        title="made: front door",
        version=__version__,
        description="Starts, shows and cancels runs of made. Send the trigger token as a bearer token.",
    )
    app.add_middleware(requests.Bodies)
    app.include_router(_open_routes())
    app.include_router(_routes(), dependencies=[Depends(_bearer(token))])
    for kind, status in ((prefect_runs.NoSuchRun, 404), (prefect_runs.RunHasEnded, 409), (UserError, 422),
                         (Transient, 503), (MadeError, 500)):  # fmt: skip
        app.add_exception_handler(kind, _as(status))
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(httpx.HTTPStatusError, _refused_by_prefect)
    app.add_exception_handler(httpx.TransportError, _no_answer)
    return app


def _open_routes() -> APIRouter:
    router = APIRouter()

    @router.get("/health")
    def health() -> dict[str, str]:
        """Whether the front door is up; needs no token."""
        return {"status": "ok", "version": __version__}

    return router


def _routes() -> APIRouter:
    router = APIRouter(
        prefix="/runs",
        tags=["runs"],
        responses={status: {"model": Refusal, "description": text} for status, text in REFUSALS.items()},
    )
    unknown: dict[int | str, dict[str, object]] = {404: {"model": Refusal, "description": "no such run"}}
    ended: dict[int | str, dict[str, object]] = {409: {"model": Refusal, "description": "the run has ended"}}

    @router.post(
        "", status_code=201, responses={200: {"model": TriggeredRun, "description": "it is there already"}}
    )
    def start(recipe: Recipe, response: Response) -> TriggeredRun:
        """Starts a run. The body is a recipe: `sources`, `output`, and any other field.

        The same shards with the same recipe start one run: 201 if it was started now, 200 with the earlier
        run if that is live or completed. After a run that failed, crashed or was cancelled, a new one starts.
        """
        wanted = requests.checked(recipe)
        run, is_new = prefect_runs.start({"recipe": wanted.recipe}, recipe.output, wanted.key)
        response.status_code = 201 if is_new else 200
        return run

    @router.get("")
    def runs() -> list[TriggeredRun]:
        """The latest runs that were started here, the newest first."""
        return prefect_runs.latest()

    @router.get("/{run_id}", responses=unknown)
    def run(run_id: UUID) -> TriggeredRun:
        """The state of a run that was started here; while it is live, with the progress of its stages."""
        return prefect_runs.get(run_id)

    @router.post("/{run_id}/cancel", status_code=202, responses={**unknown, **ended})
    def cancel(run_id: UUID) -> TriggeredRun:
        """Asks for the end of a run that was started here."""
        return prefect_runs.cancel(run_id)

    return router


def _bearer(token: str) -> Callable[..., None]:
    """A dependency that raises 401 without the token."""

    def check(
        given: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
    ) -> None:
        if given is None or not secrets.compare_digest(given.credentials.encode(), token.encode()):
            raise HTTPException(
                401,
                "the trigger token is missing or wrong: send it as `Authorization: Bearer TOKEN`",
                {"WWW-Authenticate": "Bearer"},
            )

    return check


def _refusal(status: int, text: str) -> JSONResponse:
    """One line. Lone surrogates, which no encoding can send, are escaped."""
    line = " ".join(text.split()).encode("utf-8", "backslashreplace").decode()
    return JSONResponse({"detail": line[:SHOWN]}, status)


def _as(status: int) -> Callable[[Request, Exception], Response]:
    return lambda _, error: _refusal(status, str(error))


def _invalid(_: Request, error: Exception) -> Response:
    """The sentence that the command line has for the same recipe."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return _refusal(422, f"body: not valid JSON: {first['ctx']['error']}")
    if first["loc"][0] == "body":
        try:
            validate({} if error.body is None else error.body, None)
        except RecipeError as refused:
            return _refusal(422, str(refused))
    if first["type"] == "uuid_parsing":
        wanted = "the id of a run that was started here, as GET /runs lists them"
        return _refusal(422, f"{first['loc'][-1]}: expected {wanted} (it is {first['input']!r})")
    return _refusal(422, f"{first['loc'][-1]}: {first['msg']}")


def _refused_by_prefect(_: Request, error: Exception) -> Response:
    """Parameters that Prefect does not accept are the caller's mistake, anything else is not."""
    assert isinstance(error, httpx.HTTPStatusError)
    if error.response.status_code in (400, 409, 422):
        return _refusal(422, f"Prefect's server: {error.response.text}")
    return _refusal(503, f"Prefect's server answers {error.response.status_code}: try again later")


def _no_answer(_: Request, error: Exception) -> Response:
    return _refusal(503, f"Prefect's server does not answer ({type(error).__name__}): try again later")


def main() -> None:
    """Serves until SIGTERM. Exit code 2, and a sentence, if it cannot start."""
    try:
        token = tokens.ensured()
        if not get_current_settings().api.url:
            raise UserError("PREFECT_API_URL is not set: the front door starts runs on that server")
        if settings().database_url is None:
            raise UserError("MADE_DATABASE_URL is not set: the front door looks there who owns an output")
    except UserError as error:
        print(f"made: {error}", file=sys.stderr)
        sys.exit(2)
    uvicorn.run(
        application(token),
        host=settings().front_door_host,
        port=settings().front_door_port,
        server_header=False,
    )


if __name__ == "__main__":
    main()
