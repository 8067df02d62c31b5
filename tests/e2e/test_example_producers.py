"""The example producers do what they say: a good request is sent, a bad one is told why, with coordinates."""

import json
import os
import shutil
import subprocess
import sys
from uuid import uuid4

import pytest

from tests.processes import ROOT
from tests.relevo import address

EXAMPLES = ROOT / "infra" / "examples" / "producers"

INSTALL_S_MAX = 90
RUN_S_MAX = 90


@pytest.fixture(scope="module")
def kafkajs(tmp_path_factory):
    """A folder with what the example needs in its node_modules."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Node.js is not installed here")
    folder = tmp_path_factory.mktemp("kafkajs")
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"]
    try:
        done = subprocess.run(
            [*command, "kafkajs@2.2.4", "lz4-napi@2.10.0"],
            cwd=folder,
            capture_output=True,
            timeout=INSTALL_S_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip("the package registry does not answer")
    if done.returncode != 0:
        pytest.skip("kafkajs cannot be installed here")
    return folder


def run(command, *, given=None, **environment):
    return subprocess.run(
        command,
        input=given,
        env=os.environ | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=RUN_S_MAX,
        check=False,
    )


def ask_with(name, request):
    def ask(bootstrap, to):
        if name == "kafkajs_producer.js":
            # Node looks for packages beside the script: it is copied there, as whoever uses it would.
            folder = request.getfixturevalue("kafkajs")
            shutil.copy(EXAMPLES / name, folder)
            return run(["node", str(folder / name), bootstrap, to, "Alerta", "Se ha detectado."])
        if name == "kcat.sh":
            if shutil.which("kcat") is None:
                pytest.skip("kcat is not installed here (apt install kcat)")
            content = json.dumps({"to": to, "subject": "Alerta", "body": "Se ha detectado."}, indent=1)
            return run(["sh", str(EXAMPLES / name), bootstrap, str(uuid4())], given=content)
        return run([sys.executable, str(EXAMPLES / name), bootstrap, to, "Alerta", "Se ha detectado."])

    return ask


NAMES = ["confluent_producer.py", "aiokafka_producer.py", "kafkajs_producer.js", "kcat.sh"]


def test_every_example_is_run_here():
    files = {path.name for path in EXAMPLES.iterdir() if path.is_file()}
    assert files - {"__init__.py"} == set(NAMES)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", NAMES)
def test_an_example_has_a_mail_sent_and_learns_why_another_is_none(relevo, request, name):
    ask, to = ask_with(name, request), address()
    taken = ask(relevo.servers.kafka_bootstrap, to)
    assert taken.returncode == 0, taken.stderr
    result = json.loads(taken.stdout)
    assert result["status"] == "queued"
    assert result["producer"] in {"example", "/example/kcat"}
    relevo.wait_for(result["id"], "sent")
    assert len(relevo.mailbox.messages(to=to)) == 1

    refused = ask(relevo.servers.kafka_bootstrap, "nobody")
    assert refused.returncode == 1, refused.stderr
    result = json.loads(refused.stdout)
    assert result["status"] == "rejected"
    assert [(each["pointer"], each["code"]) for each in result["errors"]] == [("/to", "invalid_address")]
    assert {"topic", "partition", "offset", "index"} <= result["source"].keys()
