"""One HTTP client for every vendor API, sources and destinations alike.

It owns what each connector would otherwise get wrong in its own way:

* timeouts on every phase of a call, pooled connections, at most ``max_connections`` at a time;
* retries with exponential back-off and jitter on 408/425/429/5xx and on broken connections, for as
  long as repeating is safe; ``Retry-After`` in both forms of RFC 9110 section 10.2.3;
* the rate-limit shapes vendors use (see :class:`RateLimit`);
* one clear error per kind of failure, naming system, method and path, never the query string, a
  body, an address or a key.

Nothing here imports Airflow. Clock, sleep, random numbers and the transport can be replaced, so
tests take no time and need no network.
"""

from __future__ import annotations

import json as jsonlib
import logging
import random
import re
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from itertools import count
from typing import Any, Self, TypeVar
from urllib.parse import unquote

import httpx
import orjson
import tenacity

from kundenkreis.connections import Connection
from kundenkreis.errors import CredentialError, VendorError
from kundenkreis.pacing import LONGEST_WAIT_SECONDS, Pacer
from kundenkreis.pacing import RateLimit as RateLimit
from kundenkreis.redaction import redact

logger = logging.getLogger(__name__)
Page = TypeVar("Page")

RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504, 507, 508, 520, 521, 522, 523, 524})
"""Answers that mean "later": throttling, overload, and the codes that proxies in front invent."""

NEVER_TAKEN_STATUSES = frozenset({425, 429})
"""Answers that promise that the request was not acted on, so even a plain POST can be repeated."""

OK_STATUSES = (200, 201, 202, 204)


@contextmanager
def understood(system: str, call: str) -> Iterator[None]:
    """Report an answer in a form that the code within does not expect as the vendor's fault.

    JSON of another shape shows as one of a few errors of Python's, whose own text may hold a value
    of the answer; the stack trace in the log says where. Raises VendorError in their place.
    """
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        place = "".join(traceback.format_tb(error.__traceback__)[-1:])
        logger.error("%s: %s: unexpected %s at\n%s", system, call, type(error).__name__, place)
        raise VendorError(
            f"{system}: {call} was answered in a form this version does not know "
            f"({type(error).__name__}). The log shows the place; nothing is concluded from the "
            "answer, so the next run tries again."
        ) from None


def understood_pages(system: str, call: str, pages: Iterable[Page]) -> Iterator[Page]:
    """Pass pages on, reading them under `understood`."""
    with understood(system, call):
        yield from pages


class RefusedRequest(VendorError):
    """The vendor answered with a status that is neither wanted nor worth repeating.

    ``status`` is the HTTP status, ``code`` the vendor's own error code when the body names one.
    ``response`` is for connectors that understand the body; never log it.
    """

    def __init__(self, message: str, response: httpx.Response, code: str | None) -> None:
        super().__init__(message)
        self.response = response
        self.status = response.status_code
        self.code = code


class OutcomeUnknown(VendorError):
    """A request that must not be repeated blindly was sent, and no usable answer came back."""


class _Again(Exception):
    """Internal: this attempt failed in a way that is worth, and safe, repeating.

    may_be_done: the request may have been carried out although no good answer came.
    """

    def __init__(
        self,
        reason: str,
        response: httpx.Response | None,
        wait: float | None,
        may_be_done: bool = False,
    ) -> None:
        super().__init__(reason)
        self.may_be_done = may_be_done
        self.reason = reason
        self.response = response
        self.wait = wait


class VendorClient:
    """HTTP calls to one system over one connection. Safe to share between threads.

    system: the vendor as people call it ("WooCommerce"), used in messages.
    connection: gives the base URL and the id that credential errors name.
    auth: an ``httpx.Auth``; None sends no credentials.
    attempts: tries per request, the first included.
    decimal_numbers: parse JSON numbers with a fraction as ``Decimal`` (money read by sources).
    """

    def __init__(
        self,
        system: str,
        connection: Connection,
        *,
        auth: httpx.Auth | None = None,
        headers: Mapping[str, str] | None = None,
        max_connections: int = 4,
        rate_limit: RateLimit | None = None,
        timeout: float = 60.0,
        attempts: int = 6,
        decimal_numbers: bool = False,
        transport: httpx.BaseTransport | None = None,
        on_response: Callable[[httpx.Response], None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        jitter: Callable[[], float] = random.random,
    ) -> None:
        # httpx writes whole URLs, query strings included, at INFO.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        logging.getLogger("httpcore").setLevel(logging.WARNING)
        self.system = system
        self.connection = connection
        self._rate_limit = rate_limit or RateLimit()
        self._attempts = attempts
        self._decimal_numbers = decimal_numbers
        self._sleep = sleep
        self._now = now
        self._jitter = jitter
        self._pacer = Pacer(self._rate_limit, max_connections, sleep, monotonic)
        self._base_url = connection.base_url.rstrip("/")
        host = httpx.URL(self._base_url).host
        self._client = httpx.Client(
            auth=auth,
            headers=dict(headers or {}),
            timeout=httpx.Timeout(timeout, connect=min(timeout, 10.0), pool=None),
            limits=httpx.Limits(
                max_connections=max_connections, max_keepalive_connections=max_connections
            ),
            transport=transport,
            event_hooks={"response": [on_response] if on_response else []},
            # A company proxy must not be asked for the sandbox on this machine.
            trust_env=host not in {"127.0.0.1", "localhost", "::1"},
            follow_redirects=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def calls(self) -> int:
        """Requests made so far, repeated ones included."""
        return self._pacer.given

    def close(self) -> None:
        """Close the pooled connections."""
        self._client.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Any = None,
        json: Any = None,
        files: Any = None,
        data: Any = None,
        headers: Mapping[str, str] | None = None,
        ok: tuple[int, ...] = OK_STATUSES,
        idempotent: bool = True,
        timeout: float | None = None,
    ) -> httpx.Response:
        """Send one request and return the answer, whose status is in ``ok``.

        path starts with a slash and is appended to the connection's base URL. ``files`` must hold
        bytes, not open files, because a retry sends them again. With ``idempotent=False`` only
        failures that promise that nothing was done are repeated.

        Raises CredentialError (401, 403), RefusedRequest (any other status outside of ``ok``),
        OutcomeUnknown (only with ``idempotent=False``), VendorError (unreachable, or still failing
        after all attempts).
        """
        sent_headers = dict(headers or {})
        arguments: dict[str, Any] = {"params": params, "files": files, "data": data}
        arguments = {name: value for name, value in arguments.items() if value is not None}
        if json is not None:
            arguments["content"] = _encoded(json)
            if "content-type" not in self._client.headers:
                sent_headers = {"Content-Type": "application/json", **sent_headers}
        if sent_headers:
            arguments["headers"] = sent_headers
        if timeout is not None:
            arguments["timeout"] = timeout
        call = f"{method.upper()} {redact_path(path)}"
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self._attempts),
            retry=tenacity.retry_if_exception_type(_Again),
            wait=self._wait,
            sleep=self._sleep,
            reraise=True,
            before_sleep=lambda state: self._log_retry(call, state),
        )
        attempts = count()

        def attempt() -> httpx.Response:
            return self._once(next(attempts) > 0, method, path, call, arguments, ok, idempotent)

        try:
            return retrying(attempt)
        except _Again as again:
            raise self._gave_up(call, again) from None

    def get_json(self, path: str, **arguments: Any) -> Any:
        """GET ``path`` and return the parsed JSON body; raises as :meth:`request` does."""
        return self.json_of(self.request("GET", path, **arguments))

    def post_json(self, path: str, **arguments: Any) -> Any:
        """POST to ``path`` and return the parsed JSON body; raises as :meth:`request` does."""
        return self.json_of(self.request("POST", path, **arguments))

    def json_of(self, response: httpx.Response) -> Any:
        """Parse a JSON body. Raises VendorError when the body is something else (a login page)."""
        try:
            if self._decimal_numbers:
                return jsonlib.loads(response.text, parse_float=Decimal)
            return _decoded(response)
        except ValueError:
            kind = response.headers.get("content-type", "no content type").split(";")[0]
            call = f"{response.request.method} {redact_path(response.request.url.path)}"
            raise VendorError(
                f"{self.system}: {call} answered {response.status_code} with something that is not "
                f"JSON ({kind}, {len(response.content)} bytes). Check the address in connection "
                f"'{self.connection.id}' and whether the system is in maintenance."
            ) from None

    def _once(
        self,
        again: bool,
        method: str,
        path: str,
        call: str,
        arguments: dict[str, Any],
        ok: tuple[int, ...],
        idempotent: bool,
    ) -> httpx.Response:
        """One attempt. Raises _Again when another attempt is worth making."""
        with self._pacer.turn(again) as turn:
            response = self._answer(method, path, call, arguments, idempotent)
            turn.answered = response
        return self._judge(response, call, ok, idempotent)

    def _answer(
        self, method: str, path: str, call: str, arguments: dict[str, Any], idempotent: bool
    ) -> httpx.Response:
        """Whatever the system answers. Raises where no answer comes."""
        try:
            return self._client.request(method, self._base_url + path, **arguments)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise _Again(f"cannot be reached ({type(error).__name__})", None, None) from None
        except httpx.TransportError as error:
            if not idempotent:
                raise OutcomeUnknown(
                    f"{self.system}: {call} was sent but not answered ({type(error).__name__}); "
                    "whether it was carried out is unknown."
                ) from None
            raise _Again(f"broke off ({type(error).__name__})", None, None, True) from None
        except (httpx.InvalidURL, httpx.RequestError) as error:
            raise VendorError(
                f"{self.system}: {call} could not be sent ({type(error).__name__}). Check the "
                f"address in connection '{self.connection.id}'."
            ) from None

    def _judge(
        self, response: httpx.Response, call: str, ok: tuple[int, ...], idempotent: bool
    ) -> httpx.Response:
        """Return the response when it is usable; otherwise raise the error that fits it."""
        status = response.status_code
        if status in ok:
            wait = self._rate_limit.throttled(response) if self._rate_limit.throttled else None
            if wait is None:
                return response
            raise _Again("is out of call budget", response, self._bounded(call, status, wait))
        throttled = status in NEVER_TAKEN_STATUSES or status in self._rate_limit.throttled_statuses
        if throttled or (status in RETRIED_STATUSES and idempotent):
            wait = retry_after_seconds(response.headers.get("retry-after"), self._now())
            wait = self._bounded(call, status, wait)
            raise _Again(f"answered {status}", response, wait, not throttled)
        if status in RETRIED_STATUSES:
            raise OutcomeUnknown(
                f"{self.system}: {call} answered {status}; whether it was carried out is unknown."
            )
        if status in {401, 403}:
            raise self._refused_credential(call, status)
        raise self._refused_request(response, call)

    def _bounded(self, call: str, status: int, wait: float | None) -> float | None:
        """The wait a vendor asks for; raises VendorError where no run would wait that long."""
        if wait is not None and wait > LONGEST_WAIT_SECONDS:
            raise VendorError(
                f"{self.system}: {call} answered {status} and asks to wait {wait:.0f} s, more "
                f"than the {LONGEST_WAIT_SECONDS:.0f} s a run waits. Nothing of it was used: run "
                f"again after that, and check the call limit of connection '{self.connection.id}'."
            )
        return wait

    def unexpected(self, method: str, path: str, lack: str, body: Any = None) -> VendorError:
        """The error for JSON that is well formed and not the answer: ``lack`` says what it has not.

        The vendor's short error code, where the body has one, is told.
        """
        code = error_code_of(body)
        inside = f"it holds the error '{code}'" if code else "an error, or another system's answer"
        return VendorError(
            f"{self.system}: {method} {redact_path(path)} answered 200 without {lack}: {inside}. "
            f"Check the address and the permissions of connection '{self.connection.id}'; nothing "
            "of the answer was used, so the next run tries again."
        )

    def _refused_credential(self, call: str, status: int) -> CredentialError:
        cause = "does not accept the credential" if status == 401 else "forbids this call"
        return CredentialError(
            f"{self.system}: {call} answered {status}: the system {cause} of connection "
            f"'{self.connection.id}'. Check the key or token, its permissions, and the address."
        )

    def _refused_request(self, response: httpx.Response, call: str) -> RefusedRequest:
        status = response.status_code
        code = vendor_error_code(response)
        named = f" ({code})" if code else ""
        hint = "."
        if 300 <= status < 400:
            hint = f": it redirects. Check the address in connection '{self.connection.id}'."
        elif status == 404:
            hint = f": not found. Check the address in connection '{self.connection.id}'."
        return RefusedRequest(
            f"{self.system}: {call} answered {status}{named}{hint}", response, code
        )

    def _gave_up(self, call: str, again: _Again) -> VendorError:
        if again.response is not None and again.response.status_code in {401, 403}:
            return VendorError(str(self._refused_credential(call, again.response.status_code)))
        code = vendor_error_code(again.response) if again.response is not None else None
        named = f" ({code})" if code else ""
        left = "nothing of it was used, so the next run tries again."
        if again.may_be_done and not call.startswith("GET "):
            left = "it may have been carried out all the same: the next run repeats it safely."
        return VendorError(
            f"{self.system}: {call} {again.reason}{named}, {self._attempts} times in a row. Check "
            f"that the system is up and the address in connection '{self.connection.id}' is right; "
            f"{left}"
        )

    def _wait(self, state: tenacity.RetryCallState) -> float:
        """Seconds before the next attempt: what the vendor asked for, else 1, 2, 4 ... 60."""
        error = state.outcome.exception() if state.outcome else None
        asked = error.wait if isinstance(error, _Again) else None
        # A little more than asked, spread out, so that parallel callers do not return at once.
        seconds = None if asked is None else asked + 0.25 * self._jitter()
        if seconds is None:
            seconds = min(60.0, 2.0 ** (state.attempt_number - 1)) * (0.5 + 0.5 * self._jitter())
        if isinstance(error, _Again) and error.response is not None and not error.may_be_done:
            self._pacer.throttled(seconds, told=asked is not None)
        return seconds

    def _log_retry(self, call: str, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        reason = error.reason if isinstance(error, _Again) else "failed"
        pause = state.next_action.sleep if state.next_action else 0.0
        logger.warning(
            "%s: %s %s; attempt %d of %d, next in %.1f s",
            self.system,
            call,
            reason,
            state.attempt_number,
            self._attempts,
            pause,
        )


def retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """Seconds that a ``Retry-After`` header asks for: a number or an HTTP date; None without one.

    RFC 9110 section 10.2.3. A date in the past means no wait. ``now`` must carry a zone.
    """
    if value is None or not value.strip():
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
        except ValueError:
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = (moment - now).total_seconds()
    return max(0.0, seconds) if seconds == seconds else None


_HASH = re.compile(r"^[0-9a-fA-F]{32,64}$")
_CODE = re.compile(r"^[A-Za-z0-9_.\- ]{1,60}$")


def _encoded(body: Any) -> bytes:
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError:  # integers of more than 64 bits
        return jsonlib.dumps(body, ensure_ascii=False, allow_nan=False).encode()


def _decoded(response: httpx.Response) -> Any:
    try:
        return orjson.loads(response.content)
    except orjson.JSONDecodeError:  # a byte order mark, UTF-16, NaN
        return response.json()


def redact_path(path: str) -> str:
    """A path fit for messages: no query string, no address, no hash of an address."""
    parts = unquote(path.split("?", 1)[0]).split("/")
    return "/".join("<hash>" if _HASH.match(part) else redact(part) for part in parts)


def vendor_error_code(response: httpx.Response) -> str | None:
    """The short error code in a vendor's JSON body, or None. Free text is left out: it may hold
    what the vendor did not like, which may be an address."""
    try:
        return error_code_of(response.json())
    except ValueError:
        return None


def error_code_of(body: Any) -> str | None:
    """The short error code in a parsed body, or None."""
    if not isinstance(body, dict):
        return None
    errors = body.get("errors")
    if isinstance(errors, list) and errors and isinstance(errors[0], dict):
        body = {**errors[0], **body}  # JSON:API lists its errors
    for key in ("code", "category", "title", "error"):
        value = body.get(key)
        if isinstance(value, str) and _CODE.match(value):
            return value
    return None
