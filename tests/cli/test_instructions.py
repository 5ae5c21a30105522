"""README and installer: what a person is told to type is there, and brings what is needed."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_page_speaks_of_every_make_target():
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    pages = "".join((ROOT / page).read_text() for page in ("README.md", "docs/measurements.md"))
    assert [target for target in targets if f"make {target}" not in pages] == []


def test_the_readme_gives_the_services_a_base_they_may_read():
    readme = (ROOT / "README.md").read_text()
    assert "hf download lerobot/smolvla_base --local-dir /opt/" in readme
    assert readme.index("hf download") < readme.index("armfleet doctor")


def test_the_installer_brings_the_headers_for_a_package_that_comes_as_source():
    assert "systemd-python==" in (ROOT / "requirements.lock").read_text()
    packages = re.search(r"^packages=\((.*)\)$", (ROOT / "deploy" / "install.sh").read_text(), re.MULTILINE)
    assert {"gcc", "libsystemd-dev", "python3-dev"} <= set(packages[1].split())
