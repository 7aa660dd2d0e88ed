# SPDX-License-Identifier: Apache-2.0
"""Whom a browser may speak to this server for: under which names it is asked, and by which pages.

A browser sends whatever a page it visits wants to any address it can reach, loopback included. What it adds by itself
tells such requests apart: ``Host`` is the name the page used, which no page of another name can make a name of this
server's, even if it resolves to this machine; ``Origin`` and ``Sec-Fetch-Site`` say whose page it was.
"""

from __future__ import annotations

import ipaddress

from starlette.datastructures import Headers

from freqfusion_runtime.serving.operation.errors import CrossSiteError, WrongHostError
from freqfusion_runtime.serving.operation.settings import Settings

ANY = "*"
_READING = ("GET", "HEAD", "OPTIONS")
_OWN = ("same-origin", "none")  # values of Sec-Fetch-Site: of a page of ours, and of no page at all


class Origins:
    """The check that each HTTP request passes first.

    Args:
        settings: The address listened on, and the names allowed beside it.
    """

    def __init__(self, settings: Settings) -> None:
        self._names = {_bare(name) for name in settings.allowed_hosts}
        self._listens_on = _bare(settings.host)
        self._is_loopback = is_loopback(self._listens_on)
        # Beyond loopback the names of a machine are not known here.
        self._takes_any = ANY in self._names or (not self._is_loopback and not self._names)

    def check(self, method: str, headers: Headers) -> None:
        """Refuses a request that a page of somebody else may have made a browser send.

        Raises:
            WrongHostError: If it is for a server of another name.
            CrossSiteError: If it would make the server do something for another site's page.
        """
        hosts = headers.getlist("host")
        if not self._takes_any:
            for host in hosts:
                if not self._is_ours(_name_of(host)):
                    raise WrongHostError(_name_of(host))
        if method not in _READING:
            self._check_page(hosts[0] if hosts else "", headers.get("origin"), headers.get("sec-fetch-site"))

    def _is_ours(self, name: str) -> bool:
        if name in self._names or name == self._listens_on or is_loopback(name):
            return True
        # A page cannot have an address for its name unless it is served from there; probes of orchestrators do so.
        return not self._is_loopback and _is_address(name)

    def _check_page(self, host: str, origin: str | None, site: str | None) -> None:
        if site in _OWN or (origin is None and site is None):
            return
        whose = (origin or "").partition("://")[2].lower()
        if site is None and whose and whose == host.lower():  # browsers leave Sec-Fetch-Site out where there is no TLS
            return
        if _name_of(whose) in self._names:
            return
        raise CrossSiteError(origin or site or "")


def is_loopback(name: str) -> bool:
    """Whether a name or address, without port and brackets, is this machine's for itself."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    return _is_address(name) and ipaddress.ip_address(name).is_loopback


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _name_of(host: str) -> str:
    """The name in a ``Host`` header or an origin, without the port."""
    if host.startswith("["):
        return _bare(host.partition("]")[0])
    name, colon, port = host.rpartition(":")
    return _bare(name if colon and (port.isdigit() or not port) else host)


def _bare(name: str) -> str:
    return name.strip().strip("[]").rstrip(".").lower()
