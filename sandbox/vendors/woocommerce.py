"""WooCommerce REST API v3, the reading half.

Imitated: GET orders, refunds, customers, products (each also by id, and refunds of one order) and
the index; pages with ``X-WP-Total``, ``X-WP-TotalPages`` and ``Link``; ``per_page`` up to 100
(otherwise 400 ``rest_invalid_param``); ``modified_after``/``modified_before``/``after``/``before``
with ``dates_are_gmt``; ``orderby``, ``order``, ``status``, ``include``, ``exclude``, ``customer``,
``parent``, ``offset`` and ``_fields``; ``status=any``, the default, leaves out the trash. Customers
have no modified filter and default to role customer, as in the real one. Over plain HTTP only
OAuth 1.0a one-legged signatures are accepted (query keys and basic authentication are refused with
401); over HTTPS (here: a request that says ``X-Forwarded-Proto: https``) HTTP basic.

Source: the route index of a running WooCommerce 9.4 and its authentication class.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
from base64 import b64encode
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from sandbox.clock import BERLIN, naive_local, naive_utc, parse_instant
from sandbox.generator import World
from sandbox.messages import Reply, Request, reply
from sandbox.shop import Account, Line, Order, Product, Refund

CONSUMER_KEY = "ck_5a4d8b0e2f6c4917a3b1d0c9e8f7a6b5c4d3e2f1"
CONSUMER_SECRET = "cs_0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c"  # noqa: S105 (opens the sandbox only)
_ROOT = "/wp-json/wc/v3"
_SIGNATURES = {"HMAC-SHA256": hashlib.sha256, "HMAC-SHA1": hashlib.sha1}
_ORDER_STATUSES = {
    "any", "trash", "auto-draft", "pending", "processing", "on-hold", "completed", "cancelled",
    "refunded", "failed", "checkout-draft",
}  # fmt: skip


@dataclass(slots=True)
class Row:
    """One record of a collection with what filters and sorting need; `build` makes its JSON."""

    id: int
    created: int
    modified: int
    build: Callable[[], dict[str, Any]]
    status: str = ""
    customer: int = 0
    parent: int = 0
    name: str = ""
    email: str = ""
    cached: bytes | None = None

    def json(self) -> bytes:
        """The record as the API sends it, built once."""
        if self.cached is None:
            self.cached = json.dumps(
                self.build(), ensure_ascii=False, separators=(",", ":")
            ).encode()
        return self.cached


class WooCommerce:
    """The shop's API over one `World`; `load` replaces the world when the clock moves."""

    def __init__(self) -> None:
        self.collections: dict[str, list[Row]] = {}
        self._nonces: set[tuple[str, str]] = set()
        # The last selection, so that the pages of one listing are cut from one sorted list.
        self._selection: tuple[object, list[Row]] = (None, [])
        self._sorted: dict[tuple[str, str, bool], list[Row]] = {}

    def load(self, world: World) -> None:
        """Show another state of the shop."""
        self._selection, self._sorted = (None, []), {}
        before = {
            (name, row.id, row.modified): row.cached
            for name, rows in self.collections.items()
            for row in rows
        }
        self.collections = {
            "orders": [_order_row(world, order) for order in world.orders],
            "refunds": [
                _refund_row(world, identity, order, refund)
                for identity, order, refund in world.refunds
            ],
            "customers": _staff(world) + [_account_row(world, row) for row in world.accounts],
            "products": [_product_row(world, product) for product in world.products],
        }
        # What was not modified reads as before, so its text need not be built again.
        for name, rows in self.collections.items():
            for row in rows:
                row.cached = before.get((name, row.id, row.modified))

    def handle(self, request: Request) -> Reply:
        """Answer one request."""
        if not request.path.startswith(_ROOT):
            return _error(404, "rest_no_route", _NO_ROUTE)
        refused = self._authenticate(request)
        if refused is not None:
            return refused
        path = request.path[len(_ROOT) :].rstrip("/")
        if path == "":
            return reply(200, {"namespace": "wc/v3", "routes": {}})
        found = re.fullmatch(r"/(orders|refunds|customers|products)(?:/(\d+)(/refunds)?)?", path)
        if found is None or request.method not in ("GET", "HEAD"):
            return _error(404, "rest_no_route", _NO_ROUTE)
        name, identity, below = found.groups()
        if identity is None:
            return self._list(request, name)
        if below is not None:
            return self._list(request, "refunds", parent=int(identity))
        return self._one(name, int(identity))

    def _one(self, name: str, identity: int) -> Reply:
        row = next((row for row in self.collections[name] if row.id == identity), None)
        if row is None:
            single = {"customers": "user"}.get(name, f"shop_{name[:-1]}")
            return _error(404, f"woocommerce_rest_{single}_invalid_id", "Invalid ID.")
        return Reply(200, row.json())

    def _list(self, request: Request, name: str, parent: int | None = None) -> Reply:
        problems = _check(request, name)
        if problems:
            return _invalid(problems)
        rows = self._select(request, name, parent)
        page, size = int(request.one("page", "1")), int(request.one("per_page", "10"))
        start = int(request.one("offset") or (page - 1) * size)
        chosen = rows[start : start + size]
        pages = -(-len(rows) // size)
        headers = {"X-WP-Total": str(len(rows)), "X-WP-TotalPages": str(pages)}
        link = _links(request, page, pages)
        if link:
            headers["Link"] = link
        return Reply(200, _body(chosen, request.many("_fields")), headers)

    def _select(self, request: Request, name: str, parent: int | None) -> list[Row]:
        key = (
            name,
            parent,
            tuple(
                pair
                for pair in request.query
                if pair[0] not in ("page", "per_page", "offset") and pair[0][:6] != "oauth_"
            ),
        )
        if self._selection[0] != key:
            rows = _filtered(self._ordered(request, name), request, name, parent)
            descending = request.one("order", "asc" if name == "customers" else "desc") == "desc"
            self._selection = (key, rows[::-1] if descending else rows)
        return self._selection[1]

    def _ordered(self, request: Request, name: str) -> list[Row]:
        """A collection in ascending order, orders without the trash unless a status is asked for;
        sorted once per order, because a connector asks for it page by page."""
        orderby = request.one("orderby", "name" if name == "customers" else "date")
        whole = name != "orders" or bool(set(request.many("status")) - {"any"})
        if (name, orderby, whole) not in self._sorted:
            order = _SORT_KEYS.get(orderby, _SORT_KEYS["date"])
            rows = [row for row in self.collections[name] if whole or row.status != "trash"]
            self._sorted[(name, orderby, whole)] = sorted(rows, key=order)
        return self._sorted[(name, orderby, whole)]

    def _authenticate(self, request: Request) -> Reply | None:
        """None when the request is allowed (WC_REST_Authentication)."""
        if request.headers.get("x-forwarded-proto") == "https":
            if request.basic() == (CONSUMER_KEY, CONSUMER_SECRET):
                return None
            return _unauthorised("Consumer secret is invalid.")
        oauth = _oauth_parameters(request)
        if not any(name.startswith("oauth_") for name, _ in oauth):
            return _error(401, "woocommerce_rest_cannot_view", "Sorry, you cannot list resources.")
        given = dict(oauth)
        for name in ("consumer_key", "timestamp", "nonce", "signature", "signature_method"):
            if not given.get(f"oauth_{name}"):
                return _error(
                    401,
                    "woocommerce_rest_authentication_missing_parameter",
                    f"Missing OAuth parameter oauth_{name}",
                )
        return self._verify(request, oauth, given)

    def _verify(
        self, request: Request, oauth: list[tuple[str, str]], given: dict[str, str]
    ) -> Reply | None:
        if given["oauth_consumer_key"] != CONSUMER_KEY:
            return _unauthorised("Consumer key is invalid.")
        algorithm = _SIGNATURES.get(given["oauth_signature_method"])
        if algorithm is None:
            return _unauthorised("Invalid signature - signature method is invalid.")
        base = signature_base(request.method, request.url, oauth)
        digest = hmac.new(f"{CONSUMER_SECRET}&".encode(), base.encode(), algorithm).digest()
        if not hmac.compare_digest(b64encode(digest).decode(), given["oauth_signature"]):
            return _unauthorised("Invalid signature - provided signature does not match.")
        stamp = given["oauth_timestamp"]
        if not stamp.isdigit() or abs(int(stamp) - time.time()) > 15 * 60:
            return _unauthorised("Invalid timestamp.")
        if (stamp, given["oauth_nonce"]) in self._nonces:
            return _unauthorised("Invalid nonce - nonce has already been used.")
        self._nonces.add((stamp, given["oauth_nonce"]))
        return None


def signature_base(method: str, url: str, parameters: list[tuple[str, str]]) -> str:
    """OAuth 1.0a signature base string (RFC 5849, section 3.4.1)."""
    parts = urlsplit(url)
    base_url = f"{parts.scheme}://{parts.netloc.lower()}{parts.path}"
    pairs = sorted(
        (_rfc3986(key), _rfc3986(value)) for key, value in parameters if key != "oauth_signature"
    )
    normalised = "&".join(f"{key}={value}" for key, value in pairs)
    return f"{method.upper()}&{_rfc3986(base_url)}&{_rfc3986(normalised)}"


def _rfc3986(text: str) -> str:
    return quote(text, safe="-._~")


def _oauth_parameters(request: Request) -> list[tuple[str, str]]:
    """Query parameters plus those of an ``Authorization: OAuth`` header."""
    parameters = list(request.query)
    header = request.headers.get("authorization", "")
    if header.lower().startswith("oauth "):
        for part in header[6:].split(","):
            key, _, value = part.strip().partition("=")
            if key != "realm":
                parameters.append((unquote(key), unquote(value.strip('"'))))
    return parameters


_NO_ROUTE = "No route was found matching the URL and request method."


def _error(status: int, code: str, message: str) -> Reply:
    return reply(status, {"code": code, "message": message, "data": {"status": status}})


def _unauthorised(message: str) -> Reply:
    return _error(401, "woocommerce_rest_authentication_error", message)


def _invalid(problems: dict[str, tuple[str, str]]) -> Reply:
    """WordPress's answer to parameters outside the route's schema."""
    return reply(
        400,
        {
            "code": "rest_invalid_param",
            "message": f"Invalid parameter(s): {', '.join(problems)}",
            "data": {
                "status": 400,
                "params": {name: message for name, (_, message) in problems.items()},
                "details": {
                    name: {"code": code, "message": message, "data": None}
                    for name, (code, message) in problems.items()
                },
            },
        },
    )


def _check(request: Request, name: str) -> dict[str, tuple[str, str]]:
    problems: dict[str, tuple[str, str]] = {}
    for parameter, highest in (("page", None), ("per_page", 100), ("offset", None)):
        _check_integer(problems, parameter, request.one(parameter, "1"), highest)
    for parameter in ("include", "exclude", "parent", "customer"):
        for value in request.many(parameter):
            _check_integer(problems, parameter, value, None)
    _check_choices(problems, request, name)
    for parameter in ("after", "before", "modified_after", "modified_before"):
        value = request.one(parameter)
        if value and name != "customers":
            try:
                parse_instant(value)
            except ValueError:
                problems[parameter] = ("rest_invalid_date", "Invalid date.")
    return problems


def _check_integer(
    problems: dict[str, tuple[str, str]], name: str, value: str, highest: int | None
) -> None:
    lowest = 1 if name in ("page", "per_page") else 0
    if not re.fullmatch(r"-?\d+", value):
        problems[name] = ("rest_invalid_type", f"{name} is not of type integer.")
    elif highest and not lowest <= int(value) <= highest:
        limits = f"between {lowest} (inclusive) and {highest} (inclusive)"
        problems[name] = ("rest_out_of_bounds", f"{name} must be {limits}")
    elif int(value) < lowest:
        problems[name] = (
            "rest_out_of_bounds",
            f"{name} must be greater than or equal to {lowest}",
        )


_ORDERBY = {
    "orders": ("date", "id", "include", "title", "slug", "modified"),
    "refunds": ("date", "id", "include", "title", "slug", "modified"),
    "products": (
        "date", "id", "include", "title", "slug", "modified", "menu_order", "price", "popularity",
        "rating",
    ),
    "customers": ("id", "include", "name", "registered_date"),
}  # fmt: skip
_ROLES = (
    "all", "administrator", "editor", "author", "contributor", "subscriber", "customer",
    "shop_manager",
)  # fmt: skip


def _check_choices(problems: dict[str, tuple[str, str]], request: Request, name: str) -> None:
    choices = {"orderby": _ORDERBY[name], "order": ("asc", "desc")}
    if name == "customers":
        choices["role"] = _ROLES
    for parameter, allowed in choices.items():
        value = request.one(parameter)
        if value and value not in allowed:
            problems[parameter] = (
                "rest_not_in_enum",
                f"{parameter} is not one of {', '.join(allowed)}.",
            )
    if name == "orders":
        for index, value in enumerate(request.many("status")):
            if value not in _ORDER_STATUSES:
                problems["status"] = (
                    "rest_not_in_enum",
                    f"status[{index}] is not one of {', '.join(sorted(_ORDER_STATUSES))}.",
                )


def _filtered(rows: list[Row], request: Request, name: str, parent: int | None) -> list[Row]:
    tests = _id_tests(request)
    if name == "customers":
        tests += _customer_tests(request)
    else:
        rows = _in_window(rows, request)
    statuses = set(request.many("status")) - {"any"}
    if statuses and name in ("orders", "products"):
        tests.append(lambda row: row.status in statuses)
    customer = request.one("customer")
    if name == "orders" and customer:
        tests.append(lambda row: row.customer == int(customer))
    if parent is not None:
        tests.append(lambda row: row.parent == parent)
    return [row for row in rows if all(test(row) for test in tests)] if tests else rows


def _id_tests(request: Request) -> list[Callable[[Row], bool]]:
    include, exclude, parents = (
        set(map(int, request.many(name))) for name in ("include", "exclude", "parent")
    )
    tests: list[Callable[[Row], bool]] = []
    if include:
        tests.append(lambda row: row.id in include)
    if exclude:
        tests.append(lambda row: row.id not in exclude)
    if parents:
        tests.append(lambda row: row.parent in parents)
    return tests


def _customer_tests(request: Request) -> list[Callable[[Row], bool]]:
    role, email = request.one("role", "customer"), request.one("email").lower()
    tests: list[Callable[[Row], bool]] = []
    if role != "all":
        tests.append(lambda row: row.status == role)
    if email:
        tests.append(lambda row: row.email.lower() == email)
    return tests


def _in_window(rows: list[Row], request: Request) -> list[Row]:
    """Apply the date filters to ascending rows. They are exclusive; without ``dates_are_gmt`` they
    are in the site's zone."""
    zone = None if request.one("dates_are_gmt").lower() in ("1", "true") else BERLIN
    sorted_by = {"modified": "modified", "": "created", "date": "created"}.get(
        request.one("orderby")
    )
    for prefix, name in (("", "created"), ("modified_", "modified")):
        instant = attrgetter(name)
        after, before = request.one(f"{prefix}after"), request.one(f"{prefix}before")
        if not after and not before:
            continue
        first = parse_instant(after, zone) + 1 if after else 0
        end = parse_instant(before, zone) if before else 2**62
        if sorted_by == name:
            start = bisect_left(rows, first, key=instant)
            rows = rows[start : bisect_left(rows, end, lo=start, key=instant)]
        else:
            rows = [row for row in rows if first <= instant(row) < end]
    return rows


_SORT_KEYS: dict[str, Callable[[Row], Any]] = {
    "id": lambda row: row.id,
    "modified": lambda row: (row.modified, row.id),
    "name": lambda row: (row.name, row.id),
    "title": lambda row: (row.name, row.id),
    "date": lambda row: (row.created, row.id),
}


def _links(request: Request, page: int, pages: int) -> str:
    base, kept = (
        request.url.split("?")[0],
        [
            (key, value)
            for key, value in request.query
            if key != "page" and not key.startswith("oauth_")
        ],
    )
    links = []
    for relation, number in (("prev", page - 1), ("next", page + 1)):
        if 1 <= number <= pages and number != page:
            query = "&".join(f"{key}={_rfc3986(v)}" for key, v in [*kept, ("page", str(number))])
            links.append(f'<{base}?{query}>; rel="{relation}"')
    return ", ".join(links)


def _body(rows: list[Row], fields: list[str]) -> bytes:
    if not fields:
        return b"[" + b",".join(row.json() for row in rows) + b"]"
    wanted = {field.split(".")[0] for field in fields}
    chosen = [
        {key: value for key, value in json.loads(row.json()).items() if key in wanted}
        for row in rows
    ]
    return json.dumps(chosen, ensure_ascii=False).encode()


def _money(cents: int) -> str:
    return f"{cents / 100:.2f}"


def _order_row(world: World, order: Order) -> Row:
    statuses = [fact for fact in order.statuses if fact[0] < world.cutoff]
    refunds = [refund for refund in order.refunds if refund.at < world.cutoff]
    paid = order.paid_at if order.paid_at and order.paid_at < world.cutoff else None
    modified = max([statuses[-1][0], paid or 0] + [refund.at for refund in refunds])
    identity = world.order_ids[order.key]
    customer = _customer_of(world, order)
    status = statuses[-1][1]
    return Row(
        id=identity,
        created=order.born,
        modified=modified,
        status=status,
        customer=customer,
        build=lambda: _order_document(
            world, order, identity, customer, status, modified, paid, refunds
        ),
    )


def _customer_of(world: World, order: Order) -> int:
    if order.as_guest:
        return 0
    key = f"{order.person.number:07d}"
    if order.shared_account is not None:
        key = f"shared{order.shared_account:03d}"
    return world.account_ids.get(key, 0)


def _order_document(
    world: World,
    order: Order,
    identity: int,
    customer: int,
    status: str,
    modified: int,
    paid: int | None,
    refunds: list[Refund],
) -> dict[str, Any]:
    person = order.person
    address = {
        "first_name": person.first_name,
        "last_name": person.last_name,
        "company": "",
        "address_1": "",
        "address_2": "",
        "city": "",
        "state": "",
        "postcode": "",
        "country": person.country,
    }
    # Set when the order is first called completed, and kept whatever becomes of it later.
    completed = next(
        (at for at, word in order.statuses if word == "completed" and at < world.cutoff), None
    )
    lines_tax = sum(line.tax for line in order.lines)
    discount = sum(line.list_net - line.net for line in order.lines)
    discount_tax = sum(line.list_tax - line.tax for line in order.lines)
    created, created_gmt = naive_local(order.born), naive_utc(order.born)
    if order.date_text is not None:
        created = created_gmt = order.date_text
    return {
        "id": identity,
        "parent_id": 0,
        "status": status,
        "currency": order.currency,
        "version": "9.4.0",
        "prices_include_tax": True,
        "date_created": created,
        "date_modified": naive_local(modified),
        "discount_total": _money(discount),
        "discount_tax": _money(discount_tax),
        "shipping_total": _money(order.shipping),
        "shipping_tax": _money(order.shipping_tax),
        "cart_tax": _money(lines_tax),
        "total": order.total_text if order.total_text is not None else _money(order.total),
        "total_tax": _money(lines_tax + order.shipping_tax),
        "customer_id": customer,
        "order_key": f"wc_order_{identity:x}",
        "billing": {**address, "email": order.email, "phone": person.phone},
        "shipping": {**address, "phone": ""},
        "payment_method": order.payment_method,
        "payment_method_title": order.payment_method,
        "transaction_id": "",
        "created_via": order.created_via,
        "customer_note": "",
        "date_completed": naive_local(completed) if completed else None,
        "date_paid": naive_local(paid) if paid else None,
        "cart_hash": "",
        "number": str(identity),
        "meta_data": _order_meta(order, identity),
        "line_items": [
            _line_document(line, identity * 20 + index) for index, line in enumerate(order.lines)
        ],
        "tax_lines": [],
        "shipping_lines": [],
        "fee_lines": [],
        "coupon_lines": [],
        "refunds": [
            {
                "id": world.refund_ids[refund.key],
                "reason": refund.reason,
                "total": f"-{_money(refund.cents)}",
            }
            for refund in refunds
        ],
        "payment_url": "",
        "is_editable": status in ("pending", "on-hold"),
        "needs_payment": status in ("pending", "failed"),
        "needs_processing": True,
        "date_created_gmt": created_gmt,
        "date_modified_gmt": naive_utc(modified),
        "date_completed_gmt": naive_utc(completed) if completed else None,
        "date_paid_gmt": naive_utc(paid) if paid else None,
        "currency_symbol": {"EUR": "€", "USD": "$"}[order.currency],
    }


def _order_meta(order: Order, identity: int) -> list[dict[str, Any]]:
    facts = {"_newsletter_opt_in": order.opt_in, "_exchange_rate": order.exchange_rate}
    return [
        {"id": identity * 10 + index, "key": key, "value": value}
        for index, (key, value) in enumerate(facts.items())
        if value is not None
    ]


def _line_document(line: Line, identity: int) -> dict[str, Any]:
    return {
        "id": identity,
        "name": line.product.name,
        "product_id": line.product.id,
        "variation_id": 0,
        "quantity": line.quantity,
        "tax_class": "" if line.product.vat == 19 else "reduced-rate",
        "subtotal": _money(line.list_net),
        "subtotal_tax": _money(line.list_tax),
        "total": _money(line.net),
        "total_tax": _money(line.tax),
        "taxes": [],
        "meta_data": [],
        "sku": line.product.sku,
        "global_unique_id": "",
        "price": round(line.net / 100 / max(1, abs(line.quantity)), 6),
        "image": {"id": "", "src": ""},
        "parent_name": None,
    }


def _refund_row(world: World, identity: int, order: Order, refund: Refund) -> Row:
    parent = world.order_ids[order.key]
    document = {
        "id": identity,
        "parent_id": parent,
        "date_created": naive_local(refund.at),
        "date_created_gmt": naive_utc(refund.at),
        "amount": _money(refund.cents),
        "reason": refund.reason,
        "refunded_by": 1,
        "refunded_payment": True,
        "meta_data": [],
        "line_items": [],
        "shipping_lines": [],
        "tax_lines": [],
        "fee_lines": [],
    }
    return Row(identity, refund.at, refund.at, lambda: document, parent=parent)


def _staff(world: World) -> list[Row]:
    """Two people who work here; role=customer, the default, hides them."""
    born = world.products[0].born
    rows = []
    for identity, role, name in ((1, "administrator", "Admin"), (2, "shop_manager", "Verkauf")):
        document = _account_document(
            identity, f"{name.lower()}@shop.example.com", name, "Laden", role, born, born, {}, None
        )
        rows.append(Row(identity, born, born, _constant(document), status=role, name=name))
    return rows


def _constant(document: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    return lambda: document


def _account_row(world: World, account: Account) -> Row:
    edits = [edit for edit in account.edits if edit[0] < world.cutoff]
    state: dict[str, Any] = {}
    for _, change in edits:
        state.update(change)
    modified = edits[-1][0] if edits else account.born
    identity = world.account_ids[account.key]
    person = account.person
    last_name = state.get("last_name", account.last_name)
    if person is not None:
        state.setdefault("billing_phone", person.phone)
        state["country"] = person.country
    return Row(
        id=identity,
        created=account.born,
        modified=modified,
        status=account.role,
        name=f"{account.first_name} {last_name}",
        email=account.email,
        build=lambda: _account_document(
            identity,
            account.email,
            account.first_name,
            last_name,
            account.role,
            account.born,
            modified,
            state,
            state.get("newsletter_opt_in_at"),
        ),
    )


def _account_document(
    identity: int,
    email: str,
    first_name: str,
    last_name: str,
    role: str,
    created: int,
    modified: int,
    state: dict[str, Any],
    opt_in_at: int | None,
) -> dict[str, Any]:
    address = {
        "first_name": first_name,
        "last_name": last_name,
        "company": "",
        "address_1": "",
        "address_2": "",
        "city": "",
        "postcode": "",
        "country": state.get("country", "DE"),
        "state": "",
        "phone": state.get("billing_phone", ""),
    }
    meta: list[dict[str, Any]] = []
    if opt_in_at is not None:
        meta = [
            {"id": identity * 10, "key": "_newsletter_opt_in", "value": state["newsletter_opt_in"]},
            {
                "id": identity * 10 + 1,
                "key": "_newsletter_opt_in_at",
                "value": naive_utc(opt_in_at) + "Z",
            },
        ]
    return {
        "id": identity,
        "date_created": naive_local(created),
        "date_created_gmt": naive_utc(created),
        "date_modified": naive_local(modified),
        "date_modified_gmt": naive_utc(modified),
        "email": email,
        "first_name": first_name,
        "last_name": last_name,
        "role": role,
        "username": f"user{identity}",
        "billing": {**address, "email": email},
        "shipping": address,
        "is_paying_customer": bool(state.get("is_paying_customer", False)),
        "avatar_url": "",
        "meta_data": meta,
    }


def _product_row(world: World, product: Product) -> Row:
    seen = [change for change in product.repriced if change[0] < world.cutoff]
    price = seen[-1][1] if seen else product.price
    modified = seen[-1][0] if seen else product.born
    category = {
        "id": product.category_id,
        "name": product.category,
        "slug": product.category.lower(),
    }
    status = "draft" if product.draft else "publish"
    document = {
        "id": product.id,
        "name": product.name,
        "slug": product.sku.lower(),
        "date_created": naive_local(product.born),
        "date_created_gmt": naive_utc(product.born),
        "date_modified": naive_local(modified),
        "date_modified_gmt": naive_utc(modified),
        "type": "simple",
        "status": status,
        "sku": product.sku,
        "price": "" if product.draft else _money(price),
        "regular_price": "" if product.draft else _money(price),
        "sale_price": "",
        "categories": [category],
        "variations": [],
        "meta_data": [],
    }
    return Row(
        product.id, product.born, modified, lambda: document, status=status, name=product.name
    )
