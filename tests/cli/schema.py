"""The part of JSON Schema that ours use, checked. A keyword it does not know is an error, so no schema can say more than is tested."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path
from typing import Any

SCHEMAS = Path(__file__).resolve().parents[2] / "docs" / "schemas"
_TYPES: dict[str, Any] = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "null": type(None)}
_SAID = {"$schema", "title", "description", "$defs", "default"}


def check(name: str, value: Any) -> None:
    """Raise AssertionError, with the place, unless `value` is what ``docs/schemas/{name}.json`` says."""
    schema = json.loads((SCHEMAS / f"{name}.json").read_text())
    _check(schema, value, name, schema)


def of_files() -> dict[str, str]:
    """The text of each schema of a metadata file, by name: what its model says."""
    from ssmd.metadata.environment import Environment
    from ssmd.metadata.feed import Feed
    from ssmd.metadata.schema import Schema

    found = {}
    for name, model in (("feed", Feed), ("schema", Schema), ("environment", Environment)):
        said = model.model_json_schema(mode="serialization")
        where = f"exchanges/{name}s/*.yaml, and ssmd {'env' if name == 'environment' else name} show -o json"
        head = {"$schema": "https://json-schema.org/draft/2020-12/schema", **said, "title": where}
        found[name] = json.dumps(head, indent=1, ensure_ascii=False) + "\n"
    return found


def _check(schema: dict[str, Any], value: Any, at: str, root: dict[str, Any]) -> None:
    for keyword, rule in sorted(schema.items(), key=lambda item: item[0] != "type"):  # the others may count on it
        match keyword:
            case "type" if rule == "boolean":
                assert isinstance(value, bool), (at, value)
            case "type":
                assert isinstance(value, _TYPES[rule]), (at, value)
                assert not isinstance(value, bool), (at, value)
            case "$ref":
                _check(root["$defs"][rule.rpartition("/")[2]], value, at, root)
            case "const":
                assert value == rule, (at, value)
            case "enum":
                assert value in rule, (at, value)
            case "pattern":
                assert re.search(rule, value), (at, value)
            case "format":
                assert (rule, str(date.fromisoformat(value))) == ("date", value), (at, value)
            case "minimum":
                assert value >= rule, (at, value)
            case "exclusiveMinimum":
                assert value > rule, (at, value)
            case "maximum":
                assert value <= rule, (at, value)
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
                    assert rule is not False, (at, name)
                    _check({} if rule is True else rule, value[name], f"{at}.{name}", root)
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


if __name__ == "__main__":
    for name, text in of_files().items():
        (SCHEMAS / f"{name}.json").write_text(text)
