"""
Why a dial failed, in a plain sentence with its fix: one table, and the errors made from it.

Pure: ``websocket.py`` and ``tunnel.py`` do the waiting, ``outhaul-agent check`` and its manual read the table.
"""

from __future__ import annotations

import socket
import ssl
from typing import Final

import msgspec

from agent.errors import LinkError, LinkRefused

SHOWN_CHARS: Final = 300  # characters of a foreign answer


class Trouble(msgspec.Struct, frozen=True):
    """
    One kind of failure.

    Attributes:
        stage: how far the dial came, as in LinkError.
        means: what it is and how it comes about, for the manual.
        says: what was found, with fields in braces.
        fix: what to do about it, with the same fields.
        refused: whether somebody said no, and a person must cure it.
        floor_s: seconds that pass at least before the next dial.
    """

    stage: str
    means: str
    says: str
    fix: str
    refused: bool = False
    floor_s: float = 0.0


# Directories lock an account after some five wrong passwords in half an hour.
LOGIN_FLOOR_S: Final = 300.0
PERSON_FLOOR_S: Final = 15.0  # cured by a person, who wants to see soon that it is

TROUBLES: Final[dict[str, Trouble]] = {
    # --- the name
    "name-unknown": Trouble(
        "dns",
        "This machine's DNS does not know the broker's name, or no DNS server answers.",
        "the name {host} can't be resolved ({said})",
        "check DNS on this machine; where only a proxy resolves such names, name the proxy in link.proxy",
    ),
    # --- TCP
    "not-reached": Trouble(
        "tcp",
        "The machine answered that nobody listens on that port, or the network says that there is no way to it.",
        "{broker} can't be reached ({said})",
        "does the broker run, and does the firewall allow it?",
    ),
    "no-answer": Trouble(
        "tcp",
        "Nothing came back at all: most often a firewall that drops connections without a word.",
        "{broker} did not answer within {timeout}",
        "does a firewall drop the connection? It must let this machine out to that host and port",
    ),
    # --- the proxy
    "proxy-unknown": Trouble(
        "proxy",
        "This machine's DNS does not know the proxy's name.",
        "the proxy {proxy} has a name that can't be resolved ({said})",
        "check link.proxy, or the system's proxy setting",
    ),
    "proxy-not-reached": Trouble(
        "proxy",
        "Nobody listens at the proxy's host and port.",
        "the proxy {proxy} can't be reached ({said})",
        "check link.proxy, or the system's proxy setting",
    ),
    "proxy-no-answer": Trouble(
        "proxy",
        "The proxy took the connection and then said nothing, or something between us and it swallows it.",
        "{broker} did not answer within {timeout}",
        "does a firewall drop the connection, before the proxy or behind it?",
    ),
    "proxy-untrusted": Trouble(
        "proxy",
        "An `https://` proxy showed a certificate that neither this machine nor `link.extra_authorities` trusts.",
        "the proxy {proxy} has a certificate that this machine does not trust ({said})",
        "put the proxy's authority into a PEM file and name it in link.extra_authorities",
        floor_s=PERSON_FLOOR_S,
    ),
    "proxy-wants-login": Trouble(
        "proxy",
        "The proxy lets nobody pass without a user, and the operator's file names none.",
        "the proxy {proxy} wants a user and password (HTTP {status}; it takes {offers})",
        "link.proxy = http://USER:{{secret:NAME}}@HOST:PORT",
        refused=True,
        floor_s=PERSON_FLOOR_S,
    ),
    "proxy-refused-login": Trouble(
        "proxy",
        "The proxy does not know the user, or the password is wrong or has run out. It is tried seldom, as directories "
        "lock accounts after some wrong passwords.",
        "the proxy {proxy} did not accept the user and password (HTTP {status}, by {scheme})",
        "set the right ones: outhaul-agent secret set NAME; with NTLM and Negotiate the user is DOMAIN%5CUSER",
        refused=True,
        floor_s=LOGIN_FLOOR_S,
    ),
    "proxy-refused-account": Trouble(
        "proxy",
        "The account that runs the service on Windows is not one that the proxy lets pass.",
        "the proxy {proxy} did not accept the account that runs this service (HTTP {status}, by {scheme})",
        "run the service as a gMSA that may pass, or name a user: link.proxy = http://DOMAIN%5CUSER:{{secret:NAME}}@…",
        refused=True,
        floor_s=PERSON_FLOOR_S,
    ),
    "proxy-wants-other": Trouble(
        "proxy",
        "The proxy offers only ways to log in that the agent does not speak, such as Digest.",
        "the proxy {proxy} wants {offers} (HTTP {status}), and the agent knows Basic, NTLM and Negotiate",
        "have its administrator let this machine reach {target} without a login, or with one of these",
        refused=True,
        floor_s=PERSON_FLOOR_S,
    ),
    "proxy-hangs-up": Trouble(
        "proxy",
        "NTLM and Negotiate log in a connection, and this proxy closes it between two steps of that.",
        "the proxy {proxy} closes the connection in the middle of the login by {scheme}",
        "have its administrator switch keep-alive on for CONNECT, or offer Basic",
        floor_s=PERSON_FLOOR_S,
    ),
    "proxy-forbids": Trouble(
        "proxy",
        "The proxy's rules do not allow a tunnel to the broker's host and port.",
        "the proxy {proxy} forbids the way to {target} ({said})",
        "have its administrator allow CONNECT to it",
        refused=True,
        floor_s=PERSON_FLOOR_S,
    ),
    "proxy-can-not": Trouble(
        "proxy",
        "The proxy answered, but does not get to the broker itself: its DNS, its firewall, or the broker is down.",
        "the proxy {proxy} could not reach {target} ({said})",
        "does the broker run, and may the proxy reach it?",
    ),
    "proxy-page": Trouble(
        "proxy",
        "In place of a tunnel came a web page: a portal that wants somebody to log in or to agree, or a block page.",
        "the proxy {proxy} answered with a web page in place of a tunnel ({said})",
        "have its administrator let this machine reach {target} without that page",
        floor_s=PERSON_FLOOR_S,
    ),
    "proxy-no-proxy": Trouble(
        "proxy",
        "What answers at the proxy's address does not speak as an HTTP proxy does.",
        "the proxy {proxy} did not answer as an HTTP proxy does",
        "is it a SOCKS proxy (socks5h://…), or one that speaks TLS (https://…)?",
    ),
    "proxy-cut": Trouble(
        "proxy",
        "The proxy ended the connection before there was a tunnel.",
        "the proxy {proxy} cut the connection ({said})",
        "its log may say why",
    ),
    "socks-wants-login": Trouble(
        "proxy",
        "The SOCKS proxy does not let this user pass, or wants one and the operator's file names none.",
        "the proxy {proxy} {wants} ({said})",
        "link.proxy = socks5h://USER:{{secret:NAME}}@HOST:PORT",
        refused=True,
        floor_s=PERSON_FLOOR_S,
    ),
    # --- TLS
    "reset-in-tls": Trouble(
        "tls",
        "TCP came about, and the connection was reset when TLS began: a firewall that looks into TLS and does not "
        "like the name or TLS 1.3.",
        "{broker} cut the connection before TLS was done ({said})",
        "does a firewall or an old proxy reset it? Have this host exempted from inspection",
    ),
    "silent-in-tls": Trouble(
        "tls",
        "TCP came about, and TLS was never answered: another program, or a firewall that swallows it.",
        "{broker} did not answer within {timeout}, once connected, when TLS began",
        "does a firewall drop the connection? Have this host exempted from inspection",
    ),
    "no-tls": Trouble(
        "tls",
        "What answers does not speak TLS.",
        "{broker} does not speak TLS",
        "is another program on this port?",
    ),
    "page-for-tls": Trouble(
        "tls",
        "In place of TLS came a web page: a portal between this machine and the net that wants somebody to log in.",
        "{broker} does not speak TLS but answers with a web page ({said})",
        "a portal stands in the way; have its administrator let this machine pass without it",
        floor_s=PERSON_FLOOR_S,
    ),
    "old-tls": Trouble(
        "tls",
        "The other end knows no TLS 1.3, which every broker does.",
        "{broker} does not speak TLS 1.3",
        "is it a broker, or a proxy that inspects? Have this host exempted from inspection",
    ),
    "no-tls-done": Trouble(
        "tls",
        "TLS did not come about for another reason.",
        "{broker}: no TLS connection came about ({said})",
        "the broker's log may say why",
    ),
    "inspected": Trouble(
        "tls",
        "Something on the way opens TLS and shows a certificate of its own. The agent trusts only the broker's "
        "authority, and its own certificate can't pass through an inspection.",
        "{broker}: the link is inspected by {issuer}{known}; the certificate was issued by it, not by the broker's "
        "authority that the token named",
        "have TLS inspection switched off for this host: it can't work with the agent's own certificate",
        floor_s=PERSON_FLOOR_S,
    ),
    "other-authority": Trouble(
        "tls",
        "A broker answers, but of another authority than the one in the token: it was set up anew, or it is another.",
        "{broker}: the certificate was issued by {issuer}, not by the broker's authority that the token named",
        "the broker was set up anew (then enrol again with a new token), or the link is inspected on the way (then "
        "have TLS inspection switched off for this host)",
        floor_s=PERSON_FLOOR_S,
    ),
    "untrusted": Trouble(
        "tls",
        "The certificate is not from the broker's authority, and could not be looked at a second time.",
        "{broker}: the certificate was not issued by the broker's authority that the token named ({said})",
        "either the link is inspected on the way (then have TLS inspection switched off for this host), or the broker "
        "was set up anew (then enrol again with a new token)",
    ),
    "wrong-time": Trouble(
        "tls",
        "The broker's certificate is not valid by this machine's clock: most often the clock is wrong.",
        "{broker}: the certificate{validity} does not fit this machine's clock, which says {now}{skew}",
        "set the clock, or have the broker's certificate renewed if the clock is right",
    ),
    "wrong-name": Trouble(
        "tls",
        "The broker's certificate is for other names than the one that was dialled.",
        "{broker}: the certificate is not for {host}{names}",
        "[link] public_url in the broker's file must name a host that agents dial",
        floor_s=PERSON_FLOOR_S,
    ),
    # --- the agent's certificate
    "certificate-ran-out": Trouble(
        "certificate",
        "The agent's own certificate has run out, and the broker does not take it any more.",
        "the broker {broker} did not accept this agent's certificate: it ran out on {ended}",
        "a running agent gets another by itself for as long as the broker allows; after that, enrol again with a new "
        "token",
        refused=True,
    ),
    "certificate-refused": Trouble(
        "certificate",
        "The broker does not take the agent's own certificate: it is another broker's, or was revoked.",
        "the broker {broker} did not accept this agent's certificate: {said}",
        "enrol again with a new token",
        refused=True,
    ),
    # --- HTTP
    "refused": Trouble(
        "http",
        "The broker knows this agent and does not let it in; its own words say why.",
        "the broker {broker} refused this agent: {said}",
        "see what it says; `outhaul-broker agent list` shows the agent's state",
        refused=True,
    ),
    "busy": Trouble(
        "http",
        "The broker, or what stands before it, is overloaded or stopping.",
        "{broker} is busy or stopping (HTTP {status})",
        "it is tried again by itself",
    ),
    "redirect": Trouble(
        "http",
        "Something answers with the address of another place: a gateway, or a portal that wants a login.",
        "{broker} sends us on to {location}; an agent goes only where its token says",
        "point the agent at the broker itself; a portal must let this machine pass",
        floor_s=PERSON_FLOOR_S,
    ),
    "page": Trouble(
        "http",
        "A web page came where a websocket was asked for: a portal, a block page or another web server.",
        "{broker} answered with a web page (HTTP {status}: {said}), not as a broker of Outhaul does",
        "is another program on this port, or does a portal stand in the way?",
        floor_s=PERSON_FLOOR_S,
    ),
    "no-broker": Trouble(
        "http",
        "What answers is a web server, but no broker.",
        "{broker} answered {said}, not as a broker of Outhaul does",
        "is another program on this port?",
        floor_s=PERSON_FLOOR_S,
    ),
    "other-websocket": Trouble(
        "http",
        "What answers is a websocket of another program.",
        "{broker} is a websocket, but not one of an Outhaul broker",
        "is another program on this port?",
        floor_s=PERSON_FLOOR_S,
    ),
    "upgrade-swallowed": Trouble(
        "http",
        "TLS came about, and the request for a websocket was never answered.",
        "{broker} let us connect but did not answer within {timeout}",
        "does something on the way swallow websockets?",
    ),
    "upgrade-cut": Trouble(
        "http",
        "TLS came about, and the connection ended before the broker answered.",
        "{broker} ended the connection before it answered ({said})",
        "it may be stopping, or something on the way cuts websockets",
    ),
    "other": Trouble(
        "setup",
        "Something that nobody foresaw; the message has its words.",
        "{broker}: {said}",
        "if it stays, send the message to who supports you",
    ),
}


def trouble(name: str, *, retry_after_s: float = 0.0, **facts: object) -> LinkError:
    """Return what to raise for one of ``TROUBLES``, with its fields filled in."""
    found = TROUBLES[name]
    kind = LinkRefused if found.refused else LinkError
    return kind(
        found.says.format_map(facts),
        stage=found.stage,
        retry_after_s=retry_after_s,
        trouble=name,
        floor_s=found.floor_s,
        fix=found.fix.format_map(facts),
    )


def in_general(text: str) -> str:
    """Return a text of the table as the manual has it: each field in capitals, and what is not always said left out."""
    return text.format_map(_Names())


class _Names(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return _IN_GENERAL.get(name, name.upper())


_IN_GENERAL: Final = {"known": "", "names": "", "skew": "", "validity": "", "wants": "wants a user and password"}


def short(exc: BaseException) -> str:
    """Return a foreign error's own words."""
    said = exc.strerror if isinstance(exc, OSError) else None
    return (said or str(exc) or type(exc).__name__)[:SHOWN_CHARS]


def proxy_not_reached(proxy: str, exc: OSError) -> LinkError:
    """Return what to raise where the proxy itself was not reached."""
    if isinstance(exc, ssl.SSLError):
        reason = exc.reason or ""
        if reason in NOT_TLS:
            return trouble("proxy-no-proxy", proxy=proxy)
        return trouble("proxy-untrusted", proxy=proxy, said=getattr(exc, "verify_message", "") or reason or short(exc))
    if isinstance(exc, socket.gaierror):
        return trouble("proxy-unknown", proxy=proxy, said=short(exc))
    return trouble("proxy-not-reached", proxy=proxy, said=short(exc))


NOT_TLS: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG")
"""OpenSSL's reasons where what answered was no TLS."""
