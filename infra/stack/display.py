"""How a stack that starts or ends is shown: a live table on a terminal, plain lines elsewhere."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

_DONE = {"running": "ready", "done": "done", "stopped": "stopped"}
_STYLE = {"running": "green", "done": "green", "stopped": "dim", "failed": "bold red", "restarting": "yellow"}
_LINE_S = 2.0


class Display:
    """Shows each contents of stack.json that it is given. On a terminal it is redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began_s = time.monotonic()
        self._live = Live(console=console, refresh_per_second=10, transient=False) if console.is_terminal else None
        self._spinner = Spinner("dots")
        self._seen: dict[str, tuple[str, str]] = {}
        self._said_s: dict[str, float] = {}
        self._took_s: dict[str, float] = {}

    def __enter__(self) -> Self:
        """Begin to show."""
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Leave the last picture standing."""
        if self._live:
            self._live.stop()

    def show(self, contents: Mapping[str, Any]) -> None:
        """Show where each process and step is."""
        rows = {**contents.get("processes", {}), **contents.get("steps", {})}
        for name, entry in rows.items():
            if entry.get("state") in _DONE:
                self._took_s.setdefault(name, time.monotonic() - self._began_s)
            else:
                self._took_s.pop(name, None)
        if self._live:
            self._live.update(self._table(rows))
        else:
            self._lines(rows)

    def _table(self, rows: Mapping[str, Mapping[str, Any]]) -> Table:
        table = Table.grid(padding=(0, 2))
        for name, entry in rows.items():
            state = str(entry.get("state"))
            mark = "✗" if state == "failed" else "✓" if state in _DONE else self._spinner
            table.add_row(
                mark,
                name,
                Text(_DONE.get(state, state), style=_STYLE.get(state, "")),
                Text(f"{self._took_s[name]:.1f} s" if name in self._took_s else "", style="dim"),
                Text(str(entry.get("note") or ""), style="dim", overflow="ellipsis", no_wrap=True),
            )
        return table

    def _lines(self, rows: Mapping[str, Mapping[str, Any]]) -> None:
        now_s = time.monotonic()
        for name, entry in rows.items():
            state, note = str(entry.get("state")), str(entry.get("note") or "")
            before = self._seen.get(name)
            new_state = before is None or before[0] != state
            if before == (state, note) or (not new_state and now_s - self._said_s[name] < _LINE_S):
                continue
            self._seen[name], self._said_s[name] = (state, note), now_s
            self._console.print(
                f"{now_s - self._began_s:6.1f} s  {name:<12} {_DONE.get(state, state)}{f' ({note})' if note else ''}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
