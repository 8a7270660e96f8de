"""Files of API keys, and calls that present one."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atelier_runtime.api_keys import (
    MAX_KEYS,
    ApiKey,
    InvalidKeys,
    KeyRing,
    Scope,
    digest_of,
    entry_of,
    key_ring,
    new_key,
    read_keys,
)
from atelier_runtime.call_keys import CallKeys
from atelier_runtime.errors import Forbidden, RateLimited, Unauthenticated
from atelier_runtime.settings import StartupError
from tests.keys import key, secret_of, write_keys

DIGEST = "ab" * 32
LIMITS = st.none() | st.integers(1, 10_000)
TIMES = st.none() | st.datetimes(
    datetime(2000, 1, 1), datetime(2200, 1, 1), timezones=st.just(timezone(timedelta(hours=2)))
)


def read(folder: Path, text: str) -> dict[str, ApiKey]:
    path = folder / "keys.toml"
    path.write_text(text, encoding="utf-8")
    return read_keys(path)


@given(
    name=st.from_regex(r"[a-z0-9][a-z0-9_-]{0,47}", fullmatch=True).filter(
        lambda name: name not in ("addressed", "anonymous", "none")
    ),
    scopes=st.frozensets(st.sampled_from(Scope)),
    expires=TIMES,
    limits=st.tuples(LIMITS, LIMITS, LIMITS),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    scopes: frozenset[Scope],
    expires: datetime | None,
    limits: tuple[int | None, int | None, int | None],
) -> None:
    written = ApiKey(name, digest_of(name), scopes, expires, *limits)
    folder = tmp_path_factory.mktemp("keys")
    assert read(folder, entry_of(written)) == {name: written}


def test_a_key_is_good_until_the_end_of_its_last_day(tmp_path: Path) -> None:
    today, yesterday = datetime.now(UTC).date(), datetime.now(UTC).date() - timedelta(days=1)

    def has_expired(last: date | str) -> bool:
        entry = f'[a]\nsha256 = "{DIGEST}"\nscopes = []\nexpires = {last}\n'
        return read(tmp_path, entry)["a"].has_expired

    assert not has_expired(today) and has_expired(yesterday)
    assert has_expired("2026-01-01T00:00:00") and not has_expired("2199-01-01T00:00:00+02:00")


FAULTS = {
    "[a]": "sha256",
    "a = 1": "a is not a table",
    f'[a]\nsha256 = "{DIGEST[1:]}"\nscopes = []': r"\[a\] sha256",
    f'[a]\nsha256 = "{DIGEST}"\nscopes = ["everything"]': r"\[a\] scopes",
    f'[a]\nsha256 = "{DIGEST}"\nscopes = []\nrequests_per_minute = 0': r"\[a\] requests_per_minute",
    f'[a]\nsha256 = "{DIGEST}"\nscopes = []\npixels_per_day = "many"': r"\[a\] pixels_per_day",
    f'[a]\nsha256 = "{DIGEST}"\nscopes = []\nrequest_per_minute = 5': r"\[a\] request_per_minute",
    f'[a.b]\nsha256 = "{DIGEST}"\nscopes = []': r"\[a\] sha256",
    f'[A]\nsha256 = "{DIGEST}"\nscopes = []': "'A' is not the name",
    f'[addressed]\nsha256 = "{DIGEST}"\nscopes = []': "'addressed' is not the name",
    f'[a]\nsha256 = "{DIGEST}"\nscopes = []\n[b]\nsha256 = "{DIGEST}"\nscopes = []': "same sha256",
    "[a": "keys.toml",
    f'[a]\nsha256 = "{DIGEST}"\nscopes = []\nexpires = "2027-06-30"': r"\[a\] expires: .*without quotes",
    f'[a]\nsha256 = "{DIGEST}"\nscopes = []\nexpires = 20270630': r"\[a\] expires",
    "\n".join(f'[a{n}]\nsha256 = "{n:064x}"\nscopes = []' for n in range(MAX_KEYS + 1)): "the limit is",
}


@pytest.mark.parametrize(("text", "message"), FAULTS.items(), ids=range(len(FAULTS)))
def test_a_fault_in_the_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidKeys, match=message):
        read(tmp_path, text)
    with pytest.raises(StartupError, match=r"ATELIER_X_API_KEYS=.*keys\.toml"):
        key_ring(str(tmp_path / "keys.toml"), "ATELIER_X_API_KEYS")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"nowhere\.toml: No such file"):
        key_ring(str(tmp_path / "nowhere.toml"), "ATELIER_X_API_KEYS")
    assert key_ring("", "ATELIER_X_API_KEYS") is None


def test_keys_are_long_and_not_repeated() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100 and all(each.startswith("atelier_") and len(each) >= 50 for each in keys)


class Calls:
    """Calls at a service that has keys; `now` is the time."""

    def __init__(self, path: Path | None, *, lets_anonymous_in: bool = False) -> None:
        self.now = 600.0
        ring = None if path is None else KeyRing(path)
        self.keys = CallKeys(ring, Scope.RESTORE, lets_anonymous_in=lets_anonymous_in, clock=lambda: self.now)

    def admit(self, works: bool = True, **metadata: str) -> str:
        given = {name.replace("_", "-"): value for name, value in metadata.items()}
        return self.keys.admit(given, "ipv4:10.0.0.9", works=works)


@pytest.fixture
def calls(tmp_path: Path) -> Calls:
    path = tmp_path / "keys.toml"
    gateway = key("gateway", frozenset({Scope.GENERATE, Scope.RESTORE, Scope.ALL_JOBS}))
    artist = key("artist", frozenset({Scope.GENERATE}))
    write_keys(path, key("photos", frozenset({Scope.RESTORE}), requests_per_minute=2), gateway, artist)
    return Calls(path)


def test_a_call_needs_a_key_with_the_services_scope(calls: Calls) -> None:
    assert calls.admit(authorization=f"Bearer {secret_of('photos')}") == "key photos"
    assert calls.admit(x_api_key=secret_of("photos")) == "key photos"
    for authorization in ("", "Bearer x", f"Basic {secret_of('photos')}"):
        with pytest.raises(Unauthenticated):
            calls.admit(authorization=authorization)
    with pytest.raises(Forbidden, match="'restore'"):
        calls.admit(x_api_key=secret_of("artist"))
    assert calls.admit(works=False, x_api_key=secret_of("artist")) == "key artist", (
        "what is loaded is no work"
    )


def test_only_who_may_act_for_others_says_whom_a_call_is_for(calls: Calls) -> None:
    assert calls.admit(x_api_key=secret_of("gateway"), x_atelier_caller="key app") == "key app"
    assert calls.admit(x_api_key=secret_of("photos"), x_atelier_caller="key app") == "key photos"


def test_calls_a_minute(calls: Calls) -> None:
    for _ in range(2):
        calls.admit(x_api_key=secret_of("photos"))
    with pytest.raises(RateLimited) as refused:
        calls.admit(x_api_key=secret_of("photos"))
    assert refused.value.retry_after_s == 60
    calls.admit(works=False, x_api_key=secret_of("photos"))
    calls.now += 60
    calls.admit(x_api_key=secret_of("photos"))


def test_without_keys_everybody_is_let_in_or_nobody(tmp_path: Path) -> None:
    open_to_all = Calls(None, lets_anonymous_in=True)
    assert open_to_all.admit() == "ipv4:10.0.0.9"
    assert open_to_all.admit(x_atelier_caller="key app", authorization="Bearer x") == "key app"
    with pytest.raises(Unauthenticated):
        Calls(None).admit()


def test_who_has_no_key_where_there_are_some_speaks_for_nobody(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    write_keys(path, key("photos"))
    assert Calls(path, lets_anonymous_in=True).admit(x_atelier_caller="key photos") == "ipv4:10.0.0.9"
