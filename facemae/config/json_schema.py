"""The JSON schema of the settings, which the workflow checks its files against."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from facemae.config.experiment import Experiment, RunName


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of `config.yaml`, generated from the types above."""
    schema = Experiment.model_json_schema()
    definitions = schema["$defs"]
    for name in _reached(definitions, "Run"):  # a run need not name every key
        partial = {key: value for key, value in definitions[name].items() if key != "required"}
        definitions[f"Partial{name}"] = json.loads(json.dumps(partial).replace("#/$defs/", "#/$defs/Partial"))
    schema["properties"]["runs"]["patternProperties"] = {
        RunName.__metadata__[0].pattern: {"anyOf": [{"$ref": "#/$defs/PartialRun"}, {"type": "null"}]}  # type: ignore[attr-defined]
    }
    schema["properties"]["runs"]["additionalProperties"] = False
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _reached(definitions: Mapping[str, Any], name: str) -> list[str]:
    """Return the definitions that one refers to, itself first."""
    names = [name]
    for each in names:
        found = re.findall(r"#/\$defs/(\w+)", json.dumps(definitions[each]))
        names += [other for other in dict.fromkeys(found) if other not in names]
    return names
