"""Checks what we send against the schemas that the vendors publish.

Where the published files are wrong or lack a call, the correction stands here with its reason. A
call without a schema is a fault, so that a new one cannot slip through, and so is a field that the
schema does not name, so that a typing error shows.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

from jsonschema import Draft4Validator, Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from tests.vendor_specifications import specification

Schema = dict[str, Any]
Operation = tuple[str, str]
"""Method and path template."""
Check = Callable[[Any], list[tuple[Any, Any]]]
"""Which validator looks at which part of a body."""


def faults(vendor: str, method: str, path: str, body: Any) -> list[str]:
    """What the vendor's published schema has against a body; empty when it is right.

    path is the vendor's own, as its documentation writes it. Values are never repeated.
    """
    operations = {"klaviyo": _klaviyo, "listmonk": _listmonk, "mailchimp": _mailchimp}[vendor]()
    # The most literal template first: /subscribers/lists is no /subscribers/{id}.
    for (known, template), check in sorted(operations.items(), key=lambda each: "{" in each[0][1]):
        if known == method and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path):
            return [
                f"{method} {template}: {'/'.join(map(str, error.absolute_path))}: {error.validator}"
                for validator, part in check(body)
                for error in validator.iter_errors(part)
            ]
    return [f"{method} {path}: no published schema"]


def _whole(validator: Any) -> Check:
    return lambda body: [(validator, body)]


def _closed(schema: Schema) -> Schema:
    """A copy whose objects take no field they do not name, and whose nulls are JSON Schema's:
    OpenAPI 3.0 says ``nullable: true`` beside the type."""
    schema = {key: value for key, value in schema.items() if key not in ("example", "default")}
    if "properties" in schema:
        schema["properties"] = {name: _closed(one) for name, one in schema["properties"].items()}
        schema.setdefault("additionalProperties", False)
    if isinstance(schema.get("items"), dict):
        schema["items"] = _closed(schema["items"])
    for keyword in ("oneOf", "anyOf"):
        if keyword in schema:
            schema[keyword] = [_closed(one) for one in schema[keyword]]
    return {"anyOf": [{"type": "null"}, schema]} if schema.pop("nullable", False) else schema


def _references(document: Any, media_type: str) -> dict[Operation, str]:
    """The component that each operation of an OpenAPI 3 document takes."""
    found: dict[Operation, str] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if method in ("post", "put", "patch", "delete"):
                content = operation.get("requestBody", {}).get("content", {})
                reference = content.get(media_type, {}).get("schema", {}).get("$ref")
                if reference:
                    found[(method.upper(), path)] = reference
    return found


@cache
def _klaviyo() -> dict[Operation, Check]:
    document = specification("klaviyo/stable.json")
    schemas = document["components"]["schemas"]
    closed = {"components": {"schemas": {name: _closed(one) for name, one in schemas.items()}}}
    resource = Resource(contents=closed, specification=DRAFT202012)
    registry: Any = Registry().with_resource("urn:klaviyo", resource)
    return {
        operation: _whole(Draft202012Validator({"$ref": f"urn:klaviyo{ref}"}, registry=registry))
        for operation, ref in _references(document, "application/vnd.api+json").items()
    }


@cache
def _listmonk() -> dict[Operation, Check]:
    document = specification("listmonk/collections.yaml")
    schemas = document["components"]["schemas"]
    # A slip of the file: "integer" with "items".
    schemas["SubscriberQueryRequest"]["properties"]["target_list_ids"]["type"] = "array"
    checks = {
        operation: _whole(Draft202012Validator(_closed(schemas[ref.rsplit("/", 1)[1]])))
        for operation, ref in _references(document, "application/json").items()
    }
    # PATCH is younger than the file; it takes a part of what PUT takes.
    return {**checks, ("PATCH", "/subscribers/{id}"): checks[("PUT", "/subscribers/{id}")]}


@cache
def _mailchimp() -> dict[Operation, Check]:
    schemas: dict[Operation, Schema] = {}
    for part in ("lists", "members", "segments"):
        for path, methods in specification(f"mailchimp/mailchimp-{part}-api-openapi.yml")[
            "paths"
        ].items():
            for method in methods.keys() & {"post", "put", "patch"}:
                for parameter in methods[method]["parameters"]:
                    if parameter["in"] == "body":
                        schemas[(method.upper(), path)] = parameter["schema"]
    checks = {operation: _whole(_draft4(schema)) for operation, schema in schemas.items()}
    # Two calls are in none of the published parts. A row of the first that carries a status is a
    # new member, one without is an update; a merge field is what PATCH takes, and its type.
    members = "/lists/{list_id}/members"
    new = _draft4(schemas[("POST", members)])
    known = _draft4(schemas[("PATCH", members + "/{subscriber_hash}")])
    checks[("POST", "/lists/{list_id}")] = lambda body: [
        (_draft4(_MEMBERS), body),
        *((new if "status" in row else known, row) for row in body.get("members", [])),
    ]
    field = schemas[("PATCH", "/lists/{list_id}/merge-fields/{merge_id}")]
    kinds = {"type": {"enum": ["text", "number", "date"]}}
    typed = {**field, "properties": {**field["properties"], **kinds}}
    checks[("POST", "/lists/{list_id}/merge-fields")] = _whole(_draft4(typed))
    return checks


def _draft4(schema: Schema) -> Any:
    """Swagger 2 is a part of draft 4."""
    return Draft4Validator(_closed(schema))


_MEMBERS: Schema = {
    "type": "object",
    "required": ["members"],
    "properties": {
        "members": {"type": "array", "maxItems": 500, "items": {"type": "object"}},
        "update_existing": {"type": "boolean"},
        "sync_tags": {"enum": [False]},  # true would replace all of a contact's tags
    },
}
