"""The store of secrets, and each secret that the file names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from agent.connectors.base import Finding
from agent.errors import SecretError
from agent.secrets import open_store
from agent.secrets.resolve import secret_names

if TYPE_CHECKING:
    from agent.check.stages import Sight

STORE: Final = "store of secrets"


async def look(sight: Sight) -> AsyncIterator[Finding]:
    """Open the store, which the later stages use, and look for each secret."""
    settings = sight.loaded.settings
    wanted = sorted(secret_names(settings))
    try:
        store = await asyncio.to_thread(open_store, settings, sight.loaded.base_dir)
        missing = set(wanted) - set(await asyncio.to_thread(store.names))
    except SecretError as exc:
        yield Finding(STORE, False, str(exc), code="secrets.store")
        return
    sight.secrets = store
    yield Finding(STORE, True, f"{settings.secrets.store}, opened")
    for name in wanted:
        if name in missing:
            yield Finding(
                f"secret {name}", False, "is missing", f"outhaul-agent secret set {name}", code="secrets.missing"
            )
        else:
            yield Finding(f"secret {name}", True, "is kept")
