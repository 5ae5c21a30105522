"""docs/architecture.md: every folder and file that its table of the journey names is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()


def steps():
    """(folders, files) of each row of the journey's table."""
    table = PAGE.split("| step | folder |", 1)[1].split("\n\n", 1)[0]
    for row in table.splitlines()[2:]:
        _, _, folders, files, _ = row.split("|")
        yield re.findall(r"`([\w/]+/)`", folders), re.findall(r"`([\w/]+\.py)`", files)


def test_the_table_leads_somewhere():
    missing = [
        f"{folders}: {name}"
        for folders, files in steps()
        for name in files
        if not any((ROOT / folder / name).exists() for folder in folders)
    ]
    missing += [folder for folders, _ in steps() for folder in folders if not (ROOT / folder).is_dir()]
    assert missing == []


def test_the_table_covers_the_journey():
    assert len(list(steps())) >= 15
