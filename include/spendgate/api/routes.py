"""How routes are made: who may, what is asked, what is answered, and which errors; all of it in the description."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from http import HTTPStatus
from typing import Any

from flask import Response
from flask_smorest import Blueprint
from marshmallow import RAISE, Schema
from webargs.flaskparser import FlaskParser

from spendgate.api.hot import JSON
from spendgate.api.identity import Scope
from spendgate.api.problems import ProblemError
from spendgate.api.schemas import Selection

View = Callable[..., Any]

# Every guarded route may answer these; 422 comes with what is asked.
GUARDED_ERRORS = (401, 403, 404, 429, 503)
ADVERTISER = "<int(min=1, max=2147483647):advertiser_id>"


class Access(Enum):
    """Who may, where no scope says it."""

    PUBLIC = "anybody"
    CALLER = "whoever is let in"


class _Parser(FlaskParser):
    DEFAULT_UNKNOWN_BY_LOCATION = {**FlaskParser.DEFAULT_UNKNOWN_BY_LOCATION, "query": RAISE}


class Routes(Blueprint):  # type: ignore[misc]  # flask-smorest is untyped
    """A blueprint whose queries refuse what they don't know."""

    ARGUMENTS_PARSER = _Parser()


def reads(
    routes: Routes,
    rule: str,
    answer: type[Schema],
    access: Scope | Access,
    asked: type[Schema] = Selection,
    *,
    errors: Sequence[int] = GUARDED_ERRORS,
) -> Callable[[View], View]:
    """A GET route: its view gets what is asked as a dict, and answers a Response."""

    def decorate(view: View) -> View:
        made = routes.response(200, answer)(view)
        made = with_errors(routes, made, errors)
        made = routes.arguments(asked, location="query")(made)
        return publish(routes, rule, made, access)

    return decorate


def publish(routes: Routes, rule: str, view: View, access: Scope | Access, method: str = "GET") -> View:
    """Put a view at `rule`, and say who may."""
    vars(view)["access"] = access  # read back by the guard of the app
    if access is Access.PUBLIC:
        view = routes.doc(security=[])(view)
    made: View = routes.route(rule, methods=[method])(view)
    return made


def with_errors(routes: Routes, view: View, errors: Sequence[int]) -> View:
    """Say which errors a view may answer."""
    for status in errors:
        view = routes.alt_response(status, response=HTTPStatus(status).name)(view)
    return view


def answer(schema: type[Schema], item: Any, asked: Mapping[str, Any]) -> Response:
    """One item, with the fields that were asked for."""
    names = selected(schema, asked)
    return Response(json.dumps(schema(only=names).dump(item)), mimetype=JSON)


def answer_page(
    schema: type[Schema], items: Sequence[Any], next_cursor: str | None, asked: Mapping[str, Any]
) -> Response:
    """A page of items, with the fields that were asked for."""
    dumped = schema(only=selected(schema, asked), many=True).dump(items)
    return Response(json.dumps({"items": dumped, "next_cursor": next_cursor}), mimetype=JSON)


def selected(schema: type[Schema], asked: Mapping[str, Any]) -> Sequence[str] | None:
    """The names in `fields`; None: all.

    Raises:
        ProblemError: 422, the schema has no such field.
    """
    told = asked.get("fields_")
    if told is None:
        return None
    names = list(dict.fromkeys(told.split(",")))
    if extra := sorted(set(names) - set(schema().fields)):
        raise invalid("fields", f"There is no field {', '.join(extra)}.")
    return names


def invalid(name: str, what: str) -> ProblemError:
    """A 422 problem about one query parameter."""
    detail = "The request is not as the API's description says: see errors."
    return ProblemError(422, "invalid_request", detail, errors={"query": {name: [what]}})
