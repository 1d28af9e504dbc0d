"""The keys of OpenID providers: where they are, when they are fetched again, what holds while nobody answers."""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cloud_broker.callers.jwts import TokenRefused, take_apart
from cloud_broker.callers.openid import FRESH_S, STALE_S, UNKNOWN_S, Provider, Providers
from cloud_broker.errors import Unavailable
from cloud_broker.settings import IssuerSettings
from tests.cloud_broker.signer import AUDIENCE, ISSUER, key, public, token
from tests.waiting import until

FIRST, SECOND = key("RS256", "first"), key("RS256", "second")


@dataclass
class Clock:
    """Seconds that a test sets."""

    seconds: float = 1_000.0

    def __call__(self) -> float:
        """Tell them."""
        return self.seconds


@dataclass
class Site:
    """A web server that answers what a test says."""

    url: str = ""
    pages: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def keys(self, *published: Any) -> None:
        """Publish keys at ``/keys``."""
        self.pages["/keys"] = (200, json.dumps(public(*published)).encode())

    def down(self) -> None:
        """Answer nothing of use from now on."""
        self.pages.clear()


@contextmanager
def serving() -> Iterator[Site]:
    """Serve a site until the end."""
    site = Site()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append(self.path)
            status, body = site.pages.get(self.path, (503, b"away"))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        site.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def site() -> Iterator[Site]:
    """A web server of its own."""
    with serving() as found:
        yield found


def provider(jwks: str, clock: Clock, issuer: str = ISSUER) -> Provider:
    return Provider(IssuerSettings(issuer=issuer, audience=AUDIENCE, jwks=jwks), clock)


async def subject(of: Provider, text: str) -> str:
    return (await of.identity(take_apart(text))).subject


async def test_keys_are_fetched_once_and_kept(site: Site) -> None:
    site.keys(FIRST)
    one = provider(f"{site.url}/keys", Clock())

    found = await asyncio.gather(*(subject(one, token(FIRST, "RS256", sub=f"u{n}")) for n in range(20)))

    assert found == [f"u{n}" for n in range(20)]
    assert site.asked == ["/keys"]


async def test_a_new_key_is_found_when_a_token_names_it(site: Site) -> None:
    clock = Clock()
    site.keys(FIRST)
    one = provider(f"{site.url}/keys", clock)
    await subject(one, token(FIRST, "RS256"))

    clock.seconds += UNKNOWN_S + 1
    site.keys(FIRST, SECOND)

    assert await subject(one, token(SECOND, "RS256")) == "ada"
    assert await subject(one, token(FIRST, "RS256")) == "ada"
    assert one.fetches == 2


async def test_made_up_key_ids_do_not_make_us_ask_again_and_again(site: Site) -> None:
    clock = Clock()
    site.keys(FIRST)
    one = provider(f"{site.url}/keys", clock)

    for _ in range(5):
        clock.seconds += UNKNOWN_S / 4
        for number in range(20):
            with pytest.raises(TokenRefused, match="no key of its issuer"):
                await subject(one, token(SECOND, "RS256", {"kid": f"made-up-{number}"}))

    assert one.fetches <= 2


async def test_a_withdrawn_key_is_refused_after_the_next_look(site: Site) -> None:
    clock = Clock()
    site.keys(FIRST, SECOND)
    one = provider(f"{site.url}/keys", clock)
    await subject(one, token(FIRST, "RS256"))

    site.keys(SECOND)
    clock.seconds += FRESH_S + 1
    # Whoever comes first then does not wait for the provider.
    assert await subject(one, token(FIRST, "RS256")) == "ada"
    await until(lambda: len(site.asked) == 2 and "1 keys" in repr(one))

    with pytest.raises(TokenRefused, match="no key of its issuer"):
        await subject(one, token(FIRST, "RS256"))


async def test_known_keys_count_while_the_provider_is_away_but_not_for_good(site: Site) -> None:
    clock = Clock()
    site.keys(FIRST)
    one = provider(f"{site.url}/keys", clock)
    await subject(one, token(FIRST, "RS256"))
    site.down()

    clock.seconds += STALE_S - 1
    assert await subject(one, token(FIRST, "RS256")) == "ada"
    with pytest.raises(TokenRefused):
        await subject(one, token(SECOND, "RS256"))
    clock.seconds += UNKNOWN_S + 2
    with pytest.raises(Unavailable):
        await subject(one, token(FIRST, "RS256"))
    site.keys(FIRST)
    clock.seconds += UNKNOWN_S + 1
    assert await subject(one, token(FIRST, "RS256")) == "ada"


@pytest.mark.parametrize(
    "page",
    [
        (200, b"no JSON"),
        (200, b"[]"),
        (200, b"{" * 100_000),
        (200, b" " * 2_000_000),
        (302, b""),
        (404, b"{}"),
    ],
    ids=["text", "list", "deep", "large", "redirect", "missing"],
)
async def test_what_is_no_set_of_keys_changes_nothing(site: Site, page: tuple[int, bytes]) -> None:
    clock = Clock()
    site.keys(FIRST)
    one = provider(f"{site.url}/keys", clock)
    await subject(one, token(FIRST, "RS256"))
    site.pages["/keys"] = page
    clock.seconds += UNKNOWN_S + 1

    with pytest.raises(TokenRefused):
        await subject(one, token(SECOND, "RS256"))

    assert await subject(one, token(FIRST, "RS256")) == "ada"
    assert "/elsewhere" not in site.asked


async def test_a_provider_that_never_answered_is_unavailable_and_not_asked_by_every_request(site: Site) -> None:
    one = provider(f"{site.url}/keys", Clock())

    for _ in range(10):
        with pytest.raises(Unavailable) as caught:
            await subject(one, token(FIRST, "RS256"))

    assert caught.value.retry_after_s
    assert one.fetches == 1


async def test_the_discovery_document_says_where_the_keys_are(site: Site) -> None:
    site.keys(FIRST)
    document = {"issuer": site.url, "jwks_uri": f"{site.url}/keys"}
    site.pages["/.well-known/openid-configuration"] = (200, json.dumps(document).encode())
    one = provider("", Clock(), site.url)

    assert await subject(one, token(FIRST, "RS256", iss=site.url)) == "ada"


@pytest.mark.parametrize(
    "changed", [{"issuer": "https://another.example.com"}, {"jwks_uri": 7}, {"jwks_uri": "http://example.com/keys"}]
)
async def test_a_discovery_document_of_another_or_that_leads_astray_is_not_followed(
    site: Site, changed: dict[str, Any]
) -> None:
    site.keys(FIRST)
    document = {"issuer": site.url, "jwks_uri": f"{site.url}/keys"} | changed
    site.pages["/.well-known/openid-configuration"] = (200, json.dumps(document).encode())
    one = provider("", Clock(), site.url)

    with pytest.raises(Unavailable):
        await subject(one, token(FIRST, "RS256", iss=site.url))
    assert "/keys" not in site.asked


async def test_keys_may_stand_in_a_file_that_is_read_again(tmp_path: Path) -> None:
    clock = Clock()
    file = tmp_path / "keys.json"
    file.write_text(json.dumps(public(FIRST)), "utf-8")
    one = provider(str(file), clock)
    assert await subject(one, token(FIRST, "RS256")) == "ada"

    file.write_text(json.dumps(public(SECOND)), "utf-8")
    clock.seconds += UNKNOWN_S + 1

    assert await subject(one, token(SECOND, "RS256")) == "ada"


async def test_a_token_of_one_issuer_is_never_judged_by_the_keys_of_another(site: Site) -> None:
    site.keys(FIRST)
    site.pages["/others"] = (200, json.dumps(public(SECOND)).encode())
    settings = [
        IssuerSettings(issuer=ISSUER, audience=AUDIENCE, jwks=f"{site.url}/keys"),
        IssuerSettings(issuer=f"{ISSUER}/b", audience=AUDIENCE, jwks=f"{site.url}/others"),
    ]
    known = Providers(settings)

    assert (await known.identity(token(FIRST, "RS256"))).issuer == ISSUER
    assert (await known.identity(token(SECOND, "RS256", iss=f"{ISSUER}/b"))).issuer == f"{ISSUER}/b"
    for text in (token(SECOND, "RS256"), token(FIRST, "RS256", iss=f"{ISSUER}/b"), token(FIRST, "RS256", iss="x")):
        with pytest.raises(TokenRefused):
            await known.identity(text)
