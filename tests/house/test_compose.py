"""What docker-compose.yml says, as far as that can be held without Docker."""

import ast
import os
import re
import subprocess
from pathlib import Path

from ravenctl.shell import SERVICES

TEXT = (Path(__file__).parents[2] / "docker-compose.yml").read_text()


def test_a_service_names_itself_by_its_container_and_becomes_its_command() -> None:
    (entrypoint,) = re.findall(r"entrypoint: (\[\"sh\".*\])", TEXT)
    asked = [part.replace("$$", "$") for part in ast.literal_eval(entrypoint)]
    told = ["python3", "-c", "import os; print(os.getpid(), os.environ['RAVEN_SERVICE__INSTANCE'])"]
    named = os.environ | {"RAVEN_SERVICE__NAME": "engine", "HOSTNAME": "3f2a9c01b7de"}
    with subprocess.Popen([*asked, *told], env=named, stdout=subprocess.PIPE, text=True) as process:
        output, _ = process.communicate(timeout=20)
    assert output.split() == [str(process.pid), "engine-3f2a9c01b7de"]


def test_every_service_of_raven_is_one_that_may_have_several_containers() -> None:
    found = re.findall(
        r"^  ([a-z-]+):\n    <<: \*service\n(?:    .*\n)*?    environment: .*__NAME: ([a-z-]+)\}", TEXT, re.M
    )
    assert sorted(found) == sorted((name, name) for name in SERVICES)
    assert "container_name" not in TEXT
