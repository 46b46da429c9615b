"""What bench api compares with: Django REST Framework and simplejwt, one view that reads one flag."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import django
from a2wsgi import WSGIMiddleware
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.urls import path

from spendgate.local import services
from spendgate.settings import load_settings

COLUMNS = ("advertiser_id", "can_serve", "reason", "budget", "spent_today", "remaining", "day", "as_of", "version")
_url = services.warehouse_url(load_settings())
settings.configure(
    SECRET_KEY=os.environ["SPENDGATE_BENCH_KEY"],
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],  # says how long an answer is
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "rest_framework"],
    # Connections stay open, as ours do.
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": _url.database,
            "USER": _url.username,
            "PASSWORD": _url.password,
            "HOST": _url.query.get("host") or _url.host,
            "PORT": _url.port,
            "CONN_MAX_AGE": None,
        }
    },
    SIMPLE_JWT={"ACCESS_TOKEN_LIFETIME": timedelta(hours=1), "USER_ID_CLAIM": "sub"},
    REST_FRAMEWORK={
        "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework_simplejwt.authentication.JWTStatelessUserAuthentication"],
        "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
        "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
        "UNAUTHENTICATED_USER": None,
    },
    USE_TZ=False,
)
django.setup()


def _view() -> Any:
    """The view; its framework can only be imported by now."""
    from rest_framework.decorators import api_view
    from rest_framework.response import Response

    def flag(_request: Any, advertiser_id: int) -> Any:
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT {', '.join(COLUMNS)} FROM ads.servingflag WHERE advertiser_id = %s", [advertiser_id]
            )
            row = cursor.fetchone()
        return Response(dict(zip(COLUMNS, row, strict=True)))

    return api_view(["GET"])(flag)


urlpatterns = [path("flags/<int:advertiser_id>", _view())]
wsgi = get_wsgi_application()
asgi = WSGIMiddleware(wsgi, workers=10)
