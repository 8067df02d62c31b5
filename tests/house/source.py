"""The project's own files, as git sees them."""

import ast
import subprocess
import tokenize
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("schemas", "infra", "ingest", "pipeline", "sender")


@cache
def tracked() -> tuple[str, ...]:
    """Return the files that are in git or will be: no caches, nothing that .gitignore names."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return tuple(sorted({name for name in listed if (ROOT / name).is_file()}))


def modules(*folders: str) -> list[str]:
    """Return the Python files below *folders*; without any: those of the five packages."""
    return [
        name
        for name in tracked()
        if name.endswith(".py") and name.startswith(tuple(f"{each}/" for each in folders or PACKAGES))
    ]


@cache
def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@cache
def tree_of(name: str) -> ast.Module:
    return ast.parse(text_of(name))


def comments_of(name: str) -> list[tuple[int, str]]:
    """Return (line, comment) of each comment; what only looks like one, inside a text, is none."""
    with (ROOT / name).open("rb") as file:
        return [
            (each.start[0], each.string) for each in tokenize.tokenize(file.readline) if each.type == tokenize.COMMENT
        ]
