"""The default recipe uses the GPUs that the cluster has; a plan that no node can run is refused."""

from __future__ import annotations

from typing import Any

import pytest

from flows.placement import Node, Resources, of_embed, plan, settled, workers
from made_core.errors import PlanError, UserError
from made_core.recipe import Encoder, Recipe, Work

CPU, GPU = Node("c", 64, 0), Node("g", 24, 4)
CLIP = Encoder(model="ViT-B-32", pretrained="openai")


def recipe(encoder: Encoder = CLIP, **work: Any) -> Recipe:
    """A recipe with these settings."""
    return Recipe(sources=("in",), output="out", encoder=encoder, work=Work(**work))


@pytest.mark.parametrize(
    ("nodes", "work", "expected", "device"),
    [
        ([GPU], {}, Resources(3, 0.5), "cuda"),
        ([CPU, GPU], {}, Resources(3, 0.5), "cuda"),
        ([CPU, GPU, Node("h", 8, 4)], {}, Resources(2, 1), "cuda"),
        ([CPU, GPU, Node("h", 16, 4)], {}, Resources(2, 0.5), "cuda"),
        ([Node("h", 16, 1)], {}, Resources(4, 0.25), "cuda"),
        ([Node("few", 2, 4)], {}, Resources(0.5, 1), "cuda"),
        ([CPU], {}, Resources(1, 0), "cpu"),
        ([CPU], {"cpus_per_task": 4}, Resources(4, 0), "cpu"),
        ([GPU], {"gpus_per_task": 1}, Resources(6, 1), "cuda"),
        ([GPU], {"gpus_per_task": 0.25}, Resources(1, 0.25), "cuda"),
        ([GPU], {"gpus_per_task": 0}, Resources(1, 0), "cpu"),
        ([GPU], {"gpus_per_task": 2, "embed_cpus_per_task": 5}, Resources(5, 2), "cuda"),
    ],
)
def test_settled(nodes: list[Node], work: dict[str, Any], expected: Resources, device: str) -> None:
    found = settled(nodes, recipe(**work))
    assert of_embed(found.work) == expected
    assert found.encoder.device == device
    assert settled(nodes, found) == found
    assert found.work.cpus_per_task == work.get("cpus_per_task", 1)


@pytest.mark.parametrize("encoder", [Encoder(), CLIP.model_copy(update={"device": "cpu"})])
def test_encoders_that_use_no_gpu(encoder: Encoder) -> None:
    assert of_embed(settled([GPU], recipe(encoder)).work) == Resources(1, 0)
    reserved = settled([GPU], recipe(encoder, gpus_per_task=1))
    assert reserved.encoder.device == "cpu" and reserved.work.gpus_per_task == 1


@pytest.mark.parametrize(("share", "expected"), [(0.25, 16), (0.3, 12), (0.6, 4), (1, 4), (3, 1), (8, 0)])
def test_a_part_is_of_one_gpu(share: float, expected: int) -> None:
    assert workers([Node("g", 64, 4)], Resources(1, share)) == expected


@pytest.mark.parametrize(
    ("nodes", "device", "work", "expected"),
    [
        ([CPU], "cuda", {}, "needs a GPU, but no node of the cluster has one"),
        ([GPU], "cuda", {"gpus_per_task": 0}, "needs a GPU, but work.gpus_per_task is 0"),
        (
            [CPU, GPU],
            "auto",
            {"gpus_per_task": 8},
            "task of 1 CPU and 8 GPU: c has 64 CPU and 0 GPU, g has 24",
        ),
        ([GPU], "auto", {"embed_cpus_per_task": 25}, "task of 25 CPU and 0.5 GPU"),
        ([CPU], "auto", {"cpus_per_task": 65}, "task of 65 CPU"),
    ],
)
def test_what_cannot_run_is_refused(
    nodes: list[Node], device: str, work: dict[str, Any], expected: str
) -> None:
    encoder = CLIP.model_copy(update={"device": device})
    with pytest.raises(PlanError, match=expected) as caught:
        settled(nodes, recipe(encoder, **work))
    assert isinstance(caught.value, UserError)


def test_the_plan_names_the_gpu_nodes() -> None:
    work = settled([CPU, GPU], recipe()).work
    first, second = plan([CPU, GPU], work)[:2]
    assert first == "plan: 8 embed workers of 3 CPU and 0.5 GPU on 2 nodes (0 on c, 8 on g)"
    assert second == "plan: 88 workers of 1 CPU in other stages"
