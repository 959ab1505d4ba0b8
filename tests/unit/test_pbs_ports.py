"""Blocks of ports."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from flows.pbs.ports import BLOCK, claim

ADDRESS = "127.0.0.9"


def test_two_jobs_never_have_one_block(tmp_path: Path) -> None:
    first = claim(ADDRESS, 20, folder=tmp_path)
    second = claim(ADDRESS, 20, folder=tmp_path)
    assert not set(first) & set(second) and len(list(first)) == BLOCK
    low, high = first.workers
    assert first.first < low < high < first.stop and high - low >= 20
    first.release()
    assert claim(ADDRESS, 20, folder=tmp_path).first == first.first
    second.release()
    assert len(list(tmp_path.iterdir())) == 1  # of the third


def test_many_workers_take_several_blocks(tmp_path: Path) -> None:
    block = claim(ADDRESS, 600, folder=tmp_path)
    low, high = block.workers
    assert high - low + 1 >= 600 and len(list(tmp_path.iterdir())) == 3
    block.release()
    assert not list(tmp_path.iterdir())


@pytest.mark.integration
def test_a_port_in_use_is_not_claimed(tmp_path: Path) -> None:
    first = claim(ADDRESS, 20, folder=tmp_path)
    first.release()
    with socket.create_server((ADDRESS, first.first + 100)):
        assert claim(ADDRESS, 20, folder=tmp_path).first != first.first


def test_a_killed_process_frees_its_block(tmp_path: Path) -> None:
    """But not while a child of it, the janitor, lives."""
    reader, writer = os.pipe()
    parent = os.fork()
    if parent == 0:
        block = claim(ADDRESS, 20, folder=tmp_path)
        child = os.fork()
        if child:
            os.write(writer, f"{block.first} {child}\n".encode())
        signal.pause()
        os._exit(0)
    first, child = map(int, os.read(reader, 100).split())
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    other = claim(ADDRESS, 20, folder=tmp_path)
    assert other.first != first
    descriptor = os.pidfd_open(child)
    os.kill(child, signal.SIGKILL)
    import select

    select.select([descriptor], [], [], 60)
    for opened in (descriptor, reader, writer):
        os.close(opened)
    assert claim(ADDRESS, 20, folder=tmp_path).first == first
