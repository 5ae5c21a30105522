"""Tables in the documentation that tests make, most of them in docs/faults.md; and what the log says."""

import os
import re
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs/faults.md"
LOUD = re.compile(r"\S+ (WARNING|ERROR|CRITICAL)\s+arm: (.*?)(  \[.*\])?$")


def said(log: str, folder: Path) -> list[str]:
    """Warnings and worse in the arm process's log, each once, without what differs from run to run.

    Args:
        log: Its lines.
        folder: The virtual workstation's.
    """
    matches = (LOUD.match(line) for line in log.splitlines())
    sentences = (_plain(match[2], folder) for match in matches if match)
    return list(dict.fromkeys(each for each in sentences if not each.startswith("lerobot.")))


def plain(sentence: str) -> str:
    """The supply is the same at each joint; the one sampled first is named."""
    return re.sub(r" at joint \d \(\w+\)", " at joint N", sentence)


def _plain(sentence: str, folder: Path) -> str:
    sentence = sentence.replace(str(folder), "PORTS")
    sentence = re.sub(r"(?<=is lost: )\w+: .*?(?=\. Kept)", "…", sentence)  # the kernel's words vary
    return plain(re.sub(r"episode \d+", "episode N", sentence))


def table(head: list[str], rows: list[list[str]]) -> str:
    """In Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def check_page(name: str, made: str, measured: str = r"(?!)", page: Path = PAGE) -> None:
    """The page's table `name` is `made`, but for what matches `measured`; WRITE_FAULTS=1 writes it."""
    begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
    before, _, rest = page.read_text().partition(begin)
    written, _, after = rest.partition(end)
    if os.environ.get("WRITE_FAULTS"):
        page.write_text(before + begin + made + end + after)
        written = made
    same = re.sub(measured, "N", written) == re.sub(measured, "N", made)
    assert same, f"WRITE_FAULTS=1 writes the page anew\n{made}"
