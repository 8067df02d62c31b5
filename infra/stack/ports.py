"""Which port each server listens on: the usual one, the one it had, or a free one."""

import socket

LOOPBACK = "127.0.0.1"

# "kafka-controller" is the port on which the brokers speak among themselves.
USUAL_PORTS = {
    "kafka": 9092,
    "kafka-controller": 9093,
    "postgres": 5432,
    "redis": 6379,
    "smtp": 1025,
    "mailbox": 8025,
}


def is_free(port: int) -> bool:
    """Tell whether a server could listen on *port* of the loopback address now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections of a predecessor that still linger are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    # Some systems let a second socket bind a narrower address of a port that is in use.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.2)
        return probe.connect_ex((LOOPBACK, port)) != 0


def free_port() -> int:
    """Return a port that nobody listens on; whoever needs it should take it soon."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def choose(name: str, *, before: int | None, taken: set[int]) -> int:
    """
    Return a free port for the server *name*.

    Args:
        before: the port it had in an earlier run, kept while it is free so that addresses stay; None if it had none.
        taken: ports given to other servers of the same stack that may not listen yet.
    """
    for port in (before, USUAL_PORTS.get(name)):
        if port and port not in taken and is_free(port):
            return port
    while (fresh := free_port()) in taken:
        pass
    return fresh


def holder(port: int) -> str | None:
    """Return who listens on *port*, as `python (pid 4711)`, or None when the system does not tell us."""
    import psutil  # noqa: PLC0415 -- only a local stack has it, and the addresses are read elsewhere, too

    try:
        listening = [
            connection.pid
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
        ]
    except psutil.AccessDenied:
        return None
    for pid in listening:
        if pid:
            try:
                return f"{psutil.Process(pid).name()} (pid {pid})"
            except psutil.Error:
                return f"pid {pid}"
    return None
