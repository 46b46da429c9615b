"""Who is let in: every route of the URL map against every kind of token, keys, log-ins, their ends."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from flask import Flask
from pydantic import SecretStr

from spendgate.api.accounts import NewUser
from spendgate.api.app import create_app
from spendgate.api.identity import Scope
from spendgate.api.log_ins import delay_after
from spendgate.api.passwords import hash_password
from spendgate.api.routes import Access
from spendgate.errors import ConfigurationError
from spendgate.settings import Settings
from tests.api.callers import KINDS, PASSWORD, SIGNING_KEY, Place, ask
from tests.api.conftest import DAY
from tests.brokers import await_that


def routes_of(app: Flask) -> Iterator[tuple[str, str]]:
    """(method, path) of every route that isn't for anybody, with advertiser 2 where one is named."""
    for rule in app.url_map.iter_rules():
        if vars(app.view_functions[rule.endpoint])["access"] is not Access.PUBLIC:
            path = app.url_map.bind("x").build(rule.endpoint, dict.fromkeys(rule.arguments, 2))
            for method in sorted(rule.methods - {"HEAD", "OPTIONS"}):
                yield method, path


@pytest.mark.parametrize("kind", KINDS)
def test_no_route_lets_in_whom_it_should_not(place: Place, tokens: dict[str, str | None], kind: str) -> None:
    routes = list(routes_of(place.app))
    assert len(routes) > 10
    for method, path in routes:
        answer = ask(place, method, path, tokens[kind])
        assert (answer.status_code, answer.mimetype) == (401, "application/problem+json"), f"{method} {path}"
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_every_route_lets_in_a_good_token(place: Place, tokens: dict[str, str | None]) -> None:
    for method, path in routes_of(place.app):
        if path.endswith("/stream"):
            continue  # it doesn't end; tests/api/test_serving.py reads it
        answer = ask(place, method, path, tokens["good"])
        # 422: the body that is sent to be refused, so that the log-in lives on.
        assert answer.status_code == (422 if method == "POST" else 200), f"{method} {path}: {answer.text}"


def test_another_advertisers_token_finds_nothing_at_an_advertisers_routes(
    place: Place, tokens: dict[str, str | None]
) -> None:
    paths = [path for _, path in routes_of(place.app) if path.startswith("/v1/advertisers/2")]
    assert len(paths) >= 6
    unknown = {path: ask(place, "GET", path.replace("/2", "/987"), tokens["other advertiser"]) for path in paths}
    for path in paths:
        answer = ask(place, "GET", path, tokens["other advertiser"])
        assert answer.status_code == 404, path
        assert answer.text.replace("/2", "/987") == unknown[path].text, (
            "an advertiser that is there looks as one that isn't"
        )


def test_a_route_that_does_not_say_who_may_stops_the_app(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spendgate.api.app._describe", lambda app, _: app.add_url_rule("/v1/new", "new", lambda: "hi"))
    with pytest.raises(TypeError, match="new doesn't say who may"):
        create_app(place.settings, warehouse=place.warehouse)


# --- Log-ins ----------------------------------------------------------------------------------------------


def test_a_wrong_name_a_wrong_password_and_a_disabled_user_look_alike(place: Place) -> None:
    place.accounts.add_user(NewUser("gone", "gone@example.com", "A", "P", None, True), PASSWORD)
    place.accounts.disable_user("gone")
    told = [
        place.client.post("/v1/auth/token", json={"username": name, "password": password})
        for name, password in (("nobody", PASSWORD), ("staff", "wrong password"), ("gone", PASSWORD))
    ]
    assert [answer.status_code for answer in told] == [401] * 3
    assert len({answer.text for answer in told}) == 1


def test_a_name_that_nobody_has_takes_as_long_to_refuse(place: Place, real_hashes: None) -> None:
    place.accounts.set_password("other", PASSWORD)

    def shortest(name: str) -> float:
        times = []
        for _ in range(3):
            began = time.perf_counter()
            place.client.post("/v1/auth/token", json={"username": name, "password": "wrong password"})
            times.append(time.perf_counter() - began)
        return min(times)

    known, unknown = shortest("other"), shortest("nobody else")
    assert 1 / 3 < known / unknown < 3


def test_one_may_log_in_by_address_in_any_case(place: Place) -> None:
    assert place.log_in("Staff@Example.com")["token_type"] == "Bearer"


def test_after_some_failures_even_the_right_password_waits_and_longer_each_time(place: Place) -> None:
    def tried(password: str) -> Any:
        return place.client.post("/v1/auth/token", json={"username": "locked", "password": password})

    assert [tried("wrong password").status_code for _ in range(5)] == [401] * 5
    locked = tried(PASSWORD)
    assert (locked.status_code, locked.json["type"]) == (429, "urn:spendgate:problem:locked")
    place.clock.now += timedelta(seconds=int(locked.headers["Retry-After"]))
    assert tried("wrong password").status_code == 401
    assert int(tried(PASSWORD).headers["Retry-After"]) == 4
    place.clock.now += timedelta(seconds=4)
    assert tried(PASSWORD).status_code == 200
    assert [tried("wrong password").status_code for _ in range(4)] == [401] * 4, "a log-in forgets the failures"
    delays = [delay_after(failures).total_seconds() for failures in range(4, 20)]
    assert (delays[0], delays[-1], delays == sorted(delays)) == (0, 900, True)


def refresh(place: Place, token: str) -> Any:
    return place.client.post("/v1/auth/refresh", json={"refresh_token": token})


def test_a_refresh_token_is_good_once_and_a_second_use_ends_the_log_in(place: Place) -> None:
    first = place.log_in()
    second = refresh(place, first["refresh_token"])
    assert second.status_code == 200
    assert refresh(place, first["refresh_token"]).status_code == 401
    ended = refresh(place, second.json["refresh_token"])
    assert (ended.status_code, ended.json["type"]) == (401, "urn:spendgate:problem:token_revoked")
    assert ask(place, "GET", "/v1/me", second.json["access_token"]).status_code == 401
    assert refresh(place, first["access_token"]).status_code == 401, "an access token refreshes nothing"


def test_one_may_end_all_log_ins_and_a_new_password_ends_them_too(place: Place) -> None:
    one, two = place.log_in("other"), place.log_in("other")
    headers = {"Authorization": f"Bearer {one['access_token']}"}
    assert place.client.post("/v1/auth/revoke", json={"everywhere": True}, headers=headers).status_code == 204
    assert ask(place, "GET", "/v1/me", two["access_token"]).status_code == 401
    three = place.log_in("other")
    place.accounts.set_password("other", PASSWORD)
    assert ask(place, "GET", "/v1/me", three["access_token"]).status_code == 401


def test_log_ins_from_one_address_are_counted(place: Place) -> None:
    settings = place.settings.model_copy(update={"api_login_rate_limit": "3/hour", "api_rate_limit": "2/hour"})
    client = create_app(settings, warehouse=place.warehouse, clock=place.clock).test_client()
    tries = [client.post("/v1/auth/refresh", json={"refresh_token": "x"}) for _ in range(4)]
    assert [answer.status_code for answer in tries] == [401, 401, 401, 429]
    assert int(tries[3].headers["Retry-After"]) > 0
    reads = [client.get("/v1/me", headers={"X-API-Key": place.staff_key}).status_code for _ in range(3)]
    assert reads == [200, 200, 429]


def test_me_says_who_calls(place: Place) -> None:
    told = ask(place, "GET", "/v1/me", place.log_in("own")["access_token"]).json
    assert (told["kind"], told["name"], told["advertiser_id"], told["is_staff"]) == ("user", "own", 1, False)
    assert place.get("/v1/me").json["kind"] == "key"


# --- Keys -------------------------------------------------------------------------------------------------


def test_a_key_does_what_its_scopes_say_until_it_expires_or_is_revoked(place: Place) -> None:
    key = place.accounts.add_key("flags only", [Scope.FLAGS], is_staff=True, days=1)
    assert place.get("/v1/can-serve", key).status_code == 200
    refused = place.get("/v1/advertisers/1/budget", key)
    assert (refused.status_code, refused.json["type"]) == (403, "urn:spendgate:problem:scope_missing")
    ended = place.client.post("/v1/auth/revoke", json={}, headers={"X-API-Key": key})
    assert ended.status_code == 403
    place.clock.now += DAY
    assert place.get("/v1/can-serve", key).status_code == 401
    place.clock.now -= DAY

    def last_used() -> object:
        columns, rows = place.accounts.keys()
        assert "key_hash" not in columns
        return next(row for row in rows if row.name == "flags only").last_used_at

    await_that(lambda: last_used() is not None, 10)  # noted in a while, for nobody waits for it
    place.accounts.revoke_key(key)
    assert place.get("/v1/can-serve", key).status_code == 401
    with pytest.raises(ConfigurationError, match="no live key"):
        place.accounts.revoke_key(key)


@pytest.mark.parametrize("key", ["x", "sg_00000000_x", "sg_" + "0" * 5000, "ключ"])
def test_what_is_no_key_is_refused(place: Place, key: str) -> None:
    answer = place.client.get("/v1/me", headers={"X-API-Key": key.encode().decode("latin-1")})
    assert answer.status_code == 401


def test_neither_both_a_token_and_a_key_nor_another_scheme_is_taken(place: Place) -> None:
    for headers in ({"X-API-Key": place.staff_key, "Authorization": "Bearer x"}, {"Authorization": "Basic eDp5"}):
        assert place.client.get("/v1/me", headers=headers).status_code == 401


def test_no_log_holds_a_password_token_or_key(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "spendgate")
    pair = place.log_in()
    renewed = refresh(place, pair["refresh_token"]).json
    ask(place, "GET", "/v1/me", renewed["access_token"])
    place.get("/v1/me")
    place.client.post("/v1/auth/token", json={"username": "a secret typed as name", "password": "wrong password"})
    assert '"route":"/v1/me","status":200' in caplog.text
    assert "log-in: user:" in caplog.text
    assert "log-in failed" in caplog.text
    secrets = (PASSWORD, pair["access_token"], pair["refresh_token"], renewed["access_token"], place.staff_key)
    assert not [secret for secret in (*secrets, "a secret typed as name", "wrong password") if secret in caplog.text]


# --- Signing keys -----------------------------------------------------------------------------------------


def pem() -> str:
    private = ec.generate_private_key(ec.SECP256R1())
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def test_two_keys_live_at_a_time_and_new_tokens_are_signed_with_the_new_one(place: Place) -> None:
    before = place.log_in()["access_token"]
    public = pem()
    changed = {"api_signing_key": SecretStr(public), "api_previous_signing_key": SecretStr(SIGNING_KEY)}
    app = create_app(place.settings.model_copy(update=changed), warehouse=place.warehouse, clock=place.clock)
    after = app.test_client().post("/v1/auth/token", json={"username": "staff", "password": PASSWORD}).json
    assert jwt.get_unverified_header(after["access_token"])["alg"] == "ES256"
    for token in (before, after["access_token"]):
        assert app.test_client().get("/v1/me", headers={"Authorization": f"Bearer {token}"}).status_code == 200
    # The id of one key with the algorithm of the other: the public key isn't taken for a secret.
    claims = jwt.decode(before, options={"verify_signature": False})
    head = {"kid": jwt.get_unverified_header(after["access_token"])["kid"]}
    confused = jwt.encode(claims, SIGNING_KEY, "HS256", headers=head)
    assert app.test_client().get("/v1/me", headers={"Authorization": f"Bearer {confused}"}).status_code == 401
    assert ask(place, "GET", "/v1/me", after["access_token"]).status_code == 401, "the old app doesn't know the new key"


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("short", "Set SPENDGATE_API_SIGNING_KEY to at least 32 random characters"),
        ("-----BEGIN nonsense", "to a private key as PEM"),
    ],
)
def test_an_unfit_signing_key_is_one_sentence(place: Place, value: str, sentence: str) -> None:
    settings = place.settings.model_copy(update={"api_signing_key": SecretStr(value)})
    with pytest.raises(ConfigurationError, match=sentence):
        create_app(settings, warehouse=place.warehouse)


def test_without_a_signing_key_only_the_laptop_starts_and_makes_its_own(place: Place, tmp_path: Any) -> None:
    elsewhere = Settings(home=tmp_path, warehouse_url=SecretStr("postgresql+psycopg://a:b@127.0.0.1:1/x"))
    with pytest.raises(ConfigurationError, match=r"^Set SPENDGATE_API_SIGNING_KEY .* doesn't start without one\.$"):
        create_app(elsewhere)
    create_app(Settings(home=tmp_path, warehouse_url=None), warehouse=place.warehouse)
    made = tmp_path / "secrets" / "api_signing_key"
    assert (made.stat().st_mode & 0o077, len(made.read_text()) >= 64) == (0, True)


# --- Accounts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "password", "sentence"),
    [
        (NewUser("staff", "new@example.com", "A", "P", None, True), PASSWORD, "is there already"),
        (NewUser("new", "STAFF@example.com", "A", "P", None, True), PASSWORD, "is there already"),
        (NewUser("a@b", "new@example.com", "A", "P", None, True), PASSWORD, "without @"),
        (NewUser("new", "new", "A", "P", None, True), PASSWORD, "an e-mail address"),
        (NewUser("new", "new@example.com", "A", "P", None, False), PASSWORD, "either --staff"),
        (NewUser("new", "new@example.com", "A", "P", 1, True), PASSWORD, "either --staff"),
        (NewUser("new", "new@example.com", "A", "P", 987, False), PASSWORD, "no advertiser 987"),
        (NewUser("new", "new@example.com", "A", "P", 1, False), "short", "12 to 200 characters"),
    ],
)
def test_what_can_not_be_an_account_is_one_sentence(place: Place, user: NewUser, password: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        place.accounts.add_user(user, password)


def test_a_password_is_stored_as_argon2id_only(real_hashes: None) -> None:
    assert hash_password(PASSWORD).startswith("$argon2id$v=19$m=65536,t=3,p=4$")
