"""One broker and one key over HTTP: what is asked again, what an answer other than yes means, where a key may go."""

from __future__ import annotations

import ipaddress
import random
import ssl
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Final
from urllib.parse import urlsplit

import httpx2
import msgspec

from cloud_broker.client.errors import NotReachable, ProblemError, ProfileError, ResultCut, UnknownAnswer, WordsError

CONNECT_S: Final = 10.0  # seconds; a broker that is there answers sooner
ANSWER_S: Final = 30.0  # seconds beyond what was asked to wait
KEEP_S: Final = 300.0  # seconds; a large body takes a while to get onto a disk
TRIES: Final = 4  # of a request that may be repeated
FIRST_PAUSE_S: Final = 0.25  # seconds; doubles from try to try
LAST_PAUSE_S: Final = 3.0  # seconds; a longer Retry-After is not waited for

REPEATABLE: Final = frozenset({429, 502, 503, 504})


class Connection:
    """
    Requests to one broker, with one key; safe to use from several threads.

    Args:
        url: as ``checked_url`` wants it.
        silence_s: seconds between two pieces of a body that is read as it comes.
        pause: waits between two tries.
    """

    def __init__(
        self, url: str, key: str, tenant: str | None, silence_s: float, pause: Callable[[float], None] = time.sleep
    ) -> None:
        self.url = checked_url(url)
        self._silence_s = silence_s
        self._pause = pause
        headers = {"Authorization": f"Bearer {checked_key(key)}", "Accept": "application/json"}
        if tenant:
            headers["Outhaul-Tenant"] = checked_header("tenant", tenant)
        self._http = httpx2.Client(
            base_url=self.url,
            headers=headers,
            timeout=httpx2.Timeout(ANSWER_S, connect=CONNECT_S),
            verify=httpx2.create_ssl_context(),  # SSL_CERT_FILE counts, whatever the next line says
            # A proxy of the environment is no way to our own machine.
            trust_env=not _is_loopback(urlsplit(self.url).hostname or ""),
        )

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def body(self, path: str, query: Mapping[str, str], accept: str, *, skip: int) -> Generator[bytes, None, None]:
        """
        Yield a body as it comes, without its first ``skip`` bytes.

        Raises:
            ResultCut: it ended before its end.
            httpx2.ReadTimeout: nothing came for ``silence_s``.
        """
        answer = self.ask("GET", path, query=query, headers={"Accept": accept}, silence_s=self._silence_s)
        try:
            for piece in answer.iter_bytes():
                if skip >= len(piece):
                    skip -= len(piece)
                    continue
                yield piece[skip:] if skip else piece
                skip = 0
        except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.DecodingError) as exc:
            raise ResultCut(f"{self.url}: the rows were cut: {exc or type(exc).__name__}") from exc
        finally:
            answer.close()

    def send(self, path: str, body: Callable[[], Iterator[bytes]], length: int) -> httpx2.Response:
        """
        Send a body of any size as it is made, again from its beginning if that may help; raises as ``ask`` does.

        Args:
            body: called for each try.
            length: its bytes.
        """
        return self._until_answered(
            lambda: self._http.post(
                path,
                content=body(),
                headers={"Content-Length": str(length), "Content-Type": "application/octet-stream"},
                # Once all of it came, it is kept on the broker's disk before there is an answer.
                timeout=httpx2.Timeout(ANSWER_S, connect=CONNECT_S, read=KEEP_S, write=KEEP_S),
            )
        )

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        wait_s: float = 0.0,
        silence_s: float | None = None,
    ) -> httpx2.Response:
        """
        Send one request, again if that may help; each one here may be repeated without a second effect.

        Raises:
            ProblemError: the broker said no.
            NotReachable: no answer came, however often it was asked.
            UnknownAnswer: something else answered.

        Args:
            silence_s: the body is left to be read as it comes, with so many seconds between two pieces;
                then ``ReadTimeout`` passes, because what it means depends on the command.
        """
        streamed = silence_s is not None
        request = self._http.build_request(
            method,
            path,
            params=dict(query or {}),
            content=content,
            headers=dict(headers or {}),
            timeout=httpx2.Timeout(ANSWER_S, connect=CONNECT_S, read=silence_s if streamed else ANSWER_S + wait_s),
        )

        def send() -> httpx2.Response:
            answer = self._http.send(request, stream=streamed)
            if streamed and not answer.is_success:
                answer.read()
            return answer

        return self._until_answered(send, silence_tells=streamed)

    def _until_answered(self, send: Callable[[], httpx2.Response], *, silence_tells: bool = False) -> httpx2.Response:
        """Send until there is an answer; ``ReadTimeout`` passes where silence tells something."""
        pauses = pauses_s()
        while True:
            pause_s = next(pauses)
            try:
                answer = send()
            except (httpx2.TransportError, httpx2.DecodingError) as exc:
                if silence_tells and isinstance(exc, httpx2.ReadTimeout):
                    raise
                if pause_s is None:
                    raise NotReachable(f"no answer from {self.url}: {_reason(exc)}") from exc
            else:
                if answer.is_success:
                    return answer
                asked_s = _retry_after_s(answer)
                if answer.status_code not in REPEATABLE or pause_s is None or asked_s > LAST_PAUSE_S:
                    raise problem(answer)
                pause_s = max(pause_s, asked_s)
            self._pause(pause_s)


def pauses_s(rng: Callable[[], float] = random.random) -> Iterator[float | None]:
    """Yield the seconds to wait after each failed try (full jitter), then ``None`` for: give up."""
    for number in range(TRIES - 1):
        yield rng() * FIRST_PAUSE_S * 2.0**number
    yield None


def problem(answer: httpx2.Response) -> ProblemError | UnknownAnswer:
    """Return the error that an answer other than 2xx stands for."""
    try:
        document = msgspec.json.decode(answer.content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        document = None
    if isinstance(document, dict) and ("title" in document or "detail" in document or "type" in document):
        return ProblemError(answer.status_code, document)
    where = answer.headers.get("location")
    told = f" and points to {where}" if where else ""
    if answer.status_code in (401, 403) or answer.status_code >= 500:
        # Of a proxy before the broker: the status alone says what to do.
        return ProblemError(answer.status_code, {"title": f"{answer.request.url} answers {answer.status_code}"})
    return UnknownAnswer(f"{answer.request.url} answers {answer.status_code}{told}: is this the broker's address?")


def checked_url(url: str) -> str:
    """
    Return ``url`` without a slash at its end.

    Raises:
        ProfileError: it is none, or the key would go over the network in clear.
    """
    url = url.strip().rstrip("/")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as exc:
        raise ProfileError(f"wants the broker's address such as https://broker.example.com, found {url!r}") from exc
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ProfileError(f"wants the broker's address such as https://broker.example.com, found {url!r}")
    if parts.username is not None:
        raise ProfileError("the broker's address must not contain a user or password: the key is given apart from it")
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise ProfileError(
            f"{url} would carry the key over the network in clear: wants https:// "
            "(http:// is for addresses of this machine, such as http://127.0.0.1:8440)"
        )
    return url


def checked_key(key: str) -> str:
    """
    Return ``key`` without white space around it.

    Raises:
        ProfileError: it can't be one.
    """
    key = key.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ProfileError("wants an API key, found something with white space or unusual characters, or nothing")
    return key


def checked_header(what: str, text: str) -> str:
    """
    Return ``text`` if it can stand in a header.

    Raises:
        WordsError: it can't.
    """
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise WordsError(f"{what}: wants visible ASCII characters without spaces, found {text!r}")
    return text


def _reason(exc: BaseException) -> str:
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"its certificate is not trusted here: {cause.verify_message}; "
                "SSL_CERT_FILE may name a PEM file with the authority to trust"
            )
        cause = cause.__cause__ or cause.__context__
    return str(exc) or type(exc).__name__


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _retry_after_s(answer: httpx2.Response) -> float:
    text = answer.headers.get("retry-after", "")
    return float(text) if text.isdecimal() else 0.0
