"""TCP for the private PostgreSQL server, beside its unix socket: who may connect, and where it listens."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from made_core.errors import DatabaseError

USER = "postgres"
# The socket is in a folder of this user alone; over TCP every connection needs the password.
ACCESS = "local all all trust\nhost all all all scram-sha-256\n"


@dataclass(frozen=True)
class Listen:
    """Where the server listens on TCP: an address of this host, and a port."""

    address: str
    port: int


def wanted(data: Path) -> Listen | None:
    """Where the server of `data` is to listen when it starts; None: on its socket only."""
    try:
        found = json.loads(_record(data).read_text(encoding="utf-8"))
        return Listen(str(found["address"]), int(found["port"]))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise DatabaseError(
            f"{_record(data)} is damaged ({error}): remove it, then start the service again"
        ) from None


def want(data: Path, listen: Listen | None) -> None:
    """Records what `wanted` returns from now on."""
    if listen is None:
        _record(data).unlink(missing_ok=True)
        return
    fresh = _record(data).with_suffix(".new")
    fresh.write_text(json.dumps(asdict(listen)), encoding="utf-8")
    fresh.replace(_record(data))


def actual(data: Path) -> Listen | None:
    """Where the server of `data`, which is running, listens on TCP."""
    lines = (data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
    port, address = lines[3].strip(), lines[5].strip()  # documented: src/include/utils/pidfile.h
    return Listen("0.0.0.0" if address == "*" else address, int(port)) if address else None


def write_access(data: Path, uid: int, gid: int) -> None:
    """Writes pg_hba.conf. `uid`, `gid`: the server's account."""
    fresh = data / "pg_hba.conf.new"
    fresh.write_text(ACCESS, encoding="utf-8")
    os.chown(fresh, uid, gid)
    fresh.chmod(0o600)
    fresh.replace(data / "pg_hba.conf")


def link_socket(sockets: Path, port: int, name: int) -> None:
    """Makes the socket of a server on `port` available under the file name of port `name`.

    The port also names the socket's file. Processes that use the socket keep their URL when the server
    is started again with another port.
    """
    if port != name:
        link = sockets / f".s.PGSQL.{name}"
        link.unlink(missing_ok=True)
        link.symlink_to(f".s.PGSQL.{port}")


def set_password(url: str, password: str) -> None:
    """Sets the password of TCP connections. `url`: over the socket, without SQLAlchemy's driver name."""
    with _connected(url) as connection:
        # Hashed here: the password itself never reaches the server or its log.
        hashed = connection.pgconn.encrypt_password(password.encode(), USER.encode(), b"scram-sha-256")
        connection.execute(
            sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(USER), sql.Literal(hashed.decode()))
        )


def create_database(url: str, name: str) -> None:
    """Creates a database if it does not exist. `url`: see `set_password`."""
    with _connected(url) as connection:
        found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone()
        if found is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


def _record(data: Path) -> Path:
    return data.with_name("postgres.listen")


def _connected(url: str) -> psycopg.Connection[tuple[object, ...]]:
    try:
        return psycopg.connect(url.replace("postgresql+psycopg://", "postgresql://"), autocommit=True)
    except psycopg.OperationalError as error:
        raise DatabaseError(f"the private PostgreSQL does not answer: {error}") from None
