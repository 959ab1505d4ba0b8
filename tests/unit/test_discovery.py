"""Which tars are shards, their ids, and when two shards are the same."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from made_core.errors import SourceError
from made_core.ingest import discovery
from made_core.types import Shard
from tests.support.factories import make_shard, members, stats


def found(*sources: object, require_stats: bool = True) -> tuple[Shard, ...]:
    """The shards of sources."""
    return discovery.discover([str(s) for s in sources], require_stats).shards


def ids(*sources: object, require_stats: bool = True) -> list[str]:
    """Their ids."""
    return [s.id for s in found(*sources, require_stats=require_stats)]


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A folder with shards 00000 to 00002 and other files."""
    folder = tmp_path / "job"
    for i in range(3):
        make_shard(folder, f"{i:05d}", [(f"{i}{j}", members(10 * i + j)) for j in range(i + 1)])
    (folder / "_tmp").mkdir()
    (folder / "notes.txt").write_text("x")
    return folder


ALL = ["00000", "00001", "00002"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{job}", ALL),
        ("{job}/", ALL),
        ("{job}/../job/./", ALL),
        ("file://{job}", ALL),
        ("{job}/*.tar", ALL),
        ("{job}/*", ALL),
        ("{job}/0000[02].tar", ["00000", "00002"]),
        ("{job}/?000?.tar", ALL),
        ("{job}/{00000..00002}.tar", ALL),
        ("{job}/{00000,00002}.tar", ["00000", "00002"]),
        ("file://{job}/{00000..00001}.tar", ["00000", "00001"]),
        ("{job}/00001.tar", ["00001"]),
        ("{parent}/j{a,ob}/0000{1..2}.tar", None),
        ("{parent}/j{ob,ob}", ALL),
        ("{parent}/{job,job}/*.tar", ALL),
        ("{parent}/*/*.tar", ALL),
    ],
)
def test_forms_of_a_source(job: Path, source: str, expected: list[str] | None) -> None:
    source = source.replace("{job}", str(job)).replace("{parent}", str(job.parent))
    if expected is None:
        with pytest.raises(SourceError, match=r"no such folder: .*/ja"):
            found(source)
    else:
        assert ids(source) == expected


def test_fields_of_a_shard(job: Path) -> None:
    one = found(job)[1]
    assert one.url == str(job / "00001.tar")
    assert one.size == (job / "00001.tar").stat().st_size
    assert one.expected == 2
    assert len(one.fingerprint) == 32


def test_relative_and_home_paths(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(job.parent)
    monkeypatch.setenv("HOME", str(job.parent))
    assert found("job") == found("~/job") == found("./job/*.tar") == found(job)


def test_tars_that_are_links(job: Path, tmp_path: Path) -> None:
    """A folder of links to chosen shards, as of several jobs; a link that leads nowhere is no shard."""
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    for file in job.glob("0000[12]*"):
        (chosen / file.name).symlink_to(file)
    (chosen / "00003.tar").symlink_to(tmp_path / "gone")
    shutil.copy(job / "00000.tar", chosen)
    shutil.copy(job / "00000_stats.json", chosen)
    for source in (chosen, f"{chosen}/0000[012].tar", f"{chosen}/{{00000..00002}}.tar"):
        shards = found(source)
        assert [s.fingerprint for s in shards] == [s.fingerprint for s in found(job)]
        assert [s.size for s in shards] == [s.size for s in found(job)]


def test_given_twice_is_once(job: Path) -> None:
    assert found(job, f"{job}/", job / "*.tar", job / "00001.tar") == found(job)


def test_other_content_under_the_same_names(job: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    make_shard(other, "00000", [("0", members(77))])
    make_shard(other, "00007", [("0", members(78))])
    both = found(job, other)
    assert both == found(other, job)
    assert len({s.id for s in both}) == 5
    assert [s.id for s in both if s.url.endswith("00000.tar")] == [
        f"00000-{s.fingerprint[:8]}" for s in both if s.url.endswith("00000.tar")
    ]
    assert [s.id for s in both if not s.url.endswith("00000.tar")] == ["00001", "00002", "00007"]


def test_equal_content_under_the_same_names(job: Path, tmp_path: Path) -> None:
    shutil.copytree(job, tmp_path / "copy")
    both = found(job, tmp_path / "copy")
    assert both == found(tmp_path / "copy", job)
    mark = found(job)[0].fingerprint[:8]
    assert [s.id for s in both[:2]] == [f"00000-{mark}", f"00000-{mark}-2"]
    assert len({s.id for s in both}) == 6
    assert len({s.fingerprint for s in both}) == 3


def test_names_that_look_like_generated_ones(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        make_shard(tmp_path / folder, "x", [("0", members(0))])
    mark = found(tmp_path / "a")[0].fingerprint[:8]
    for name in (f"x-{mark}", f"x-{mark}-2"):
        make_shard(tmp_path / "c", name, [("0", members(0))])
    assert len(set(ids(tmp_path / "a", tmp_path / "b", tmp_path / "c"))) == 4


def test_spaces_brackets_and_non_ascii_names(tmp_path: Path) -> None:
    for folder in ("with blank", "ünïcødé 日本", "job [1]", "a{b,c}d", "50% #1?"):
        make_shard(tmp_path / folder, "shard ä 1", [("0", members(0))])
        assert ids(tmp_path / folder) == ["shard ä 1"]
        assert ids(tmp_path / folder / "shard ä 1.tar") == ["shard ä 1"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{job}/none", "no such folder: .*/none"),
        ("{job}/none/*.tar", r"no shard \(\*\.tar\) in .*none"),
        ("{job}/none/00000.tar", "no such folder: .*/none"),
        ("{job}/00009.tar", r"no such tar: .*/00009\.tar"),
        ("{job}/{00001..00004}.tar", r"no such tar: .*/00003\.tar"),
        ("{job}/x*.tar", r"no shard \(\*\.tar\) in .*x\*"),
        ("{job}/_tmp", r"no shard \(\*\.tar\) in .*/_tmp"),
        ("{job}/notes.txt", r"no shard \(\*\.tar\) in .*notes\.txt"),
        ("{job}/..", r"no shard \(\*\.tar\) in [^;]*; .*/job.* has some"),
        ("{job}/{00000..00002.tar", r"\{00000\.\.00002\.tar: "),
    ],
)
def test_an_invalid_source(job: Path, source: str, expected: str) -> None:
    with pytest.raises(SourceError, match=expected) as caught:
        found(job, source.replace("{job}", str(job)))
    assert "\n" not in str(caught.value)


def test_unfinished_tars_of_a_folder_are_refused_and_listed(job: Path) -> None:
    make_shard(job, "00004", [("0", members(0))], finished=False)
    make_shard(job, "00003", [("0", members(0))], finished=False)
    for source in (job, job / "*.tar"):
        held = discovery.discover([str(source)], True)
        assert [s.id for s in held.shards] == ALL
        assert held.refused == (str(job / "00003.tar"), str(job / "00004.tar"))


def test_an_unfinished_tar_named_by_the_user(job: Path) -> None:
    make_shard(job, "00003", [("0", members(0))], finished=False)
    for source in (job / "00003.tar", f"{job}/{{00000..00003}}.tar"):
        with pytest.raises(SourceError, match=r"00003\.tar has no 00003_stats\.json .*require_stats"):
            found(source)
        assert "00003" in ids(source, require_stats=False)


def test_only_unfinished_tars(tmp_path: Path) -> None:
    make_shard(tmp_path, "00000", [("0", members(0))], finished=False)
    with pytest.raises(SourceError, match=r"1 tars, none with its _stats\.json"):
        found(tmp_path)


def test_shards_of_other_tools(job: Path) -> None:
    make_shard(job, "00003", [("0", members(0))], finished=False)
    held = discovery.discover([str(job)], False)
    assert [s.id for s in held.shards] == [*ALL, "00003"]
    assert [s.expected for s in held.shards] == [1, 2, 3, None]
    assert held.refused == ()
    assert held.shards[:3] == found(job)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1]", b"{}", b'{"successes": null}', b'{"successes": "many"}', b'{"successes": 1e999}',
     b'{"successes": -1}', b'{"successes": 3000000000}',
     b"\xff\xfe", b"7", b'{"successes": NaN}', b"[" * 100_000],
)  # fmt: skip
def test_invalid_stats(job: Path, content: bytes) -> None:
    """The shard is unfinished, and the others are read; a tar that is named is refused."""
    (job / "00001_stats.json").write_bytes(content)
    rest = discovery.discover([str(job)], True)
    assert [s.id for s in rest.shards] == [name for name in ALL if name != "00001"]
    assert rest.refused == (f"{job}/00001.tar",)
    every = discovery.discover([str(job)], False)
    assert [(s.id, s.expected) for s in every.shards] == [("00000", 1), ("00001", None), ("00002", 3)]
    with pytest.raises(SourceError, match=r"00001_stats\.json is not a stats file") as caught:
        found(job / "00001.tar")
    assert "\n" not in str(caught.value)
    for name in ("00000", "00002"):
        (job / f"{name}_stats.json").unlink()
    with pytest.raises(SourceError, match=r"00001_stats\.json is not a stats file"):
        found(job)


def test_fingerprint_ignores_path_and_time(job: Path, tmp_path: Path) -> None:
    before = {s.fingerprint for s in found(job)}
    shutil.copytree(job, tmp_path / "moved")
    for i, file in enumerate(sorted((tmp_path / "moved").iterdir())):
        os.utime(file, (i, i))
    (tmp_path / "moved" / "00000.tar").rename(tmp_path / "moved" / "12345.tar")
    (tmp_path / "moved" / "00000_stats.json").rename(tmp_path / "moved" / "12345_stats.json")
    assert {s.fingerprint for s in found(tmp_path / "moved")} == before


@pytest.mark.parametrize("with_stats", [True, False])
def test_fingerprint_depends_on_size_and_stats(job: Path, with_stats: bool) -> None:
    def mark() -> str:
        return found(job / "00001.tar", require_stats=False)[0].fingerprint

    tar, beside = job / "00001.tar", job / "00001_stats.json"
    if not with_stats:
        beside.unlink()
    seen = [mark()]
    if with_stats:
        beside.write_bytes(stats(2).replace(b"1700000000.25", b"1700000009.25"))
        seen.append(mark())
    tar.write_bytes(tar.read_bytes() + bytes(512))
    seen.append(mark())
    assert len(set(seen)) == len(seen)


@pytest.fixture
def upload() -> Iterator[Callable[[Path], str]]:
    """Copies a folder into fsspec's memory; its URL."""
    fs = fsspec.filesystem("memory")

    def copy(folder: Path) -> str:
        for file in folder.iterdir():
            if file.is_file():
                fs.pipe_file(f"/{folder.name}/{file.name}", file.read_bytes())
        return f"memory://{folder.name}"

    yield copy
    fs.store.clear()


def test_urls_have_the_same_shards(job: Path, upload: Callable[[Path], str]) -> None:
    make_shard(job, "00003", [("0", members(0))], finished=False)
    url = upload(job)
    for require_stats in (True, False):
        here, there = found(job, require_stats=require_stats), found(url, require_stats=require_stats)
        assert [(s.id, s.fingerprint, s.size, s.expected) for s in here] == [
            (s.id, s.fingerprint, s.size, s.expected) for s in there
        ]
    assert [s.url for s in found(url)] == [f"{url}/{n}.tar" for n in ALL]
    assert ids(f"{url}/*.tar") == ids(f"{url}/{{00000..00002}}.tar") == ALL
    assert ids(f"{url}/00002.tar") == ["00002"]
    assert discovery.discover([url], True).refused == (f"{url}/00003.tar",)
    with pytest.raises(SourceError, match="no such folder: memory://none"):
        found("memory://none")


def test_listing_alone_reads_no_file(job: Path) -> None:
    for file in job.glob("*_stats.json"):
        file.write_bytes(b"garbage")
    listing = discovery.expand([str(job)], True)
    assert list(listing.admitted) == [str(job / f"{n}.tar") for n in ALL]
    assert listing.admitted[str(job / "00000.tar")] == (job / "00000.tar").stat().st_size
