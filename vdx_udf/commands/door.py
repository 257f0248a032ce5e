"""Who is let in to the server of `vdx up`, as ClickHouse's own configuration says it.

Pages of other sites can make a browser send requests here. ClickHouse itself turns them away: each of its HTTP handlers asks
for headers that only this machine's own pages, and programs, send. Anything else gets the answer to an unknown address, 404.
"""

import hashlib
import ipaddress
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from vdx_udf.installer import explorer

LOOPBACK = "127.0.0.1"
# Literal addresses, which no site's owner made resolve here, as browsers write them. Not 0. and ::, which lead to loopback,
# too, and for which browsers do not say which site a request comes from; nor 127., where they differ.
_ADDRESSES = r"([1-9][0-9]?|1[013-9][0-9]|12[0-689]|2[0-9]{2})(\.[0-9]+){3}|\[[1-9a-f][0-9a-f:.]*\]"


@dataclass(frozen=True)
class Door:
    """Ports on loopback and on the IP address `listen`; `native_port` 0: none. `user` may come from other machines."""

    port: int
    native_port: int = 0
    listen: str = LOOPBACK
    user: str | None = None
    password: str = ""

    @property
    def is_open(self) -> bool:
        """Whether other machines reach it."""
        return not ipaddress.ip_address(self.listen).is_loopback

    @property
    def addresses(self) -> list[str]:
        if ipaddress.ip_address(self.listen).is_unspecified:  # any, loopback among them
            return [self.listen]
        return list(dict.fromkeys((self.listen, LOOPBACK)))

    @property
    def names(self) -> list[str]:
        """Hosts that the addresses of this machine's own pages have, first the one for people to use."""
        listen = [name for name in self.addresses if not ipaddress.ip_address(name).is_unspecified]
        listen = [f"[{name}]" if ":" in name else name for name in listen]
        machine = [socket.gethostname(), socket.getfqdn()] if self.is_open else []
        return list(dict.fromkeys((*listen, *machine, LOOPBACK, "localhost", "[::1]")))

    def config(self, users: Path) -> str:
        """What goes over the prefix's own configuration. `users`: the file with users()."""
        native = f"    <tcp_port>{self.native_port}</tcp_port>\n" if self.native_port else ""
        listen = "".join(f"    <listen_host>{address}</listen_host>\n" for address in self.addresses)
        return (
            f"<clickhouse>\n    <http_port>{self.port}</http_port>\n{native}{listen}"
            f"    <users_config>{escape(str(users))}</users_config>\n"
            f'    <http_handlers replace="1">\n{self._handlers()}    </http_handlers>\n</clickhouse>\n'
        )

    def users(self) -> str:
        """`default`, as which the server itself starts, has no password and is for loopback; `user` is for any address.

        From this machine's other addresses, too: browsers say for loopback alone which site a request comes from.
        """
        # ClickHouse takes each of 127. for ::1 and would take that, as an address, for any that this machine has: so a network.
        allowed = [("default", "<no_password/>", "<ip>::/127</ip>")]
        if self.user:
            digest = hashlib.sha256(self.password.encode()).hexdigest()
            allowed.append((self.user, f"<password_sha256_hex>{digest}</password_sha256_hex>", "<ip>::/0</ip>"))
        users = "".join(
            f"        <{name}>{secret}<networks>{networks}</networks><profile>default</profile><quota>default</quota>"
            f"<named_collection_control>1</named_collection_control></{name}>\n"
            for name, secret, networks in allowed
        )
        return (
            f"<clickhouse>\n    <profiles><default/></profiles>\n    <quotas><default/></quotas>\n"
            f"    <users>\n{users}    </users>\n</clickhouse>\n"
        )

    def _handlers(self) -> str:
        names = "|".join(map(re.escape, self.names))
        # A name that somebody made resolve to this machine shows in Host; an address was not resolved.
        addresses = f"|{_ADDRESSES}" if self.is_open else ""
        host = f"<host>regex:(?i)({names}{addresses})(:[0-9]+)?</host>"
        # Browsers say in Sec-Fetch-Site where a request comes from, which no page can set; earlier ones, and any on another
        # machine without TLS, only in Origin. Programs send neither.
        visit = f"{host}<sec-fetch-site>regex:(same-origin|none)?</sec-fetch-site>"
        own_page = f"{host}<sec-fetch-site>same-origin</sec-fetch-site>"
        # The explorer sends a header that pages of other sites may send only if OPTIONS is answered so: no rule answers it.
        explorer_page = f"{visit}<x-clickhouse-user>regex:.+</x-clickhouse-user>"
        origin = f"<origin>regex:(?i)(http://({names}):{self.port})?</origin>"
        no_page = f"{host}<sec-fetch-site>regex:(none)?</sec-fetch-site>{origin}"
        query = "<type>dynamic_query_handler</type><query_param_name>query</query_param_name>"
        rules = (
            ("ping", "<url>/ping</url>", host, "<type>ping</type>"),
            ("play", "<url>/play</url>", visit, "<type>play</type>"),
            ("dashboard", "<url>/dashboard</url>", visit, "<type>dashboard</type>"),
            ("uplot", "<url>/js/uplot.js</url>", host, "<type>js</type>"),
            ("lz_string", "<url>/js/lz-string.js</url>", host, "<type>js</type>"),
            ("query_of_own_page", "<methods>GET,HEAD,POST</methods>", own_page, query),
            ("query_of_explorer", "<methods>GET,HEAD,POST</methods>", explorer_page, query),
            ("query", "<methods>GET,HEAD,POST</methods>", no_page, query),
        )
        return explorer.page_rules(f"            <headers>{host}</headers>\n") + "".join(
            f"        <rule_{name}>{request}<headers>{headers}</headers><handler>{handler}</handler></rule_{name}>\n"
            for name, request, headers, handler in rules
        )
