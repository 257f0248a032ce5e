"""The bundle in a real ClickHouse server in a container; skipped where no Docker engine answers."""

import shutil
import subprocess
import time

import pytest
import requests
from testcontainers.core.container import DockerContainer
from testcontainers.core.image import DockerImage

from tests.conftest import vdx
from tests.test_docs import ROOT
from vdx_udf import engine

HTTP_PORT = 8123


@pytest.fixture(scope="module")
def url():
    """The HTTP address of a server built from docker/Dockerfile with the bundled model."""
    engine_answers = shutil.which("docker") and subprocess.run(["docker", "info"], capture_output=True, text=True)
    if not engine_answers or engine_answers.returncode:
        pytest.skip(f"no Docker engine answers: {engine_answers.stderr.strip() if engine_answers else 'no docker command'}")
    image = DockerImage(ROOT, tag="vdx-udf-test", dockerfile_path="docker/Dockerfile", buildargs={"MODEL": "vdx-tiny"})
    with image, DockerContainer(str(image)).with_exposed_ports(HTTP_PORT).with_env("CLICKHOUSE_SKIP_USER_SETUP", "1") as server:
        url = f"http://{server.get_container_host_ip()}:{server.get_exposed_port(HTTP_PORT)}"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                if requests.get(f"{url}/ping", timeout=5).ok:
                    break
            except requests.ConnectionError:
                pass
            time.sleep(0.5)
        yield url


@pytest.mark.timeout(1800)
def test_the_server_embeds_and_the_doctor_is_content(url):
    client = engine.connect_server(url)
    assert client.query("SELECT length(encode_text('a red circle'))").result_rows == [(512,)]
    assert client.query("SELECT count() FROM search_text(query = 'a red circle', k = 3)").result_rows == [(0,)]
    with pytest.raises(Exception, match="lies outside the allowed folders"):
        client.query("SELECT encode_image('/etc/passwd')")
    assert vdx("doctor", "--url", url).stdout.count("ok  ") == 6
