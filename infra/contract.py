"""The contract's files, as they lie in the package `schemas`: JSON Schemas, AsyncAPI, the data dictionary."""

import json
from pathlib import Path
from typing import Any

import schemas
from schemas.topics import REQUESTED, RESULTS, Topic

FOLDER = Path(schemas.__file__).parent / "contract"

ASYNCAPI = FOLDER / "asyncapi.yaml"
DICTIONARY = FOLDER / "DICTIONARY.md"


def schema_file(topic: Topic) -> Path:
    """Return the file with the JSON Schema of *topic*'s values."""
    return FOLDER / f"{topic.name}.json"


def read_schema(topic: Topic) -> dict[str, Any]:
    """Return the JSON Schema of the values of *topic*, which is one of WITH_SCHEMA."""
    found: dict[str, Any] = json.loads(schema_file(topic).read_bytes())
    return found


WITH_SCHEMA = (REQUESTED, RESULTS)
