"""Input, store and output in an object store give the same bytes as local folders."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import boto3
import pyarrow.parquet as pq
import pytest

from flows.why import explain
from made_core.errors import MadeError, OutputError
from made_core.sample.write import write_sample
from tests.support import checks
from tests.support.runs import Curate, events

IN, STORE, OUT = "made-in", "made-store", "made-out"
SOURCE = f"s3://{IN}/laion 5b/shards"


class Cloud:
    """The local sample and its run, the same in the object store, and a separate client to inspect it."""

    def __init__(self, folder: Path) -> None:
        self.client = boto3.client("s3")
        for bucket in (IN, STORE, OUT):
            self.client.create_bucket(Bucket=bucket)
        write_sample(folder, samples=120, shards=3, seed=5)
        self.folder = folder
        for path in self.shards.iterdir():
            self.client.put_object(Bucket=IN, Key=f"laion 5b/shards/{path.name}", Body=path.read_bytes())
        self.given = self.stamps(IN)
        self.local = folder / "output"
        self.summary: dict[str, Any] = {}

    @property
    def shards(self) -> Path:
        return self.folder / "shards"

    def stamps(self, bucket: str) -> dict[str, tuple[str, Any]]:
        """key -> (digest of the content, time of the put)."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        items = [item for page in pages for item in page.get("Contents", [])]
        return {item["Key"]: (item["ETag"], item["LastModified"]) for item in items}

    def read(self, bucket: str, key: str) -> bytes:
        """An object's content."""
        content: bytes = self.client.get_object(Bucket=bucket, Key=key)["Body"].read()
        return content

    def outcome(self, name: str) -> dict[str, bytes]:
        """The files of an output that must not depend on any location."""
        keys = [k.removeprefix(f"{name}/") for k in self.stamps(OUT) if k.startswith(f"{name}/")]
        return stable({k: self.read(OUT, f"{name}/{k}") for k in keys})

    def download(self, bucket: str, prefix: str, folder: Path) -> Path:
        """A copy of all objects below a prefix."""
        for key in (k for k in self.stamps(bucket) if k.startswith(prefix)):
            path = folder / key.removeprefix(prefix).lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.read(bucket, key))
        return folder


def stable(found: dict[str, bytes]) -> dict[str, bytes]:
    """Decisions, shards and keep lists; the shards' tables without the source URL."""
    result = {}
    for name, data in found.items():
        if name.startswith("shards/") and name.endswith(".parquet"):
            table = pq.read_table(io.BytesIO(data)).drop_columns(["source_url"])
            result[name] = repr(table.to_pylist()).encode()
        elif name.startswith(("decisions/", "shards/", "keep.")):
            result[name] = data
    return result


def local_outcome(output: Path) -> dict[str, bytes]:
    """`Cloud.outcome` of a local folder."""
    paths = [p for p in output.rglob("*") if p.is_file()]
    return stable({p.relative_to(output).as_posix(): p.read_bytes() for p in paths})


@pytest.fixture(scope="module")
def cloud(servers: str, tmp_path_factory: pytest.TempPathFactory) -> Cloud:
    """The sample curated locally and in the object store."""
    from flows.curate import curate as flow
    from made_core.recipe_file import validate

    made = Cloud(tmp_path_factory.mktemp("cloud"))
    flow(validate({"sources": [str(made.shards)], "output": str(made.local)}, "the test"))
    made.summary = flow(validate(recipe(SOURCE, name="first"), "the test")).document()
    return made


def recipe(*sources: str, name: str, **parts: Any) -> dict[str, Any]:
    """A recipe whose store and output are in the object store."""
    place = {"output": f"s3://{OUT}/{name}", "store": f"s3://{STORE}/store"}
    return {"sources": list(sources), **place, **parts}


@pytest.fixture
def run(curate: Curate) -> Curate:
    """Runs the flow on the object store's output `name`."""

    def run(*sources: str, name: str, **parts: Any) -> dict[str, Any]:
        from flows.curate import curate as flow
        from made_core.recipe_file import validate

        return flow(validate(recipe(*sources, name=name, **parts), "the test")).document()

    return run


def test_output_equals_a_local_one(cloud: Cloud, tmp_path: Path) -> None:
    assert cloud.outcome("first") == local_outcome(cloud.local)
    assert not [k for k in cloud.stamps(OUT) if "/.parts/" in k]
    copy = cloud.download(OUT, "first", tmp_path / "out")
    store = cloud.download(STORE, "store", tmp_path / "store")
    source = {t.stem: t for t in cloud.shards.glob("*.tar")}
    checks.accounts_balance(copy, source)
    assert checks.bytes_equal(copy, source) == cloud.summary["samples"]["kept"] < 120
    assert checks.representatives_stand(copy, store) == cloud.summary["promise"]["checked"] > 10
    checks.keep_lists(copy)
    listing = pq.read_table(copy / "shards" / "00000000.parquet")
    assert set(listing["source_url"].to_pylist()) == {f"{SOURCE}/0000{n}.tar" for n in range(3)}


def test_second_run_recomputes_nothing(servers: str, cloud: Cloud, run: Curate) -> None:
    before, done = [cloud.stamps(b) for b in (STORE, OUT)], events(servers, cloud.summary["run"])
    assert run(SOURCE, name="first") == cloud.summary
    assert [cloud.stamps(b) for b in (STORE, OUT)] == before
    assert events(servers, cloud.summary["run"]) == done


def test_why(cloud: Cloud, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    rows = checks.decisions(cloud.local)
    kept = {r["uid"]: r for r in rows if r["kept"]}
    gone = next(r for r in rows if r["reason"] == "near_duplicate")
    explain(f"s3://{OUT}/first", gone["uid"])
    told = capsys.readouterr().out
    assert f"{SOURCE}/{gone['shard']}.tar, key {gone['key']}" in told
    assert f"s3://{OUT}/first/shards/{kept[gone['represented_by']]['output_shard']}.tar" in told
    with pytest.raises(OutputError, match="not the output of a finished run"):
        explain(f"s3://{OUT}/none", gone["uid"])


@pytest.mark.parametrize("pattern", ["*.tar", "{00000..00002}.tar", "0000[0-2].tar"])
def test_patterns(servers: str, cloud: Cloud, run: Curate, pattern: str) -> None:
    before = events(servers, cloud.summary["run"])
    summary = run(f"{SOURCE}/{pattern}", name=f"pattern {pattern.strip('*')}")
    assert cloud.outcome(f"pattern {pattern.strip('*')}") == local_outcome(cloud.local)
    assert events(servers, summary["run"])["embed"] == before["embed"]


def test_local_and_remote_shards_of_equal_names(cloud: Cloud, run: Curate, tmp_path: Path) -> None:
    """One folder is a copy of the other; the store is local."""
    shutil.copytree(cloud.shards, tmp_path / "in")
    summary = run(SOURCE, str(tmp_path / "in"), name="mixed", store=str(tmp_path / "store"))
    samples = summary["samples"]
    assert samples["in"] == 240 and samples["dropped"]["repeated_uid"] == 120
    copy = cloud.download(OUT, "mixed", tmp_path / "out")
    accounts = pq.read_table(copy / "accounts.parquet").to_pylist()
    assert len({a["shard"] for a in accounts}) == len(accounts) == 6
    assert {a["url"].startswith("s3://") for a in accounts} == {True, False}
    checks.bytes_equal(copy, {a["shard"]: cloud.shards / Path(a["url"]).name for a in accounts})


def test_a_damaged_object_is_found(cloud: Cloud, run: Curate) -> None:
    """Damage that keeps the size is found when the rows are read, by fit or assign."""
    key = next(k for k in cloud.stamps(STORE) if k.startswith("store/embeddings/") and k.endswith(".npy"))
    whole = cloud.read(STORE, key)
    cloud.client.put_object(Bucket=STORE, Key=key, Body=whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        with pytest.raises(MadeError, match=rf"{key} has crc32"):
            run(SOURCE, name="damaged", clusters={"k": 5})
    finally:
        cloud.client.put_object(Bucket=STORE, Key=key, Body=whole)


def test_input_and_output_are_kept_apart(cloud: Cloud, run: Curate) -> None:
    for place in ({"output": f"{SOURCE}/out"}, {"store": f"{SOURCE}/store"}):
        with pytest.raises(OutputError, match="source"):
            run(SOURCE, name="apart", **place)
    cloud.client.put_object(Bucket=OUT, Key="theirs/thesis.txt", Body=b"precious")
    with pytest.raises(OutputError, match=r"thesis\.txt"):
        run(SOURCE, name="theirs")


def test_replace_takes_an_output_over(cloud: Cloud) -> None:
    from flows.curate import curate as flow
    from made_core.recipe_file import validate

    small = recipe(SOURCE, name="replaced", writing={"samples_per_shard": 20})
    flow(validate(small, "the test"))
    assert len([k for k in cloud.stamps(OUT) if k.startswith("replaced/shards/") and k.endswith(".tar")]) > 3
    flow(validate(recipe(SOURCE, name="replaced"), "the test"), replace=True)
    assert cloud.outcome("replaced") == local_outcome(cloud.local)


def test_input_is_never_written(cloud: Cloud) -> None:
    """Checked after all runs above."""
    assert cloud.stamps(IN) == cloud.given
