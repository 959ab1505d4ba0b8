"""What a job may use of a node."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.pbs import resources
from flows.pbs.resources import Share, share_of, shares
from made_core.errors import UserError


def test_shares_of_exec_vnode() -> None:
    """Chunks and virtual nodes of one host add up."""
    found = shares("(n1:ncpus=24:ngpus=4)+(n2[0]:ncpus=8:mem=1048576kb+n2[1]:ncpus=4:ngpus=1)+(n1:ncpus=2)")
    assert found == {"n1": Share(26, 4), "n2": Share(12, 1)}
    assert shares("") == {}


def test_names_with_and_without_domain() -> None:
    known = {"n1.hpc.example": Share(4, 0), "10.0.0.7": Share(2, 0)}
    assert share_of("n1", known) == share_of("n1.hpc.example", known) == Share(4, 0)
    assert share_of("10.0.0.7", known) == Share(2, 0)
    assert share_of("10.0.0.8", known) == share_of("n2", known) == Share()


@pytest.mark.parametrize(
    ("share", "environment", "cpus"),
    [
        (Share(24, 4), {"NCPUS": "8"}, 24),
        (Share(), {"NCPUS": "8", "SLURM_CPUS_ON_NODE": "4"}, 8),
        (Share(), {"SLURM_CPUS_ON_NODE": "4"}, 4),
        (Share(24, 4), {"MADE_NODE_CPUS": "2"}, 2),
    ],
)
def test_cpus(share: Share, environment: dict[str, str], cpus: int) -> None:
    assert resources.cpus(share, environment) == cpus


@pytest.mark.parametrize("name", ["MADE_NODE_CPUS", "NCPUS", "SLURM_CPUS_ON_NODE", "MADE_NODE_GPUS"])
def test_a_number_that_is_none_names_its_variable(name: str) -> None:
    read = resources.gpus if name == "MADE_NODE_GPUS" else resources.cpus
    with pytest.raises(UserError, match=f"{name}=x: expected a number of .PUs"):
        read(Share(), {name: "x"})


@pytest.mark.parametrize(
    ("share", "environment", "gpus"),
    [
        (Share(24, 4), {}, 4),
        (Share(24, 4), {"CUDA_VISIBLE_DEVICES": "GPU-1,GPU-2"}, 2),  # the cgroups hook knows better
        (Share(24, 0), {"CUDA_VISIBLE_DEVICES": "0,1"}, 0),
        (Share(), {"CUDA_VISIBLE_DEVICES": "0,1"}, 2),
        (Share(), {"CUDA_VISIBLE_DEVICES": ""}, 0),
        (Share(), {"CUDA_VISIBLE_DEVICES": "-1"}, 0),
        (Share(), {}, 3),
        (Share(24, 4), {"MADE_NODE_GPUS": "1"}, 1),
    ],
)
def test_gpus(tmp_path: Path, share: Share, environment: dict[str, str], gpus: int) -> None:
    for n in range(3):
        (tmp_path / "driver" / "nvidia" / "gpus" / str(n)).mkdir(parents=True)
    assert resources.gpus(share, environment, tmp_path) == gpus


def test_the_object_store_fits_into_shm(tmp_path: Path) -> None:
    assert 80 << 20 <= resources.object_store({}) <= 8 << 30
    assert resources.object_store({"MADE_OBJECT_STORE_BYTES": "100000000"}) == 100_000_000
    with pytest.raises(UserError, match="MADE_OBJECT_STORE_BYTES=2GB: expected a number of bytes"):
        resources.object_store({"MADE_OBJECT_STORE_BYTES": "2GB"})


def test_the_shared_memory_of_a_container_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=16384, f_frsize=4096))
    assert resources.object_store({}) == 256 << 20  # more than there is: Ray takes its temporary folder


def test_addresses() -> None:
    assert resources.address("127.0.0.7", "127.0.0.1", {}) == "127.0.0.7"
    assert resources.address("here", "127.0.0.1", {}) == "127.0.0.1"
    assert resources.address("here", None, {"MADE_INTERFACE": "lo"}) == "127.0.0.1"
    with pytest.raises(UserError, match=r"MADE_INTERFACE=ib9: no such network interface .* there are .*lo"):
        resources.address("here", None, {"MADE_INTERFACE": "ib9"})
    with pytest.raises(UserError, match=r"nowhere\.invalid: its address is not known"):
        resources.address("nowhere.invalid", None, {})
