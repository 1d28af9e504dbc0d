"""The HTTP application: all routes over the services it is given."""

from __future__ import annotations

from importlib import metadata

from fastapi import FastAPI

from cloud_broker.api import (
    agents,
    approvals,
    audit,
    auth,
    blobs,
    bulk,
    commands,
    content,
    dead_letters,
    est,
    health,
    keys,
    openapi,
    problems,
    rows,
    tenants,
    turnstile,
)
from cloud_broker.api.services import Services
from cloud_broker.audit.notary import Notary
from cloud_broker.callers.credentials import Credentials
from cloud_broker.callers.openid import Providers


def described() -> FastAPI:
    """Return an application that can say what it has, and do nothing of it."""
    app = FastAPI(
        title="Outhaul",
        version=metadata.version("outhaul"),
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    openapi.install(app)
    for part in (
        commands,
        bulk,
        blobs,
        rows,
        content,
        dead_letters,
        agents,
        tenants,
        keys,
        approvals,
        audit,
        est,
        health,
    ):
        app.include_router(part.router)
    return app


def create_app(services: Services) -> FastAPI:
    """Return the application; it starts and stops nothing."""
    app = described()
    app.state.services = services
    auth.install(
        app, Credentials(services.store, Providers(services.settings.api.issuers)), Notary(services.store.note_soon)
    )
    problems.install(app)
    turnstile.install(app, services.settings.limits)
    return app
