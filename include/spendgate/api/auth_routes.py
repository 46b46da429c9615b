"""Logging in and out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from flask import Response, request

from spendgate.api.context import caller, here
from spendgate.api.hot import JSON
from spendgate.api.log_ins import TokenPair
from spendgate.api.problems import ProblemError
from spendgate.api.routes import Access, Routes, answer, publish, reads, with_errors
from spendgate.api.schemas import Credentials, MeOut, Refresh, Revocation, Selection, TokensOut

routes = Routes("auth", __name__, url_prefix="/v1", description="Log-ins. Programs use keys instead: X-API-Key.")


def _tokens(pair: TokenPair) -> Response:
    return Response(json.dumps(asdict(pair)), mimetype=JSON)


def _token(asked: Mapping[str, Any]) -> Response:
    """Log in with a user name or e-mail address and a password.

    An unknown name, a wrong password and a disabled user look alike. After some failures in a row a name is locked
    for a while that grows.
    """
    here().guard.limits.count_log_in(request.remote_addr or "")
    return _tokens(here().log_ins.begin(asked["username"], asked["password"]))


def _refresh(asked: Mapping[str, Any]) -> Response:
    """New tokens for a refresh token, which is good once: using it again ends the log-in."""
    here().guard.limits.count_log_in(request.remote_addr or "")
    pair = here().log_ins.renew(asked["refresh_token"])
    return _tokens(pair)


def _revoke(asked: Mapping[str, Any]) -> Response:
    """End the log-in of the token that is sent along, or all of its user: their tokens are good no more."""
    who = caller()
    if who.session is None:
        raise ProblemError(403, "no_log_in", "A key has no log-in to end: ./spendgate keys revoke ends a key.")
    here().log_ins.end(who.id, None if asked["everywhere"] else who.session)
    return Response(status=204)


_PUBLIC_ERRORS = (400, 401, 408, 413, 415, 429, 503)
for _rule, _view, _asked in (("/auth/token", _token, Credentials), ("/auth/refresh", _refresh, Refresh)):
    _made = with_errors(routes, routes.response(200, TokensOut)(_view), _PUBLIC_ERRORS)
    publish(routes, _rule, routes.arguments(_asked)(_made), Access.PUBLIC, "POST")
_made = with_errors(routes, routes.response(204)(_revoke), (400, 401, 403, 408, 413, 415, 429, 503))
publish(routes, "/auth/revoke", routes.arguments(Revocation, required=False)(_made), Access.CALLER, "POST")


@reads(routes, "/me", MeOut, Access.CALLER, Selection)
def me(asked: Mapping[str, Any]) -> Response:
    """Who calls, and what that one may see."""
    who = caller()
    told = {name: getattr(who, name) for name in ("kind", "id", "name", "is_staff", "advertiser_id")}
    return answer(MeOut, {**told, "scopes": sorted(who.scopes)}, asked)
