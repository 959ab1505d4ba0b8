"""Models are counted on their own configurations; stored sizes say whether images suffice."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from flows.cli.models import models as command
from made_core.embed import model_facts, models, stored_sizes
from made_core.embed.stored_sizes import StoredSizes
from made_core.errors import EncoderError
from made_core.io import files
from tests.support.factories import encoded_image, make_shard


@pytest.mark.parametrize(
    ("name", "shape", "image", "both", "gflop"),
    [
        ("ViT-B-32", (224, 32, 12, 768, 12), 87.8, 151.3, 8.8),
        ("ViT-B-16", (224, 16, 12, 768, 12), 86.2, 149.6, 35.1),
        ("ViT-L-14", (224, 14, 24, 1024, 16), 304.0, 427.6, 162.0),
        ("ViT-L-14-336", (336, 14, 24, 1024, 16), 304.3, 427.9, 381.9),
        ("ViT-H-14", (224, 14, 32, 1280, 16), 632.1, 986.1, 334.6),
    ],
)
def test_vits(name: str, shape: tuple[int, ...], image: float, both: float, gflop: float) -> None:
    found = model_facts.facts(name)
    assert (found.image_size, found.patch, found.layers, found.width, found.heads) == shape
    assert round(found.image_parameters / 1e6, 1) == image
    assert round(found.parameters / 1e6, 1) == both
    assert round(found.flops / 1e9, 1) == gflop
    # A ViT's products, by hand: twelve width^2 weights a layer, and the attention over all tokens.
    size, patch, layers, width, _ = shape
    tokens = (size // patch) ** 2 + 1
    by_hand = layers * 2 * tokens * width * (12 * width + 2 * tokens)
    assert found.flops == pytest.approx(by_hand, rel=0.03)


def test_a_resnet_has_no_patches() -> None:
    found = model_facts.facts("RN50")
    assert (found.patch, found.layers, found.heads) == (None, None, None)
    assert round(found.parameters / 1e6, 1) == 102.0


def test_names() -> None:
    assert model_facts.names(("ViT-B-32", "ViT-B-*")).count("ViT-B-32") == 1
    assert model_facts.names() == models.names()
    assert len(models.names()) > 50
    with pytest.raises(EncoderError, match=r"no model ViT-B32; did you mean .*ViT-B-32"):
        model_facts.names(("ViT-B32",))


def test_a_model_that_cannot_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Please `pip install transformers`\nto use it")

    monkeypatch.setattr("open_clip.create_model", fail)
    with pytest.raises(
        EncoderError, match="ViT-B-32 cannot be built: Please `pip install transformers` to use it"
    ):
        model_facts.facts("ViT-B-32")


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(256, 256)] * 10, "center_crop or border, image_size=256"),
        ([(256, 300 + i) for i in range(10)], "keep_ratio, image_size=256"),
        ([(512, 200 + i) for i in range(9)] + [(80, 60)], "keep_ratio_largest, image_size=512: 90%"),
        ([(100 + i, 300 - i) for i in range(10)], "nothing in common"),
        ([], "no readable image"),
    ],
)
def test_resize_mode(sizes: list[tuple[int, int]], expected: str) -> None:
    assert expected in StoredSizes(tuple(sizes)).resize_mode


def test_enlarged() -> None:
    found = StoredSizes(((224, 500), (223, 500), (500, 100), (300, 300)))
    assert found.enlarged(224) == 0.5
    assert StoredSizes(()).enlarged(224) == 0


def test_sizes_are_read_from_headers(tmp_path: Path) -> None:
    samples = [(f"{i}", {"jpg": encoded_image(0, (64 + i, 48))}) for i in range(6)]
    samples += [("bad", {"jpg": b"x"}), ("none", {"txt": b"x"})]
    urls = [str(make_shard(tmp_path, name, samples)) for name in ("0", "1")]
    assert stored_sizes.read(urls, 100).sizes == tuple((64 + i, 48) for i in range(6)) * 2
    assert 2 <= len(stored_sizes.read(urls, 4).sizes) <= 4


def test_few_of_many_shards_are_read() -> None:
    """From the first to nearly the last: a tar of 10,000 samples takes half a second, and a download."""
    urls = [f"{n:05}.tar" for n in range(1280)]
    drawn = stored_sizes.drawn(urls)
    assert len(drawn) == stored_sizes.SHARDS and drawn[0] == "00000.tar" and drawn[-1] == "01120.tar"
    assert stored_sizes.drawn(urls[:8]) == urls[:8]


@pytest.mark.integration
def test_shards_in_an_object_store(s3: str, tmp_path: Path) -> None:
    path = make_shard(tmp_path, "0", [("0", {"jpg": encoded_image(0, (300, 256))})])
    fs, root = files.filesystem(s3)
    fs.pipe_file(f"{root}/0.tar", path.read_bytes())
    found = CliRunner().invoke(command, ["--name", "ViT-B-32", "--for", s3])
    assert found.exit_code == 0 and f"1 images of {s3}, resize mode: keep_ratio" in found.output


def test_the_command(tmp_path: Path) -> None:
    """Without a terminal nothing is cut, however few columns the environment names."""
    found = models_for(tmp_path)
    row = next(line for line in found.splitlines() if "ViT-B-32" in line)
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells == ["ViT-B-32", "224", "32", "12", "768", "12", "87.8", "151.3", "8.8", "512", "10.0%"]
    assert "10 images" in found and "…" not in found
    assert "keep_ratio, image_size=256" in found


def test_a_narrow_terminal_shows_fewer_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.cli.models.console", lambda: Console(width=80))
    found = models_for(tmp_path, "--name", "ViT-SO400M-16-SigLIP2-384")
    assert "…" not in found and max(map(len, found.splitlines()[2:-1])) <= 80
    row = next(line for line in found.splitlines() if "ViT-SO400M" in line)
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells[:2] == ["ViT-SO400M-16-SigLIP2-384", "384"] and cells[-1] == "100.0%"
    assert "not shown in a terminal of 80 columns: heads, width" in found
    assert "image_size=PIXELS resize_mode=keep_ratio" in found


def models_for(folder: Path, *arguments: str) -> str:
    """The output of `made models` for a folder with ten small images, at 80 columns."""
    make_shard(folder, "0", [(f"{i}", {"jpg": encoded_image(0, (300 if i else 80, 256))}) for i in range(10)])
    found = CliRunner().invoke(
        command, ["--name", "ViT-B-32", "--for", str(folder), *arguments], env={"COLUMNS": "80"}
    )
    assert found.exit_code == 0, found.output
    return found.output
