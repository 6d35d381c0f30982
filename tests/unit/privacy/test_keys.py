"""The key of erasures: where it comes from, and that it shows nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from kundenkreis.connections import Connection
from kundenkreis.errors import CredentialError
from kundenkreis.privacy import keys
from kundenkreis.privacy.keys import ErasureKey, find_key

SECRET = "s" * 32


@pytest.fixture(autouse=True)
def empty_home(clean_env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clean_env.setenv("KUNDENKREIS_HOME", str(tmp_path))
    clean_env.delenv(keys.ENVIRONMENT, raising=False)


def test_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(keys.ENVIRONMENT, SECRET)
    key = find_key(lambda name: Connection(name, "https", "", password="t" * 32))
    assert key == ErasureKey(SECRET.encode())


def test_a_connection_holds_it_as_its_password() -> None:
    asked = []

    def resolve(name: str) -> Connection:
        asked.append(name)
        return Connection(name, "https", "", password=SECRET)

    assert find_key(resolve) == ErasureKey(SECRET.encode())
    assert asked == ["erasure_key"]


def test_without_a_key_the_message_says_where_it_belongs_and_what_it_is_for() -> None:
    with pytest.raises(CredentialError, match=r"KUNDENKREIS_ERASURE_KEY.*openssl rand") as error:
        find_key()
    assert "Without it nobody can tell" in str(error.value)


def test_a_short_key_is_refused_and_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(keys.ENVIRONMENT, "hunter2")
    with pytest.raises(CredentialError, match="fewer than 32") as error:
        find_key()
    assert "hunter2" not in str(error.value)


def test_the_key_shows_in_no_repr() -> None:
    assert SECRET not in repr(ErasureKey(SECRET.encode()))


def test_hashes_depend_on_key_kind_and_every_part() -> None:
    key, other = ErasureKey(b"a" * 32), ErasureKey(b"b" * 32)
    hashes = {
        key.hash_of("address", "x"),
        key.hash_of("customer", "x"),
        key.hash_of("record", "a", "bc"),
        key.hash_of("record", "ab", "c"),
        other.hash_of("address", "x"),
        key.check,
        other.check,
    }
    assert len(hashes) == 7
    assert all(len(one) == 64 for one in hashes)
    assert key.hash_of("address", "x") == key.hash_of("address", "x")


def test_a_key_file_is_made_for_its_owner_only() -> None:
    key = keys._make()
    assert keys.key_file().stat().st_mode & 0o777 == 0o600
    assert find_key() == key
    with pytest.raises(FileExistsError):
        keys._make()
