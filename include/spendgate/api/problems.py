"""What goes wrong, as the caller is told: RFC 9457 problem details, one shape for every error.

Source: https://www.rfc-editor.org/rfc/rfc9457
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from spendgate.errors import SpendGateError, TransientError

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 5
# One URN a code; a code is part of the contract, its sentence isn't.
TYPE_PREFIX = "urn:spendgate:problem:"


@dataclass(eq=False)
class ProblemError(Exception):
    """An answer that is an error; `code` names it for programs, `detail` says to people what to do."""

    status: int
    code: str
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, Any] | None = None

    def body(self, instance: str) -> bytes:
        """The JSON that is sent; `instance` is the path that was asked for."""
        told: dict[str, Any] = {
            "type": TYPE_PREFIX + self.code,
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "instance": instance,
        }
        if self.errors:
            told["errors"] = self.errors
        return json.dumps(told).encode()


def not_found() -> ProblemError:
    """Nothing here, or nothing that the caller may see: both look alike."""
    return ProblemError(404, "not_found", "There is nothing here that you may see: check the path and the id.")


def unavailable(error: SpendGateError) -> ProblemError:
    """The warehouse can't be read; the log says why, the caller is only told to come back."""
    log.error("The warehouse can't be read: %s", error)
    what = "just now" if isinstance(error, TransientError) else "until it is mended"
    return ProblemError(
        503,
        "unavailable",
        f"The warehouse can't be read {what}: take it for a no, and ask again later.",
        {"Retry-After": str(RETRY_AFTER_SECONDS)},
    )


def to_problem(error: Exception) -> ProblemError:
    """The problem that an exception is to the caller; what we didn't foresee is logged, and told to nobody."""
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, HTTPException) and error.code is not None and error.code < HTTPStatus.INTERNAL_SERVER_ERROR:
        return _from_http(error, error.code)
    if isinstance(error, SpendGateError):
        return unavailable(error)
    log.error("Unexpected %s", type(error).__name__, exc_info=error)
    return ProblemError(500, "internal_error", "Something went wrong here; ask again, and report it if it stays.")


def _from_http(error: HTTPException, status: int) -> ProblemError:
    if status == HTTPStatus.NOT_FOUND:
        return not_found()
    told = getattr(error, "data", None) or {}
    headers = {name: value for name, value in error.get_headers() if name.lower() in ("allow", "retry-after")}
    code = HTTPStatus(status).phrase.lower().replace(" ", "_")
    detail = error.description or HTTPStatus(status).phrase
    if errors := told.get("errors") or told.get("messages"):
        code, detail = "invalid_request", "The request is not as the API's description says: see errors."
    return ProblemError(status, code, detail, headers, errors)


def respond(error: Exception) -> Response:
    """Flask's answer for any exception."""
    problem = to_problem(error)
    answer = Response(problem.body(request.script_root + request.path), problem.status, mimetype=MEDIA_TYPE)
    answer.headers.update(problem.headers)
    return answer


def register_problems(app: Flask) -> None:
    """Make every error of `app` a problem, also those of Flask and Werkzeug themselves."""
    app.register_error_handler(HTTPException, respond)
    app.register_error_handler(Exception, respond)
