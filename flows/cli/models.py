"""`made models`: open_clip's models, and whether stored images suffice for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from flows.cli.app import app
from flows.console import ENDLESS, console

if TYPE_CHECKING:  # as in terminal
    from made_core.embed.model_facts import ModelFacts
    from made_core.embed.stored_sizes import StoredSizes

SAMPLE = 2000  # images whose sizes `--for` reads
# Columns that a narrow terminal does without: the first one first.
LESS = ("heads", "width", "layers", "patch", "dim", "both M")
ADVICE = "img2dataset arguments for a model: image_size=PIXELS resize_mode=keep_ratio, PIXELS as in its row"


models = typer.Typer(invoke_without_command=True)
app.add_typer(models, name="models")


@models.callback()
def list_models(
    context: typer.Context,
    patterns: Annotated[
        list[str] | None,
        typer.Option("--name", metavar="NAME", help="Name or pattern such as 'ViT-B-*'. Can be repeated."),
    ] = None,
    folder: Annotated[
        str | None,
        typer.Option("--for", help="Folder or URL of shards: do their images suffice for each model?"),
    ] = None,
) -> None:
    """List open_clip's models: size, parameters, operations; the smallest first.

    All of them, without --name, take a minute.
    """
    if context.invoked_subcommand is not None:
        return
    from rich.progress import track

    from made_core.embed import model_facts, stored_sizes
    from made_core.errors import EncoderError
    from made_core.ingest import discovery

    names = model_facts.names(tuple(patterns or ()))
    stored = None
    if folder is not None:
        every = list(discovery.expand((folder,), require_stats=False).admitted)
        drawn = stored_sizes.drawn(every)
        stored = stored_sizes.read(drawn, SAMPLE)
    found: list[ModelFacts] = []
    failed: list[str] = []
    for name in track(names, "counting", console=Console(stderr=True), transient=True):
        try:
            found.append(model_facts.facts(name))
        except EncoderError as error:
            failed.append(str(error))

    out = console()
    if stored:
        sides = stored.shorter
        marks = (
            {f"{p} %": sides[min(len(sides) - 1, p * len(sides) // 100)] for p in (0, 5, 50, 95)}
            if sides
            else {}
        )
        few = f" ({len(drawn)} of its {len(every):,} shards)" if len(drawn) < len(every) else ""
        text = f"{len(sides):,} images of {folder}{few}, resize mode: {stored.resize_mode}"
        out.print(text, highlight=False, markup=False, soft_wrap=True)  # the path stays in one piece
        text = ", ".join(f"{share} {side}" for share, side in marks.items())
        _say(out, f"shorter sides, pixels at percentiles: {text}")
    _show(out, [_row(each, stored) for each in sorted(found, key=lambda f: f.flops)])
    if stored:
        _say(out, ADVICE)
    for text in failed:
        _say(out, f"left out: {text}", "dim")
    if not found:
        raise EncoderError("none of these models can be built")


def _say(out: Console, text: str, style: str = "") -> None:
    out.print(text, highlight=False, markup=False, style=style)


def _row(each: ModelFacts, stored: StoredSizes | None) -> dict[str, str]:
    """The cells of a model by column."""
    shape = {"patch": each.patch, "layers": each.layers, "width": each.width, "heads": each.heads}
    row = {"model": each.name, "pixels": f"{each.image_size}"}
    row |= {column: "-" if value is None else f"{value}" for column, value in shape.items()}
    row |= {"image M": f"{each.image_parameters / 1e6:.1f}", "both M": f"{each.parameters / 1e6:.1f}"}
    row |= {"GFLOP": f"{each.flops / 1e9:.1f}", "dim": f"{each.dim}"}
    if stored:
        row["enlarged"] = f"{stored.enlarged(each.image_size):.1%}"
    return row


def _show(out: Console, rows: Sequence[Mapping[str, str]]) -> None:
    """Prints the table without the columns of LESS that do not fit."""
    endless = out.options.update(max_width=ENDLESS)
    for count in range(len(LESS) + 1):
        table = _table(rows, LESS[:count])
        if out.measure(table, options=endless).maximum <= out.width:
            break
    out.print(table)
    if count:
        _say(out, f"not shown in a terminal of {out.width} columns: {', '.join(LESS[:count])}", "dim")


def _table(rows: Sequence[Mapping[str, str]], left_out: Sequence[str]) -> Table:
    table = Table()
    columns = [column for column in (rows[0] if rows else ("model",)) if column not in left_out]
    for column in columns:
        table.add_column(column, justify="left" if column == "model" else "right", overflow="fold")
    for row in rows:
        table.add_row(*(row[column] for column in columns))
    return table
