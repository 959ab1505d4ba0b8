"""`made models`: open_clip's models, and whether stored images suffice for them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.app import app

SAMPLE = 2000  # images whose sizes `--for` reads


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
        Path | None, typer.Option("--for", help="Folder of shards: do its images suffice for each model?")
    ] = None,
) -> None:
    """List open_clip's models: size, parameters, operations; the smallest first. All take a minute."""
    if context.invoked_subcommand is not None:
        return
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    from made_core.embed import model_facts, stored_sizes
    from made_core.embed.model_facts import ModelFacts
    from made_core.errors import EncoderError
    from made_core.ingest import discovery

    names = model_facts.names(tuple(patterns or ()))
    stored = None
    if folder is not None:
        shards = discovery.discover((str(folder),), require_stats=False).shards
        stored = stored_sizes.read([Path(s.url) for s in shards], SAMPLE)
    found: list[ModelFacts] = []
    failed: list[str] = []
    console = Console()
    for name in track(names, "counting", console=Console(stderr=True), transient=True):
        try:
            found.append(model_facts.facts(name))
        except EncoderError as error:
            failed.append(str(error))

    table = Table()
    columns = ("model", "pixels", "patch", "layers", "width", "heads", "image M", "both M", "GFLOP", "dim")
    for column in (*columns, *(("enlarged", "img2dataset arguments") if stored else ())):
        table.add_column(column, justify="left" if column in ("model", "img2dataset arguments") else "right",
                         no_wrap=column == "model")  # fmt: skip
    for each in sorted(found, key=lambda f: f.flops):
        shape = (each.image_size, each.patch, each.layers, each.width, each.heads)
        cells = [each.name, *("-" if value is None else f"{value}" for value in shape)]
        cells += [f"{value / 1e6:.1f}" for value in (each.image_parameters, each.parameters)]
        cells += [f"{each.flops / 1e9:.1f}", f"{each.dim}"]
        if stored:
            cells += [
                f"{stored.enlarged(each.image_size):.1%}",
                f"image_size={each.image_size} resize_mode=keep_ratio",
            ]
        table.add_row(*cells)
    if stored:
        sides = stored.shorter
        marks = (
            {f"{p} %": sides[min(len(sides) - 1, p * len(sides) // 100)] for p in (0, 5, 50, 95)}
            if sides
            else {}
        )
        console.print(
            f"{len(sides):,} images of {folder}, resize mode: {stored.resize_mode}", highlight=False
        )
        text = ", ".join(f"{share} {side}" for share, side in marks.items())
        console.print(f"shorter sides, pixels at percentiles: {text}", highlight=False)
    console.print(table)
    for text in failed:
        console.print(f"left out: {text}", highlight=False, style="dim")
    if not found:
        raise EncoderError("none of these models can be built")
