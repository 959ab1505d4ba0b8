"""A run's lease survives a database outage; a process that lost it does not publish."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import State
from prefect.exceptions import TerminationSignal
from prefect.states import Cancelling
from sqlalchemy import create_engine, text

from flows import hold, preflight
from flows.flow_run import FlowRun
from flows.holder import holder
from flows.watch import Watch
from made_core.errors import EncoderError, LeaseLost, OutputError, OutputHeld, StorageFailed
from made_core.ledger.ledger import Ledger
from made_core.output.claim import check_claim
from made_core.recipe import Recipe
from made_core.stages import EMBED
from made_core.types import RunState


def recipe_of(folder: Path, seconds: float) -> Recipe:
    return Recipe(sources=("in",), output=str(folder / "out"), work={"lease_seconds": seconds})


class Unseen(FlowRun):
    """A flow run without a Prefect server."""

    def state(self) -> None: ...

    def running(self, message: str, name: str = "Running") -> None: ...

    def belongs_to(self, run: str) -> None: ...


class Stopped(Unseen):
    """One that is being cancelled."""

    def state(self) -> State[Any]:  # type: ignore[override]
        return Cancelling()


@contextmanager
def held(
    url: str, recipe: Recipe, deployed: bool = False, kind: type[FlowRun] = Unseen
) -> Iterator[hold.Held]:
    flow_run = kind(uuid4(), deployed)
    with hold.held(url, recipe, False, flow_run, Watch(flow_run)) as ours:
        yield ours


def test_renewals_go_on_after_an_error(
    empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held(empty_url, recipe_of(tmp_path, 1)) as ours:
        renew, calls = ours.ledger.runs.renew, []

        def flaky(*args: Any) -> bool:
            calls.append(args)
            if len(calls) < 3:
                raise RuntimeError("the database is away")
            return renew(*args)

        monkeypatch.setattr(ours.ledger.runs, "renew", flaky)
        deadline = time.monotonic() + 30
        while len(calls) < 4 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(calls) >= 4
        ours.ledger.runs.end(ours.run, holder(), RunState.COMPLETED, {}, None)


def test_an_output_taken_over_meanwhile(ledger: Ledger, empty_url: str, tmp_path: Path) -> None:
    """A process suspended beyond its lease gets an error, and the new owner's run is not changed."""
    recipe = recipe_of(tmp_path, 60)
    with (
        pytest.raises(LeaseLost, match=rf"run .* and its output {recipe.output} are no longer held by "),
        held(empty_url, recipe) as ours,
    ):
        ours.still_ours()
        take_over(empty_url, ledger, recipe)
        ours.still_ours()
    found = ledger.runs.of_output(recipe.output)
    assert found is not None and found.id == "other" and found.state is RunState.RUNNING


def test_one_folder_under_two_names(empty_url: str, tmp_path: Path) -> None:
    """The ledger knows outputs by name; run.json in the folder says that a live run has it."""
    real, link = recipe_of(tmp_path, 60), tmp_path / "link"
    Path(real.output).mkdir()
    link.symlink_to(real.output)
    linked = real.model_copy(update={"output": str(link)})
    with held(empty_url, real) as first:
        refused = pytest.raises(OutputHeld, match=rf"{link} is the folder .*out, .* by run {first.run}")
        with refused, held(empty_url, linked):
            pass
        assert (known := check_claim(real, False, None)) is not None and known.run == first.run
        first.end(RunState.COMPLETED, None, None)
    with held(empty_url, linked) as second:
        assert (known := check_claim(real, False, None)) is not None and known.run == second.run


def take_over(url: str, ledger: Ledger, recipe: Recipe) -> None:
    """Gives the output to another run after the lease has expired."""
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE run SET lease_until = now() - interval '1 second'"))
    engine.dispose()
    ledger.runs.begin("other", "another", {}, recipe.output, recipe.store_url, "else", 60, True)


def test_a_second_process_waits_if_a_deployment_asks(
    ledger: Ledger, empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command is refused at once; a deployment's run waits, says for what, and goes on."""
    recipe, said, waits = recipe_of(tmp_path, 60), [], []
    digest = recipe.recipe_digest
    ledger.runs.begin("first", digest, {}, recipe.output, recipe.store_url, "elsewhere:1", 60, False)
    with pytest.raises(OutputHeld, match="is being written by run first"), held(empty_url, recipe):
        pass

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            ledger.runs.end("first", "elsewhere:1", RunState.FAILED, None, "it failed")

    monkeypatch.setattr(time, "sleep", wait)
    monkeypatch.setattr(Unseen, "running", lambda _, message, name="Running": said.append((name, message)))
    with held(empty_url, recipe, deployed=True) as ours:
        assert ours.run == "first" and len(waits) == 3
        ours.end(RunState.COMPLETED, None, None)
    (waiting, text), (running, run) = said
    assert (waiting, running, run) == ("WaitingForOutput", "Running", "run first")
    assert f"{recipe.output} is being written by run first, held by elsewhere:1" in text


def test_a_mistake_before_the_first_unit_gives_the_output_back(
    ledger: Ledger, empty_url: str, tmp_path: Path
) -> None:
    """The corrected recipe has the output then; the same recipe resumes its run."""
    recipe = recipe_of(tmp_path, 60)
    fixed = recipe.model_copy(update={"dedup": recipe.dedup.model_copy(update={"eps": 0.01})})
    runs = []
    for _ in range(2):
        with pytest.raises(EncoderError), held(empty_url, recipe) as ours:
            runs.append(ours.run)
            raise EncoderError("this worker sees no GPU")
    assert runs[0] == runs[1] and check_claim(fixed, False, None) is None
    preflight.check_owner(empty_url, fixed, False)
    with held(empty_url, fixed) as ours:
        assert ours.run != runs[0]
        ours.end(RunState.COMPLETED, None, None)
    old = ledger.runs.get(runs[0])
    assert old is not None and old.replaced and old.error == "this worker sees no GPU"
    assert check_claim(fixed, False, None) is not None
    with pytest.raises(OutputError, match="another recipe"), held(empty_url, recipe):
        pass


@pytest.mark.parametrize(
    "error", [StorageFailed("later"), KeyboardInterrupt(), SystemExit(1), "started", "resumed"]
)
def test_other_ends_keep_the_output(
    ledger: Ledger, empty_url: str, tmp_path: Path, error: BaseException | str
) -> None:
    """A run that may go on keeps it: one that was stopped, that has units, or that this process resumed."""
    recipe = recipe_of(tmp_path, 60)
    fixed = recipe.model_copy(update={"dedup": recipe.dedup.model_copy(update={"eps": 0.01})})
    if error == "resumed":
        with pytest.raises(SystemExit), held(empty_url, recipe):
            raise SystemExit(1)
    raised = EncoderError("no GPU") if isinstance(error, str) else error
    with pytest.raises(type(raised)), held(empty_url, recipe) as ours:
        if error == "started":
            ledger.units.put(ours.run, EMBED, "scope", ["a"], 3)
        raise raised
    with pytest.raises(OutputError, match="another recipe"):
        check_claim(fixed, False, None)
    with held(empty_url, recipe) as again:
        assert again.run == ours.run
        again.end(RunState.COMPLETED, None, None)


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (ValueError("Error calling function `_ser_model`: TerminationSignal: "), RunState.CANCELLED),
        (StorageFailed("the disk is full"), RunState.FAILED),
    ],
)
def test_a_signal_that_a_library_wraps(
    ledger: Ledger, empty_url: str, tmp_path: Path, error: Exception, state: RunState
) -> None:
    """It cancels the run; an error of ours that comes at the same time is the run's error."""
    recipe = recipe_of(tmp_path, 60)
    with pytest.raises(type(error)), held(empty_url, recipe, kind=Stopped):
        raise error
    found = ledger.runs.of_output(recipe.output)
    assert found is not None and (found.state, found.held) == (state, False)


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), TerminationSignal(15)])
def test_an_interrupted_run_is_cancelled_and_gives_its_units_back(
    ledger: Ledger, empty_url: str, tmp_path: Path, stop: BaseException
) -> None:
    recipe = recipe_of(tmp_path, 60)
    with pytest.raises(type(stop)), held(empty_url, recipe) as ours:
        ledger.units.put(ours.run, EMBED, "scope", ["a"], 3)
        assert ledger.units.claim(EMBED, "scope", ["a"], 1, 60, "host:1", ours.run)
        raise stop
    found = ledger.runs.of_output(recipe.output)
    assert found is not None and (found.state, found.held) == (RunState.CANCELLED, False)
    assert found.error == "interrupted: re-run to resume"
    assert [e.kind for e in ledger.units.events(EMBED, "scope", "a")] == ["claimed", "released"]
