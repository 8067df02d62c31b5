"""The JSON Schema files as tests use them: with our own meaning of the formats."""

import json
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker

from schemas.addresses import check_address
from tests.processes import ROOT

CONTRACT = ROOT / "schemas" / "contract"

FORMATS = FormatChecker(formats=("uuid", "date-time"))


@FORMATS.checks("email")
def _is_one_address(text: object) -> bool:
    try:
        return not isinstance(text, str) or bool(check_address(text))
    except ValueError:
        return False


def load(topic: str) -> dict[str, Any]:
    return json.loads((CONTRACT / f"notifications.{topic}.json").read_text(encoding="utf-8"))


@cache
def validator_of(topic: str) -> Draft202012Validator:
    return Draft202012Validator(load(topic), format_checker=FORMATS)
