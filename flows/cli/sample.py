"""`made sample`: a synthetic data set to try made with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.app import app


@app.command()
def sample(
    folder: Annotated[Path, typer.Argument(help="Folder to create; if it exists, it must be empty.")],
    samples: Annotated[int, typer.Option(min=20, help="Number of samples.")] = 400,
    shards: Annotated[int, typer.Option(min=1, help="Number of shards.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
) -> None:
    """Write synthetic shards in img2dataset's format, with planted duplicates and the ground truth."""
    from made_core.errors import OutputError, UserError
    from made_core.sample.write import write_sample

    if shards > samples:
        raise UserError(f"--shards {shards}: allowed: up to the number of samples, {samples}")
    try:
        if folder.exists() and any(folder.iterdir()):
            raise OutputError(f"{folder} is not empty: name another folder")
        write_sample(folder, samples=samples, shards=shards, seed=seed)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror}; name another folder") from None
    print(f"{samples} samples in {shards} shards: {folder / 'shards'}")
    print(f"ground truth: {folder / 'truth.json'}")
