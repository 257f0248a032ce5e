"""The servers of docker/ in containers, for the tests; where no Docker engine answers they are skipped and say why."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.server import image

ROOT = Path(__file__).parents[2]
TAG = "vdx-udf-test"
PASSWORD = "for-tests"


@dataclass(frozen=True)
class Container:
    """A server in a container, as the tests of tests/server see one."""

    url: str
    execute: Sequence[str]  # the command that runs another one in the container
    login: Sequence[str] = ()

    def client(self, *arguments: str) -> str:
        """What clickhouse-client in the container answers."""
        return subprocess.run(
            [*self.execute, image.CLIENT, *self.login, *arguments], check=True, capture_output=True, text=True
        ).stdout


def require() -> None:
    """Skips the test where no Docker engine answers; fails it under `make test-server`."""
    found = shutil.which("docker") and subprocess.run(["docker", "info"], capture_output=True, text=True, timeout=60)
    if found and found.returncode == 0:
        return
    reason = f"no Docker engine answers: {' '.join(found.stderr.split()) if found else 'no docker command'}"
    if os.environ.get("VDX_REQUIRE_DOCKER"):
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def single(version: str = image.LTS, shared: Path | None = None) -> Iterator[Container]:
    """One server of docker/Dockerfile, with the bundled model. With `shared`, a folder of this machine, it runs as root and reads
    any path, as the embedded engine does: for the SQL suite, which names files that it makes.
    """
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.image import DockerImage
    from testcontainers.core.wait_strategies import HttpWaitStrategy

    built = DockerImage(
        ROOT, tag=f"{TAG}:{version}", clean_up=False, dockerfile_path="docker/Dockerfile",
        buildargs={"CLICKHOUSE": version, "MODEL": "vdx-tiny"},
    )  # fmt: skip
    with built:
        server = DockerContainer(str(built)).with_exposed_ports(image.HTTP_PORT)
        for name, value in image.OPEN_DEFAULT_USER.items():
            server = server.with_env(name, value)
        if shared:
            opened = shared / "any_path.xml"
            opened.write_text("<clickhouse><user_files_path>/</user_files_path></clickhouse>")
            server = server.with_kwargs(user="root").with_env("CLICKHOUSE_RUN_AS_ROOT", "1")
            server = server.with_volume_mapping(str(shared), str(shared), "rw")
            server = server.with_volume_mapping(str(opened), f"{image.CONFIG_DIR}/config.d/any_path.xml", "ro")
        server = server.waiting_for(HttpWaitStrategy(image.HTTP_PORT, "/ping").for_status_code(200).with_startup_timeout(1800))
        with server:
            execute = ("docker", "exec", server.get_wrapped_container().id)
            if shared:  # paths are the encoder's to allow
                worker = "/opt/vdx-udf/data/user_scripts/vdx_worker.json"
                subprocess.run([*execute, "sed", "-i", 's#"--allow"#"--allow", "/", "--allow"#', worker], check=True)
            yield Container(f"http://{server.get_container_host_ip()}:{server.get_exposed_port(image.HTTP_PORT)}", execute)


@contextmanager
def cluster() -> Iterator[tuple[str, list[Container]]]:
    """The nodes of docker/compose.cluster.yml, the first of each shard; and the address of the first, the only one with a port."""
    from testcontainers.compose import DockerCompose

    os.environ["CLICKHOUSE_PASSWORD"] = PASSWORD
    with DockerCompose(ROOT / "docker", "compose.cluster.yml", build=True, wait=False) as compose:
        address = f"127.0.0.1:{image.HTTP_PORT}"
        compose.wait_for(f"http://{address}/ping")
        nodes = [compose.get_container(f"shard{shard}-replica1") for shard in (1, 2)]
        yield (
            f"http://vdx:{PASSWORD}@{address}",
            [Container(address, ("docker", "exec", str(node.ID)), ("--user", "vdx", "--password", PASSWORD)) for node in nodes],
        )
