"""The part of JSON Schema that ours use, checked. A keyword it does not know is an error, so no schema can say more than is tested."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

SCHEMAS = Path(__file__).resolve().parents[2] / "docs" / "schemas"
_TYPES: dict[str, Any] = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "null": type(None)}
_SAID = {"$schema", "title", "description", "$defs"}


def check(name: str, value: Any) -> None:
    """Raise AssertionError, with the place, unless `value` is what ``docs/schemas/{name}.json`` says."""
    schema = json.loads((SCHEMAS / f"{name}.json").read_text())
    _check(schema, value, name, schema)


def _check(schema: dict[str, Any], value: Any, at: str, root: dict[str, Any]) -> None:
    for keyword, rule in schema.items():
        match keyword:
            case "type":
                assert isinstance(value, _TYPES[rule]), (at, value)
                assert not isinstance(value, bool), (at, value)
            case "$ref":
                _check(root["$defs"][rule.rpartition("/")[2]], value, at, root)
            case "enum":
                assert value in rule, (at, value)
            case "pattern":
                assert re.search(rule, value), (at, value)
            case "minimum":
                assert value >= rule, (at, value)
            case "minLength" | "minItems":
                assert len(value) >= rule, (at, value)
            case "maxItems":
                assert len(value) <= rule, (at, value)
            case "required":
                assert set(rule) <= set(value), (at, value)
            case "properties":
                for name in rule.keys() & value.keys():
                    _check(rule[name], value[name], f"{at}.{name}", root)
            case "additionalProperties":
                for name in value.keys() - schema.get("properties", {}).keys():
                    assert rule, (at, name)
                    _check(rule, value[name], f"{at}.{name}", root)
            case "items":
                for index, item in enumerate(value):
                    _check(rule, item, f"{at}[{index}]", root)
            case "anyOf":
                assert any(_holds(option, value, at, root) for option in rule), (at, value)
            case _:
                assert keyword in _SAID, keyword


def _holds(schema: dict[str, Any], value: Any, at: str, root: dict[str, Any]) -> bool:
    try:
        _check(schema, value, at, root)
    except AssertionError:
        return False
    return True
