"""On a cluster with GPUs, embed tasks, and those before and after, get one each; CPU nodes do not embed.

The raylets claim GPUs that do not exist: a run that would use them is refused, and the model runs on the CPU.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from ray.cluster_utils import Cluster

from tests.support import checks
from tests.support.factories import WORDS, make_shard, members, tiny_open_clip
from tests.support.runs import MADE

pytestmark = pytest.mark.service  # a worker of its own for each GPU takes a while to start

GPUS = 4
LINE = re.compile(r"INFO (\w+): GPU (\d+)$", re.MULTILINE)


@pytest.fixture
def mixed(servers: str) -> Iterator[str]:
    """The address of a cluster of a node with 4 CPUs and one with 8 CPUs and 4 GPUs."""
    small = {"object_store_memory": 80_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "num_gpus": 0, **small})
    cluster.add_node(num_cpus=8, num_gpus=GPUS, object_store_memory=80_000_000)
    yield cluster.address
    cluster.shutdown()


def test_a_mixed_cluster(elsewhere: dict[str, str], mixed: str, tmp_path: Path) -> None:
    config, checkpoint = tiny_open_clip(tmp_path, "able", text=WORDS)
    for shard in range(8):
        make_shard(
            tmp_path / "in", f"{shard:05d}", [(f"{n:08d}", members(20 * shard + n)) for n in range(20)]
        )
    model = {"model": config.stem, "config": str(config), "pretrained": str(checkpoint), "batch_size": 8}
    recipe = {
        "sources": [str(tmp_path / "in")], "output": str(tmp_path / "out"), "encoder": model,
        "work": {"shards_per_task": 1}, "audit": {"queries": 0},
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    logs = tmp_path / "logs"
    environment = {**elsewhere, "MADE_RAY_ADDRESS": mixed, "MADE_LOG_FOLDER": str(logs)}

    def made(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, MADE, "curate", "--recipe", str(tmp_path / "recipe.yaml"), *options]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    refused = made("--set", "work.gpus_per_task=8", "--output", str(tmp_path / "none"))
    assert refused.returncode != 0
    told = " ".join((refused.stdout + refused.stderr).split())
    assert "no node has room for a task of 1 CPU and 8 GPU" in told and "has 8 CPU and 4 GPU" in told

    broken = made("--output", str(tmp_path / "none"))
    assert broken.returncode != 0
    told = " ".join((broken.stdout + broken.stderr).split())
    assert "cannot use the GPU of" in told and "encoder.device: cpu embeds without GPUs" in told

    done = made("--set", "encoder.device=cpu", "--set", "work.gpus_per_task=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"plan: 4 embed workers of 2 CPU and 1 GPU on 2 nodes \((0 on .*, 4|4 on .*, 0) on",
                     " ".join((done.stdout + done.stderr).split()))  # fmt: skip
    assert checks.summary(tmp_path / "out")["samples"]["in"] == 160
    by_stage: dict[str, list[tuple[int, str]]] = {}
    for path in logs.glob("worker-*.log"):
        for stage, gpu in LINE.findall(path.read_text()):
            by_stage.setdefault(stage, []).append((int(path.stem.rpartition("-")[2]), gpu))
    assert by_stage.keys() == {"embed", "captions", "fit"}
    assert len(by_stage["embed"]) == 8, "every embed task, so none was on the node without GPUs"
    assert {gpu for stage in by_stage.values() for _, gpu in stage} <= set(map(str, range(GPUS)))
