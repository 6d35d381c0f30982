"""Connections are read as Airflow writes them, and never show a password."""

from __future__ import annotations

import json
import re

import pytest
from psycopg.conninfo import conninfo_to_dict

from kundenkreis.connections import (
    Connection,
    connection_from_environment,
    environment_name,
    parse_connection,
)
from kundenkreis.errors import CredentialError, WarehouseError
from kundenkreis.settings import repository_root
from kundenkreis.warehouse.connection import connect, dbt_environment, dsn_of

SECRET = "s3cret-value"


def test_a_uri_is_read(clean_env: pytest.MonkeyPatch) -> None:
    clean_env.setenv(
        "AIRFLOW_CONN_WOOCOMMERCE", f"https://ck_1:{SECRET}@shop.example.com:8443/wp?verify=false"
    )
    connection = connection_from_environment("woocommerce")
    assert connection == Connection(
        id="woocommerce",
        scheme="https",
        host="shop.example.com",
        port=8443,
        login="ck_1",
        password=SECRET,
        path="wp",
        extra={"verify": "false"},
    )
    assert connection.base_url == "https://shop.example.com:8443/wp"


def test_percent_encoding_in_a_uri_is_undone() -> None:
    connection = parse_connection("crm", "https://a%40b:p%2Fq%3A%23@crm.example.com")
    assert (connection.login, connection.password) == ("a@b", "p/q:#")


def test_json_is_read() -> None:
    value = {
        "conn_type": "http",
        "host": "127.0.0.1",
        "port": "8123",
        "login": "api",
        "password": SECRET,
        "schema": "/listmonk/",
        "extra": {"timeout": 5},
    }
    connection = parse_connection("listmonk", json.dumps(value))
    assert connection.port == 8123
    assert connection.extra == {"timeout": "5"}
    assert connection.base_url == "http://127.0.0.1:8123/listmonk"


@pytest.mark.parametrize("extra", [None, "", {}, '{"base_url": "https://eu.example.com/api/"}'])
def test_extra_may_be_absent_an_object_or_its_text(extra: object) -> None:
    connection = parse_connection("crm", json.dumps({"host": "crm.example.com", "extra": extra}))
    expected = "https://eu.example.com/api" if extra else "https://crm.example.com"
    assert connection.base_url == expected


def test_airflows_own_form_of_nested_extras_is_read() -> None:
    value = (
        "https://api.example.com/?__extra__=%7B%22base_url%22%3A+%22https%3A%2F%2Fx.example%22%7D"
    )
    assert parse_connection("crm", value).base_url == "https://x.example"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"scheme": "generic", "host": "a.example"}, "https://a.example"),
        ({"scheme": "http", "host": "a.example", "path": "https"}, "https://a.example"),
        ({"scheme": "http", "host": "https://a.example/shop/"}, "https://a.example/shop"),
        ({"scheme": "http", "host": "https://a.example", "port": 81}, "https://a.example:81"),
        ({"scheme": "http", "host": "::1", "port": 80}, "http://[::1]:80"),
    ],
)
def test_base_url_understands_airflows_spellings(fields: dict[str, object], expected: str) -> None:
    assert Connection(id="x", **fields).base_url == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["", "   "])
def test_a_missing_connection_names_its_variable_and_the_way_out(
    clean_env: pytest.MonkeyPatch, value: str
) -> None:
    clean_env.setenv("AIRFLOW_CONN_HUBSPOT", value)
    with pytest.raises(CredentialError, match=r"'hubspot' is not set.*AIRFLOW_CONN_HUBSPOT"):
        connection_from_environment("hubspot")


@pytest.mark.parametrize(
    "value",
    [
        SECRET,
        f'{{"password": "{SECRET}"',
        f'{{"password": "{SECRET}", "port": "{SECRET}"}}',
        f'{{"password": "{SECRET}", "extra": "{SECRET}"}}',
        f'{{"password": "{SECRET}", "extra": [1]}}',
        f'{{"password": "{SECRET}", "extra": "[1]"}}',
        f"https://login:{SECRET}[@crm.example.com",
        f"https://login:{SECRET}/x@crm.example.com",
        f"https://login:{SECRET}@crm.example.com:port",
        f"https://login:{SECRET}@crm.example.com:99999",
        f"https://login:{SECRET}\u2100@crm.example.com",
        f"https://login@crm.example.com?__extra__={SECRET}",
    ],
)
def test_a_malformed_connection_names_its_variable_and_repeats_nothing(value: str) -> None:
    with pytest.raises(CredentialError) as raised:
        parse_connection("crm", value)
    assert "AIRFLOW_CONN_CRM" in str(raised.value)
    assert SECRET not in str(raised.value)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


def test_a_password_shows_in_no_repr() -> None:
    connection = Connection(
        id="crm", scheme="https", host="h", login="l", password=SECRET, extra={"token": SECRET}
    )
    assert SECRET not in repr(connection)
    assert SECRET not in f"{connection} {[connection]}"
    assert SECRET not in connection.base_url


def test_require_names_what_is_empty() -> None:
    connection = Connection(id="crm", scheme="https", host="h", password=SECRET)
    connection.require("host", "password")
    with pytest.raises(CredentialError, match="'crm' has no login and no path") as raised:
        connection.require("host", "login", "path")
    assert environment_name("crm") in str(raised.value)
    assert SECRET not in str(raised.value)


def test_a_warehouse_uri_survives_every_character() -> None:
    connection = Connection(
        id="warehouse",
        scheme="postgres",
        host="::1",
        port=6543,
        login="us@er",
        password="p:/?#[]@%",
        path="my data",
        extra={"sslmode": "require"},
    )
    assert conninfo_to_dict(dsn_of(connection)) == {
        "user": "us@er",
        "password": "p:/?#[]@%",
        "host": "::1",
        "port": "6543",
        "dbname": "my data",
        "sslmode": "require",
    }


def test_dbt_is_told_the_same_warehouse() -> None:
    dsn = "postgresql://us%40er:p%2Fw@db.example.com:6543/data?sslmode=verify-full"
    assert dbt_environment(dsn) == {
        "KUNDENKREIS_DBT_HOST": "db.example.com",
        "KUNDENKREIS_DBT_PORT": "6543",
        "KUNDENKREIS_DBT_USER": "us@er",
        "KUNDENKREIS_DBT_PASSWORD": "p/w",
        "KUNDENKREIS_DBT_DBNAME": "data",
        "KUNDENKREIS_DBT_SSLMODE": "verify-full",
    }
    profiles = (repository_root() / "dbt_project" / "profiles.yml").read_text()
    for_the_user = {"KUNDENKREIS_DBT_THREADS", "KUNDENKREIS_DBT_DUCKDB"}
    read = set(re.findall(r"env_var\('(\w+)'", profiles))
    assert read - for_the_user == set(dbt_environment(dsn))


def test_an_unreachable_warehouse_is_named_without_its_password() -> None:
    with pytest.raises(WarehouseError) as raised:
        connect(f"postgresql://loader:{SECRET}@127.0.0.1:1/warehouse")
    message = str(raised.value)
    assert "127.0.0.1:1/warehouse cannot be reached: Connection refused. Start" in message
    assert SECRET not in message


def test_an_unknown_parameter_of_the_warehouse_is_one_message() -> None:
    with pytest.raises(WarehouseError, match=r'invalid URI query parameter: "colour"') as raised:
        connect(f"postgresql://loader:{SECRET}@127.0.0.1:1/warehouse?colour=blue")
    assert SECRET not in str(raised.value)
