"""`auto` is settled by what this machine does; explicit settings are kept."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from made_core import recipe
from made_core.embed import encoder, preprocessing, settle
from made_core.errors import EncoderError
from tests.support.factories import WORDS, tiny_open_clip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Fields of the recipe for the tiny model on the CPU."""
    config, checkpoint = tiny_open_clip(tmp_path_factory.mktemp("tiny"))
    return {"model": "tiny", "config": str(config), "pretrained": str(checkpoint), "device": "cpu",
            "captions": "skip"}  # fmt: skip


def timed(monkeypatch: pytest.MonkeyPatch, product: float, *seconds: float) -> None:
    """Sets the speed of a product in bf16 and the seconds of a batch in fp32 and in bf16."""
    left = iter(seconds)
    monkeypatch.setattr(settle, "product_speed", lambda _: product)
    monkeypatch.setattr(settle, "_seconds", lambda _: next(left))


@pytest.mark.parametrize(
    ("product", "seconds", "expected"),
    [(0.1, (), "fp32"), (1.1, (), "fp32"), (2.0, (1.0, 0.9), "fp32"), (2.0, (1.0, 0.5), "bf16")],
)
def test_bf16_where_it_is_faster(
    monkeypatch: pytest.MonkeyPatch,
    tiny: dict[str, Any],
    product: float,
    seconds: tuple[float, ...],
    expected: str,
) -> None:
    timed(monkeypatch, product, *seconds)
    found = settle.settle(recipe.Encoder(**tiny))
    assert (found.section.precision, found.section.batch_size, found.warning) == (expected, 8, None)
    assert settle.settle(found.section).section == found.section


def test_not_bf16_where_rows_differ(monkeypatch: pytest.MonkeyPatch, tiny: dict[str, Any]) -> None:
    timed(monkeypatch, 2.0, 1.0, 0.5)
    monkeypatch.setattr(settle, "COSINE", 1.1)
    assert settle.settle(recipe.Encoder(**tiny)).section.precision == "fp32"


def test_explicit_bf16_without_instructions_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, tiny: dict[str, Any]
) -> None:
    timed(monkeypatch, 0.11)
    found = settle.settle(recipe.Encoder(**tiny, precision="bf16"))
    assert found.section.precision == "bf16"
    assert found.warning is not None
    assert "bf16 run at 0.11 of the speed of fp32" in found.warning
    timed(monkeypatch, 2.0)
    assert settle.settle(recipe.Encoder(**tiny, precision="bf16")).warning is None


def test_weights_that_may_be_seen_in_another_way_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, tiny: dict[str, Any]
) -> None:
    monkeypatch.setattr(preprocessing, "doubt", lambda section: f"{section.model} is in doubt")
    timed(monkeypatch, 0.11)
    found = settle.settle(recipe.Encoder(**tiny, precision="bf16")).warning or ""
    assert "speed of fp32" in found and found.endswith("; tiny is in doubt")


def test_this_processor(tiny: dict[str, Any]) -> None:
    """Whatever is chosen, it is measured."""
    assert settle.product_speed(torch.bfloat16) > 0
    assert settle.settle(recipe.Encoder(**tiny)).section.precision in ("fp32", "bf16")


def test_speed_is_relative_to_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {torch.float32: 3.0, torch.bfloat16: 1.5}
    monkeypatch.setattr(settle, "_seconds", lambda product: seconds[product().dtype])
    assert settle.product_speed(torch.bfloat16) == 2
    assert settle.product_speed(torch.float32) == 1


def test_built_in_encoders_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle, "product_speed", None)
    assert settle.settle(recipe.Encoder(device="cpu")).section.batch_size == 32


@pytest.mark.parametrize(("room", "expected"), [(1000, 256), (100, 64), (1, 1)])
def test_the_batch_fits_in_memory(tiny: dict[str, Any], room: int, expected: int) -> None:
    def load(section: recipe.Encoder) -> encoder.Encoder:
        def forward(batch: torch.Tensor) -> torch.Tensor:
            if len(batch) > room:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return torch.ones(len(batch), 4)

        loaded = encoder.load(section)
        return replace(loaded, forward=forward)

    section = encoder.resolve(recipe.Encoder(**tiny, batch_size=256))
    assert settle.fitting(section, load).batch_size == expected


@pytest.mark.usefixtures("no_cache")
def test_a_smaller_batch_is_tried_without_the_model_before(
    monkeypatch: pytest.MonkeyPatch, tiny: dict[str, Any]
) -> None:
    """Two of them may not fit where one does."""
    alive: list[weakref.ref[torch.Tensor]] = []

    def load(section: recipe.Encoder) -> encoder.Encoder:
        gc.collect()
        assert not [weights for weights in alive if weights() is not None]
        weights = torch.ones(4)
        alive.append(weakref.ref(weights))

        def forward(batch: torch.Tensor) -> torch.Tensor:
            if len(batch) > 64:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return weights.expand(len(batch), 4)

        return replace(real(section), forward=forward)

    real = encoder._open_clip
    monkeypatch.setattr(encoder, "_open_clip", load)
    section = encoder.resolve(recipe.Encoder(**tiny, batch_size=256))
    assert settle.fitting(section).batch_size == 64
    assert len(alive) == 3


def test_a_model_that_does_not_fit(tiny: dict[str, Any]) -> None:
    def load(_: recipe.Encoder) -> encoder.Encoder:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(EncoderError, match="tiny does not fit in the memory of the cpu device"):
        settle.fitting(encoder.resolve(recipe.Encoder(**tiny)), load)


def test_the_images_are_the_same_each_time() -> None:
    first, second = settle._images(3, 32), settle._images(3, 32)
    assert np.array_equal(first, second)
    assert first[0].dtype == np.uint8
    assert len(np.unique(first)) > 100


def test_the_batch_of_captions_fits_too(tmp_path: Path) -> None:
    """It may take more memory than that of the images: it has four times as many sequences."""
    config, checkpoint = tiny_open_clip(tmp_path, "able", text=WORDS)
    fields = {"model": "able", "config": str(config), "pretrained": str(checkpoint), "device": "cpu"}
    seen: list[torch.Size] = []

    def load(section: recipe.Encoder) -> encoder.Encoder:
        def forward(tokens: torch.Tensor) -> torch.Tensor:
            seen.append(tokens.shape)
            if len(tokens) > 100:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return torch.ones(len(tokens), 4)

        loaded = encoder.load(section)
        assert loaded.text is not None
        return replace(loaded, text=replace(loaded.text, forward=forward))

    section = encoder.resolve(recipe.Encoder(**fields, batch_size=64, captions="embed"))
    assert settle.fitting(section, load).batch_size == 16
    tower = encoder.load(section).text
    assert tower is not None
    whole = tower.tokenize(["a"]).shape[1]
    assert seen == [(256, whole), (128, whole), (64, whole)]


@pytest.mark.usefixtures("no_cache")
def test_weights_that_do_not_fit(monkeypatch: pytest.MonkeyPatch, tiny: dict[str, Any]) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    section = encoder.resolve(recipe.Encoder(**tiny)).model_copy(update={"device": "cuda"})
    monkeypatch.setattr("open_clip.create_model_and_transforms", full)
    with pytest.raises(EncoderError, match="does not fit in the memory of the cuda device; work"):
        encoder.load(section)


CLIP = recipe.Encoder(model="ViT-B-32", pretrained="openai", device="cuda")


@pytest.mark.parametrize(
    ("gpus", "gigabytes", "expected"),
    [("auto", 80, []), (0, 80, []), (1, 80, [1.0]), (2, 80, [1.0]), (0.25, 80, [0.225]), (0.5, 80, [0.45]),
     (0.25, 10, [0.19]), (0.25, 16, [0.2125]), (0.25, 2, [0.01])],
)  # fmt: skip
def test_tasks_that_share_a_gpu_share_its_memory(
    monkeypatch: pytest.MonkeyPatch, gpus: float | Literal["auto"], gigabytes: int, expected: list[float]
) -> None:
    """With what CUDA takes for each process beside: of a small GPU, or a part of one, more than a tenth."""
    limits: list[float] = []
    monkeypatch.setattr(encoder, "_use_gpu", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, gigabytes * 10**9))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limits.append)
    encoder.take_gpu(CLIP, recipe.Work(gpus_per_task=gpus))
    assert limits == pytest.approx(expected)
    encoder.take_gpu(CLIP.model_copy(update={"device": "cpu"}), recipe.Work(gpus_per_task=gpus))
    assert len(limits) == len(expected)


@pytest.mark.parametrize("error", ["The NVIDIA driver on your system is too old", "no kernel image"])
def test_a_gpu_that_does_not_work_is_named(monkeypatch: pytest.MonkeyPatch, error: str) -> None:
    def fails() -> None:
        raise RuntimeError(f"{error}\nCompile with `TORCH_USE_CUDA_DSA`")

    monkeypatch.setattr(encoder, "_use_gpu", fails)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1")
    with pytest.raises(EncoderError, match=f"cannot use the GPU of .*=MIG-1.*{error}.*device: cpu"):
        encoder.take_gpu(CLIP, recipe.Work(gpus_per_task=0.25))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(EncoderError, match=r"PyTorch .* cannot use the GPU of"):
        encoder.take_gpu(CLIP, recipe.Work(gpus_per_task=1))
