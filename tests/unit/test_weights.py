"""`made models fetch`, without a network."""

from __future__ import annotations

from pathlib import Path

import open_clip.pretrained
import pytest

from flows.weights import fetch
from made_core.embed import preprocessing
from made_core.errors import EncoderError, RecipeError, UserError
from made_core.recipe import Encoder


def downloaded(cache_dir: str | None, size: int = 0) -> str:
    """Weights of a URL: open_clip puts them into the folder itself."""
    assert cache_dir is not None
    path = Path(cache_dir, "weights.pt")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(size))
    return str(path)


def test_weights_go_to_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def download(config: dict[str, object], cache_dir: str | None) -> str:
        assert cache_dir == str(tmp_path / "ViT-B-32-laion2b_s34b_b79k") and config
        return downloaded(cache_dir, 3 << 20)

    monkeypatch.setattr(open_clip.pretrained, "download_pretrained", download)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("encoder: {model: ViT-B-32, pretrained: laion2b_s34b_b79k}\n")
    fetch(str(recipe), None, None, tmp_path)
    printed = capsys.readouterr().out
    assert f"{tmp_path}/ViT-B-32-laion2b_s34b_b79k/weights.pt (3 MiB)" in printed
    assert "encoder.pretrained: " in printed


def test_the_preprocessing_of_a_tag_goes_beside_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read by its name, a file of these weights would be seen with OpenAI's mean; others keep theirs."""
    monkeypatch.setattr(
        open_clip.pretrained, "download_pretrained", lambda config, cache_dir: downloaded(cache_dir)
    )
    fetch(None, "ViT-B-32", "openai", tmp_path)
    fetch(None, "ViT-L-14", "laion2b_s32b_b82k", tmp_path)
    folder = tmp_path / "ViT-L-14-laion2b_s32b_b82k"
    named = Encoder(model="ViT-L-14", pretrained=str(folder / "weights.pt"))
    assert preprocessing.of(named).mean == (0.5, 0.5, 0.5)
    other = Encoder(model="ViT-B-32", pretrained=str(tmp_path / "ViT-B-32-openai" / "weights.pt"))
    assert preprocessing.of(other).mean == pytest.approx((0.481, 0.458, 0.408), abs=1e-3)
    (folder / "open_clip_config.json").write_text('{"preprocess_cfg": {"resize_mode": "longest"}}')
    fetch(None, "ViT-L-14", "laion2b_s32b_b82k", tmp_path)
    assert preprocessing.of(named).resize_mode == "longest", "the repository's own is kept"


def test_without_internet(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object, **__: object) -> str:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(open_clip.pretrained, "download_pretrained", download)
    with pytest.raises(EncoderError, match=r"cannot be downloaded .*Network is unreachable.*HTTPS_PROXY"):
        fetch(None, "ViT-B-32", "openai", None)


def test_what_needs_no_download(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.pt").touch()
    fetch(None, "perceptual", None, None)
    fetch(None, "ViT-B-32", str(tmp_path / "own.pt"), None)
    printed = capsys.readouterr().out
    assert "perceptual needs no weights" in printed and "own.pt is a file already" in printed


def test_mistakes() -> None:
    with pytest.raises(UserError, match="name a model"):
        fetch(None, None, None, None)
    with pytest.raises(RecipeError, match="needs `pretrained`"):
        fetch(None, "ViT-B-32", None, None)
    with pytest.raises(EncoderError, match="has no tag nonsense"):
        fetch(None, "ViT-B-32", "nonsense", None)
