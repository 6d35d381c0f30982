"""WooCommerce: customers, orders with their lines, refunds and products of a shop.

Calls   GET /wp-json/wc/v3/products, /orders, /orders?status=trash, /refunds: what changed since
        the last cursor minus ``overlap_hours``, oldest change first, 100 per page.
        GET /wp-json/wc/v3/customers?role=all: always all of them, because the route can neither
        filter nor sort by change; only the changed ones are loaded.
Auth    connection ``woocommerce``: login = consumer key (ck_...), password = consumer secret
        (cs_...), read permission is enough. Over https HTTP basic; over plain http the shop takes
        only OAuth 1.0a one-legged signatures (HMAC-SHA256), which are sent as a header so that no
        key ends up in an access log.
Limits  none of WooCommerce itself; hosts and firewalls answer 429, 503 or 508.
Paging  by key, not by page number: each call asks for changes after the newest one seen, minus one
        second, so records that change while we read shift nothing. When a full page lies within
        one second, that second is read by id. Customers go by offset, each page beginning with the
        last record of the one before, so that accounts deleted while we read hide nobody.

Loads ``raw_woocommerce.{customers, orders, orders__line_items, refunds, products}``, merged by id;
an order's lines are replaced as a set. A guest has customer_id 0 and is known only by the billing
fields of the order. ``phone_e164`` is the billing phone in E.164, read with the billing country.

Not covered: records deleted for good (only the trash is seen), refunds changed after the day they
were made, product variations, tax and coupon lines, orders of shops that switch their clock back.

Sources: the route index of a running WooCommerce 9.4 (arguments as JSON schema), and
https://woocommerce.github.io/woocommerce-rest-api-docs/ (authentication over HTTP). Not checked
against a shop behind a proxy that strips the Authorization header.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from urllib.parse import quote

import httpx
from pydantic import AfterValidator, AliasPath, Field

from kundenkreis.connections import Connection, Resolver
from kundenkreis.errors import VendorError
from kundenkreis.http import VendorClient
from kundenkreis.sources.base import (
    BigInt,
    Cursor,
    Money,
    OptionalBigInt,
    OptionalBool,
    OptionalMoney,
    OptionalText,
    OptionalTime,
    Record,
    Run,
    Table,
    Text,
    UtcTime,
    load_tables,
    summary,
    vendor_time,
)
from kundenkreis.sources.config import WooCommerceSettings
from kundenkreis.sources.telephone import lifted

_API = "/wp-json/wc/v3"
_SECOND = timedelta(seconds=1)
_STEPS_BACK = 50

# --------------------------------------------------------------------------- mapping

Currency = Annotated[Text, Field(pattern="^[A-Z]{3}$")]


class Customer(Record):
    """A shop account of any role."""

    id: BigInt
    date_created_gmt: OptionalTime = None
    date_modified_gmt: OptionalTime = None
    email: OptionalText = None
    first_name: OptionalText = None
    last_name: OptionalText = None
    role: OptionalText = None
    is_paying_customer: OptionalBool = None
    billing_country: OptionalText = Field(None, validation_alias=AliasPath("billing", "country"))
    billing_phone: OptionalText = Field(None, validation_alias=AliasPath("billing", "phone"))
    newsletter_opt_in: OptionalText = None
    newsletter_opt_in_at: OptionalTime = None
    phone_e164: OptionalText = None


class LineItem(Record):
    """One line of an order. Equal lines of one order are all kept."""

    id: BigInt
    product_id: OptionalBigInt = None
    variation_id: OptionalBigInt = None
    name: OptionalText = None
    sku: OptionalText = None
    quantity: Money
    subtotal: OptionalMoney = None
    total: Money
    total_tax: OptionalMoney = None


class Order(Record):
    """An order of any status, checkout drafts (abandoned checkouts) included."""

    id: BigInt
    number: OptionalText = None
    status: Text
    currency: Currency
    date_created_gmt: UtcTime
    date_modified_gmt: UtcTime
    date_paid_gmt: OptionalTime = None
    date_completed_gmt: OptionalTime = None
    total: Money
    total_tax: OptionalMoney = None
    shipping_total: OptionalMoney = None
    shipping_tax: OptionalMoney = None
    discount_total: OptionalMoney = None
    discount_tax: OptionalMoney = None
    customer_id: BigInt = 0
    billing_email: OptionalText = Field(None, validation_alias=AliasPath("billing", "email"))
    billing_first_name: OptionalText = Field(
        None, validation_alias=AliasPath("billing", "first_name")
    )
    billing_last_name: OptionalText = Field(
        None, validation_alias=AliasPath("billing", "last_name")
    )
    billing_country: OptionalText = Field(None, validation_alias=AliasPath("billing", "country"))
    billing_phone: OptionalText = Field(None, validation_alias=AliasPath("billing", "phone"))
    payment_method: OptionalText = None
    created_via: OptionalText = None
    newsletter_opt_in: OptionalText = None
    exchange_rate: OptionalMoney = None
    phone_e164: OptionalText = None
    line_items: list[LineItem] = Field(default_factory=list)


class Refund(Record):
    """Money given back; positive, also where a shop writes it negative."""

    id: BigInt
    parent_id: BigInt
    date_created_gmt: UtcTime
    amount: Annotated[Money, AfterValidator(abs)]


class Product(Record):
    """A product with the first of its categories."""

    id: BigInt
    name: OptionalText = None
    sku: OptionalText = None
    status: OptionalText = None
    price: OptionalMoney = None
    category_id: OptionalBigInt = Field(None, validation_alias=AliasPath("categories", 0, "id"))
    category_name: OptionalText = Field(None, validation_alias=AliasPath("categories", 0, "name"))
    date_modified_gmt: OptionalTime = None


def _shape(fields: Mapping[str, str], phone_region: str | None) -> Callable[[Any], Any]:
    """Lift entries of ``meta_data`` to fields (meta key -> field name), and read the phone."""
    with_meta = _with_meta(fields)
    with_phone = lifted(("billing", "phone"), ("billing", "country"), phone_region)
    return lambda record: with_phone(with_meta(record))


def _with_meta(fields: Mapping[str, str]) -> Callable[[Any], Any]:
    def shape(record: Any) -> Any:
        if not isinstance(record, dict) or not isinstance(record.get("meta_data"), list):
            return record
        lifted = dict(record)
        for entry in record["meta_data"]:
            name = fields.get(str(entry.get("key"))) if isinstance(entry, dict) else None
            if name:
                value = entry.get("value")
                lifted[name] = value if isinstance(value, str | int | float) else None
        return lifted

    return shape


def tables(settings: WooCommerceSettings, phone_region: str | None) -> dict[str, Table]:
    """The raw tables by name, with what a record of each must look like."""
    opt_in = {settings.newsletter_meta_key: "newsletter_opt_in"}
    opt_in_at = {settings.newsletter_time_meta_key: "newsletter_opt_in_at"}
    rate = {settings.exchange_rate_meta_key: "exchange_rate"}
    of_customers = _shape({**opt_in, **opt_in_at}, phone_region)
    of_orders = _shape({**opt_in, **rate}, phone_region)
    newest = "date_modified_gmt"
    found = [
        Table("products", Product, newest=newest),
        Table("customers", Customer, newest=newest, shape=of_customers),
        Table("orders", Order, newest=newest, shape=of_orders),
        Table("refunds", Refund),
    ]
    return {table.name: table for table in found}


# --------------------------------------------------------------------------- calls


def extract(
    settings: WooCommerceSettings,
    run: Run,
    resolve: Resolver,
    transport: httpx.BaseTransport | None = None,
) -> dict[str, Any]:
    """Load what changed in the shop. Raises CredentialError, VendorError, WarehouseError."""
    declared = tables(settings, run.phone_default_region)
    with _client(settings, resolve, transport=transport) as client:
        shop = _Shop(client, settings)
        readers = {
            "products": shop.products,
            "customers": shop.customers,
            "orders": shop.orders,
            "refunds": shop.refunds,
        }
        counts = load_tables(run, [(declared[name], read) for name, read in readers.items()])
    return summary(run, counts)


def probe(settings: WooCommerceSettings, resolve: Resolver, **options: Any) -> None:
    """Read one order and one account, which the key must be allowed to; nothing is loaded.

    Args:
        options: passed to the HTTP client.

    Raises CredentialError, VendorError.
    """
    with _client(settings, resolve, **options) as client:
        for path in ("/orders", "/customers"):
            answer = client.get_json(_API + path, params={"per_page": 1})
            if not isinstance(answer, list):
                raise client.unexpected("GET", _API + path, "a list of records", answer)


def _client(settings: WooCommerceSettings, resolve: Resolver, **options: Any) -> VendorClient:
    connection = resolve(settings.connection)
    connection.require("host", "login", "password")
    defaults = {"timeout": settings.timeout_seconds, "decimal_numbers": True}
    return VendorClient(
        "WooCommerce", connection, auth=_authentication(connection), **(defaults | options)
    )


class _Shop:
    """The calls, one per table; each reads pages and moves its cursor."""

    def __init__(self, client: VendorClient, settings: WooCommerceSettings) -> None:
        self._client = client
        self._size = settings.page_size
        self._overlap = timedelta(hours=settings.overlap_hours)

    def products(self, cursor: Cursor) -> Iterator[list[Any]]:
        return self._changed("/products", cursor, "modified")

    def orders(self, cursor: Cursor) -> Iterator[list[Any]]:
        yield from self._changed("/orders", cursor, "modified")
        # status=any leaves out the trash, and an order must stop counting when it is put there.
        trash = cursor.setdefault("trash", {})
        yield from self._changed("/orders", trash, "modified", status="trash")

    def refunds(self, cursor: Cursor) -> Iterator[list[Any]]:
        # A refund has no date of change; it is written once.
        return self._changed("/refunds", cursor, "date")

    def customers(self, cursor: Cursor) -> Iterator[list[Any]]:
        since = vendor_time(cursor.get("newest"))
        bound = since - self._overlap if since else None
        for records in self._by_id("/customers", role="all"):
            moments = [_moment_of(record, "date_modified_gmt") for record in records]
            yield [
                record
                for record, moment in zip(records, moments, strict=True)
                if bound is None or moment is None or moment >= bound
            ]
            _advance(cursor, moments)

    def _by_id(self, path: str, **filters: Any) -> Iterator[list[Any]]:
        """All records of a list by id. Each page begins with the last record of the one before:
        when it does not, records left the list meanwhile (were deleted, or changed and so are
        outside its filters), the others moved up, and we step back."""
        size = max(2, self._size)  # of one record a page could not begin with the one before
        page = {**filters, "orderby": "id", "per_page": size}
        offset, last_id, steps_back = 0, 0, 0
        while True:
            records, more = self._get(path, **page, offset=offset)
            ids = [record["id"] for record in records if _has_number(record)]
            if offset and (not ids or min(ids) > last_id):
                steps_back += 1
                if steps_back > _STEPS_BACK:
                    raise VendorError(
                        f"WooCommerce: GET {_API}{path} changed its order {_STEPS_BACK} times "
                        "while it was read. Something deletes records all the time, or a plugin "
                        "sorts them otherwise; nothing was loaded, the next run reads them again."
                    )
                offset = max(0, offset - size)
                continue
            yield records
            if not more:
                return
            last_id = max(ids, default=last_id)
            offset += size - 1

    def _changed(
        self, path: str, cursor: Cursor, order: str, **filters: str
    ) -> Iterator[list[Any]]:
        """Records changed (``modified``) or created (``date``) since the cursor, by key."""
        name = "date_modified_gmt" if order == "modified" else "date_created_gmt"
        after_filter = "modified_after" if order == "modified" else "after"
        since = vendor_time(cursor.get("newest"))
        after = since - self._overlap if since else None
        seen: set[tuple[Any, Any]] = set()
        while True:
            window = {after_filter: _gmt(after)} if after else {}
            records, more = self._get(path, orderby=order, **window, **filters)
            moments = [_moment_of(record, name) for record in records]
            yield _unseen(records, name, seen)
            _advance(cursor, moments)
            if not more:
                return
            last = max((moment for moment in moments if moment), default=None)
            if last is None:
                raise VendorError(
                    f"WooCommerce: GET {_API}{path} answered a page in which no record has a "
                    f"usable {name}, so the next page cannot be asked for."
                )
            if after is None or last - _SECOND > after:
                after = last - _SECOND
            else:
                for page in self._within_second(path, order, last, filters):
                    yield _unseen(page, name, seen)
                after = last

    def _within_second(
        self, path: str, order: str, moment: datetime, filters: Mapping[str, str]
    ) -> Iterator[list[Any]]:
        """All records of one second, by id: more than a page of them (a bulk change)."""
        prefix = "modified_" if order == "modified" else ""
        window = {
            f"{prefix}after": _gmt(moment - _SECOND),
            f"{prefix}before": _gmt(moment + _SECOND),
        }
        yield from self._by_id(path, **window, **filters)

    def _get(self, path: str, **params: Any) -> tuple[list[Any], bool]:
        """One page in ascending order, and whether more follow it."""
        params = {"per_page": self._size, "page": 1, "order": "asc", **params}
        if path != "/customers":
            params["dates_are_gmt"] = "true"
        response = self._client.request("GET", _API + path, params=params)
        answer = self._client.json_of(response)
        if not isinstance(answer, list):
            raise self._client.unexpected("GET", _API + path, "a list of records", answer)
        # A record that the key's user may not see is left out of its page, so a short page need
        # not be the last one.
        pages = response.headers.get("X-WP-TotalPages", "")
        announced = pages.isdigit() and "offset" not in params and params["page"] < int(pages)
        return answer, announced or len(answer) >= params["per_page"]


def _has_number(record: Any) -> bool:
    return isinstance(record, dict) and isinstance(record.get("id"), int)


def _unseen(records: list[Any], name: str, seen: set[tuple[Any, Any]]) -> list[Any]:
    """Leave out what an overlapping window showed before in the same version."""
    fresh = []
    for record in records:
        version = (record.get("id"), record.get(name)) if isinstance(record, dict) else None
        if version is None or version[0] is None or version not in seen:
            fresh.append(record)
        if version is not None and all(isinstance(part, str | int) for part in version):
            seen.add(version)
    return fresh


def _advance(cursor: Cursor, moments: list[datetime | None]) -> None:
    known = [moment for moment in (*moments, vendor_time(cursor.get("newest"))) if moment]
    if known:
        cursor["newest"] = _gmt(max(known))


def _moment_of(record: Any, name: str) -> datetime | None:
    return vendor_time(record.get(name)) if isinstance(record, dict) else None


def _gmt(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")


# --------------------------------------------------------------------------- authentication


def _authentication(connection: Connection) -> httpx.Auth:
    if connection.base_url.startswith("https://"):
        return httpx.BasicAuth(connection.login, connection.password)
    return OneLeggedOAuth(connection.login, connection.password)


class OneLeggedOAuth(httpx.Auth):
    """OAuth 1.0a without a token (RFC 5849, section 3.4), HMAC-SHA256, in the header.

    WooCommerce demands it over plain http. Each attempt signs anew: a nonce works once.
    """

    def __init__(
        self,
        key: str,
        secret: str,
        clock: Callable[[], float] = time.time,
        nonce: str | None = None,
    ) -> None:
        self._key = key
        self._secret = secret
        self._clock = clock
        self._nonce = nonce

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Add the signed header."""
        fields = {
            "oauth_consumer_key": self._key,
            "oauth_nonce": self._nonce or secrets.token_hex(16),
            "oauth_signature_method": "HMAC-SHA256",
            "oauth_timestamp": str(int(self._clock())),
            "oauth_version": "1.0",
        }
        fields["oauth_signature"] = self._signature(request, fields)
        request.headers["Authorization"] = "OAuth " + ", ".join(
            f'{name}="{_encoded(value)}"' for name, value in fields.items()
        )
        yield request

    def _signature(self, request: httpx.Request, fields: Mapping[str, str]) -> str:
        pairs = [*request.url.params.multi_items(), *fields.items()]
        encoded = sorted((_encoded(name), _encoded(value)) for name, value in pairs)
        normalised = "&".join(f"{name}={value}" for name, value in encoded)
        address = str(request.url.copy_with(query=None, fragment=None))
        base = "&".join((request.method, _encoded(address), _encoded(normalised)))
        key = f"{_encoded(self._secret)}&".encode()
        return base64.b64encode(hmac.new(key, base.encode(), hashlib.sha256).digest()).decode()


def _encoded(text: str) -> str:
    return quote(text, safe="-._~")
