"""Faults that can be switched on: storms of 429, errors, slowness, lost connections, nonsense.

A fault names a vendor and a path prefix below that vendor's root, and acts on the next `times`
matching requests (-1: until switched off), after letting `skip` of them pass.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sandbox.messages import Reply, Request, reply
from sandbox.vendors import hubspot, klaviyo, mailchimp

KINDS = (
    "429", "500", "slow", "drop_after", "drop_before", "not_json", "unauthorised", "error_in_200",
    "413",
)  # fmt: skip


@dataclass(slots=True)
class Fault:
    """One fault; `seconds` is the delay of kind slow, `retry_after` the header of kind 429.

    With `larger_than` it acts only on bodies of more bytes than that, as a proxy's limit does.
    """

    vendor: str
    kind: str
    path_prefix: str = "/"
    method: str = ""
    times: int = 1
    skip: int = 0
    retry_after: float | None = None
    seconds: float = 1.0
    larger_than: int = -1

    def matches(self, vendor: str, request: Request) -> bool:
        """Whether this fault is about a request."""
        path = request.path
        prefix = self.path_prefix.removeprefix(f"/{self.vendor}")
        return (
            self.vendor in (vendor, "*")
            and path.startswith(prefix)
            and self.method.upper() in ("", request.method)
            and len(request.body) > self.larger_than
        )


def parse(values: dict[str, Any]) -> Fault:
    """Read a fault from the control API.

    Raises:
        ValueError: an unknown field or kind.
    """
    unknown = set(values) - set(Fault.__dataclass_fields__)
    if unknown:
        raise ValueError(f"unknown fields {sorted(unknown)}")
    fault = Fault(**{"vendor": "*", **values, "kind": str(values.get("kind", ""))})
    if fault.kind not in KINDS:
        raise ValueError(f"kind '{fault.kind}' is not one of {', '.join(KINDS)}")
    return fault


def take(faults: list[Fault], vendor: str, request: Request) -> Fault | None:
    """The first fault that acts on a request, counted down; used-up ones are removed."""
    for fault in faults:
        if not fault.matches(vendor, request):
            continue
        if fault.skip > 0:
            fault.skip -= 1
            continue
        if fault.times > 0:
            fault.times -= 1
            if fault.times == 0:
                faults.remove(fault)
        return fault
    return None


def as_documents(faults: list[Fault]) -> list[dict[str, Any]]:
    """The faults as JSON."""
    return [asdict(fault) for fault in faults]


def answer(fault: Fault, vendor: str) -> Reply:
    """What the vendor answers under a fault that replaces the answer."""
    if fault.kind == "not_json":
        page = b"<!doctype html><html><body><h1>Just a moment...</h1></body></html>"
        return Reply(200, page, media_type="text/html; charset=utf-8")
    status = {"429": 429, "500": 500, "unauthorised": 401, "error_in_200": 200, "413": 413}[
        fault.kind
    ]
    shaped = _shaped(vendor, fault.kind, status)
    headers = dict(shaped.headers)
    if fault.kind == "429" and fault.retry_after is not None:
        headers["Retry-After"] = f"{fault.retry_after:g}"
    return Reply(shaped.status, shaped.content, headers, shaped.media_type)


def _shaped(vendor: str, kind: str, status: int) -> Reply:
    text = {
        "429": "Too many requests.",
        "500": "There has been a critical error on this website.",
        "unauthorised": "The credentials are not valid any more.",
        "error_in_200": "The request could not be processed.",
        "413": "The request is too large.",
    }[kind]
    if vendor == "woocommerce":
        code = {"429": "too_many_requests", "unauthorised": "woocommerce_rest_cannot_view"}
        error = {"code": code.get(kind, "internal_server_error"), "message": text}
        return reply(status, {**error, "data": {"status": 500 if status == 200 else status}})
    if vendor == "hubspot":
        if kind == "429":
            return hubspot.rate_limited("TEN_SECONDLY_ROLLING")
        category = {"unauthorised": "INVALID_AUTHENTICATION"}.get(kind, "INTERNAL_ERROR")
        return reply(
            status,
            {"status": "error", "message": text, "correlationId": "sandbox", "category": category},
        )
    if vendor == "mailchimp":
        titles = {"429": "Too Many Requests", "unauthorised": "API Key Invalid"}
        shaped = mailchimp.problem(
            500 if status == 200 else status, titles.get(kind, "Error"), text
        )
        return Reply(status, shaped.content, {}, shaped.media_type)
    if vendor == "klaviyo":
        codes = {"429": "throttled", "unauthorised": "not_authenticated", "413": "too_large"}
        return klaviyo.refusal(status, codes.get(kind, "error"), text)
    return reply(status, {"message": text})
