"""What docker/ and its tests take for granted of the official image, each with where it says so.

Source: the Dockerfile and entrypoint.sh in ClickHouse's repository, docker/server/ (Dockerfile.ubuntu, the default tag).
"""

REPOSITORY = "clickhouse/clickhouse-server"
LTS = "25.8"  # the oldest version that the bundle supports
NEWEST = "latest"
CONFIG_DIR = "/etc/clickhouse-server"  # ENV CLICKHOUSE_CONFIG=/etc/clickhouse-server/config.xml
DATA_DIR = "/var/lib/clickhouse"  # VOLUME; <path> of the packaged config.xml
USER, UID = "clickhouse", 101  # "user/group precreated explicitly with fixed uid/gid"
HTTP_PORT, TCP_PORT, INTERSERVER_PORT = 8123, 9000, 9009  # EXPOSE 9000 8123 9009
ENTRYPOINT = "/entrypoint.sh"
# Statements of *.sql there run in the order of their names, by clickhouse-client, when the data folder is new.
INIT_DIR = "/docker-entrypoint-initdb.d"
CLIENT = "clickhouse-client"  # on the PATH, from the package of that name
# The image is Ubuntu without python3: the Dockerfile installs it. wget is there, which the health checks use.
HAS = ("wget", "ca-certificates")
LACKS = ("python3",)
# Without a password the user `default` may connect from the container only, unless this is set (ClickHouse 25.1 and later).
OPEN_DEFAULT_USER = {"CLICKHOUSE_SKIP_USER_SETUP": "1"}
