"""The explorer page's files, and how ClickHouse is told to serve them itself: a packaged server and that of `vdx up`."""

from pathlib import Path

FOLDER = Path(__file__).parents[1] / "page"
URL = "/explorer"
# The files lie in this folder of user_files: from nowhere else does ClickHouse serve any.
SERVED_FROM = "vdx_explorer"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".LICENSE": "text/plain"}


def files() -> list[Path]:
    return sorted(FOLDER.iterdir())


def http_handlers(has_others: bool) -> str:
    """The server's <http_handlers>: the page's rules. Without others, its usual handlers are named as well or would go."""
    defaults = "" if has_others else "        <defaults/>\n"
    return f"    <http_handlers>\n{page_rules()}{defaults}    </http_handlers>\n"


def page_rules(headers: str = "") -> str:
    """A rule for each file, for requests with such headers.

    Keys begin with `rule`, as ClickHouse wants them, and are no one else's, since it merges elements of the same name.
    """
    rules = []
    for path in files():
        url = f"regex:{URL}/?" if path.name == "index.html" else f"{URL}/{path.name}"
        name = f"rule_vdx_{path.name.replace('.', '_')}"
        rules.append(
            f"        <{name}>\n"
            f"            <methods>GET,HEAD</methods>\n"
            f"            <url>{url}</url>\n"
            f"{headers}"
            f"            <handler>\n"
            f"                <type>static</type>\n"
            f"                <content_type>{_TYPES[path.suffix]}; charset=UTF-8</content_type>\n"
            f"                <response_content>file://./{SERVED_FROM}/{path.name}</response_content>\n"
            f"            </handler>\n"
            f"        </{name}>\n"
        )
    return "".join(rules)
