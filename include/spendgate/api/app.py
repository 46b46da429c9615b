"""The Flask app: guard, errors, headers, logs, routes, description."""

from __future__ import annotations

import json
import time
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, current_app, g, request
from flask_smorest import Api
from flask_smorest.spec import prepare_response

from spendgate.api import auth_routes, catalog_routes, docs_page, flag_routes, health_routes, spend_routes
from spendgate.api.access_log import log_access
from spendgate.api.context import Context, here, make_context
from spendgate.api.hot import JSON
from spendgate.api.identity import Scope
from spendgate.api.mount import MOUNTED_AT
from spendgate.api.problems import MEDIA_TYPE, register_problems
from spendgate.api.routes import Access
from spendgate.api.schemas import ProblemOut
from spendgate.clock import Clock, utc_now
from spendgate.settings import Settings, load_settings
from spendgate.warehouse.engine import Warehouse

VERSION = "1.0.0"
# The greatest body that is read: a refresh token with some room.
MAX_BODY_BYTES = 16 * 1024
DESCRIPTION = (
    "Budgets, spend and can_serve flags. Read only. Send a token (Authorization: Bearer) or a key (X-API-Key). "
    "Anything but can_serve true means no. Errors are RFC 9457 problem details."
)
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class _Description(Api):  # type: ignore[misc]  # flask-smorest is untyped
    """Errors in the description as they are: problem details, and only those that a route names."""

    ERROR_SCHEMA = ProblemOut
    DEFAULT_ERROR_RESPONSE_NAME = None

    def _register_error_handlers(self) -> None:
        """Ours do it."""

    def _register_responses(self) -> None:
        for status in HTTPStatus:
            told: dict[str, Any] = {"description": status.phrase}
            if status >= HTTPStatus.BAD_REQUEST:
                told["schema"] = ProblemOut
            prepare_response(told, self.spec, MEDIA_TYPE)
            self.spec.components.response(status.name, told, lazy=True)


def create_app(
    settings: Settings | None = None, *, warehouse: Warehouse | None = None, clock: Clock = utc_now
) -> Flask:
    """The app under any WSGI server; it connects to nothing yet.

    Raises:
        ConfigurationError: no signing key is set, or a setting is unfit.
        ServiceError: the laptop's warehouse was never started.
    """
    settings = settings or load_settings()
    app = Flask("spendgate.api", static_folder=None)
    app.config.update(
        MAX_CONTENT_LENGTH=MAX_BODY_BYTES,
        MAX_FORM_MEMORY_SIZE=MAX_BODY_BYTES,
        PROVIDE_AUTOMATIC_OPTIONS=False,
        PROPAGATE_EXCEPTIONS=False,
        API_TITLE="SpendGate budget API",
        API_VERSION=VERSION,
        OPENAPI_VERSION="3.1.0",
        API_SPEC_OPTIONS={
            "info": {"description": DESCRIPTION},
            "servers": [{"url": MOUNTED_AT}],
            "security": [{"token": []}, {"key": []}],
        },
    )
    app.url_map.strict_slashes = True
    make_context(app, settings, warehouse, clock)
    description = _Description(app)
    description.spec.components.security_scheme("token", {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"})
    description.spec.components.security_scheme("key", {"type": "apiKey", "in": "header", "name": "X-API-Key"})
    for module in (flag_routes, catalog_routes, spend_routes, auth_routes, health_routes):
        description.register_blueprint(module.routes)
    _describe(app, description)
    register_problems(app)
    app.before_request(_begin)
    app.after_request(_finish)
    _require_access(app)
    return app


def _describe(app: Flask, description: Api) -> None:
    document = description.spec.to_dict()
    told, page = json.dumps(document), docs_page.render_page(document)

    def openapi() -> Response:
        return Response(told, mimetype=JSON)

    def docs() -> Response:
        return Response(page, mimetype="text/html", headers={"Content-Security-Policy": docs_page.POLICY})

    for rule, view in (("/v1/openapi.json", openapi), ("/v1/docs", docs)):
        vars(view)["access"] = Access.PUBLIC
        app.add_url_rule(rule, view.__name__, view)


def _require_access(app: Flask) -> None:
    """No route goes without saying who may."""
    for name, view in app.view_functions.items():
        if not isinstance(getattr(view, "access", None), Scope | Access):
            raise TypeError(f"The route {name} doesn't say who may: give it a Scope or an Access.")


def _begin() -> Response | None:
    g.began = time.perf_counter()
    if request.method == "OPTIONS" and _allowed_origin(here()):
        return Response(status=204)
    if request.url_rule is None:
        return None  # Flask answers 404 or 405
    access = _access()
    if access is Access.PUBLIC:
        return None
    told = request.headers
    identity = g.identity = here().guard.check(told.get("Authorization"), told.get("X-API-Key"))
    if isinstance(access, Scope):
        identity.require(access)
    return None


def _access() -> Scope | Access:
    """Who may, of the route that was found."""
    access: Scope | Access = vars(current_app.view_functions[str(request.endpoint)])["access"]
    return access


def _allowed_origin(context: Context) -> str | None:
    origin = request.headers.get("Origin")
    return origin if origin in context.settings.api_cors_origins else None


def _finish(answer: Response) -> Response:
    for name, value in SECURITY_HEADERS.items():
        answer.headers.setdefault(name, value)
    if origin := _allowed_origin(here()):
        answer.headers["Access-Control-Allow-Origin"] = origin
        answer.headers["Access-Control-Allow-Methods"] = "GET, POST"
        answer.headers["Access-Control-Allow-Headers"] = "Authorization, X-API-Key, Content-Type, If-None-Match"
        answer.headers["Access-Control-Expose-Headers"] = "ETag, Retry-After"
        answer.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        answer.vary.add("Origin")
    identity = g.get("identity")
    rule = request.url_rule.rule if request.url_rule else "-"
    log_access(
        request.method, rule, answer.status_code, g.began, identity.label if identity else "-", request.remote_addr
    )
    return answer
