"""How much the gate finds, beside public dataset checkers on the same corpus of broken and sound episodes.

    make bench-gate            # about 200 broken and 30 sound episodes; PEERS=0 without the other checkers

The corpus (`tests/corpus`) is made anew from a seed into a temporary folder; motion comes from real traces
where they lie beside the checkout, else from a model of them. Each case is one call of `armfleet gate --json`
on folders the command knows nothing about, with `--history` where the case has companion episodes. A defect
counts as found when the episode is quarantined with a check id that fits it, or, where training can cut the
defect off, admitted with a note that fits.

Exits with 1 when fewer than 95 % of the plain and blatant or 75 % of the subtle defects are found, when a
sound episode is quarantined, or when an episode costs a second of processor time (all sound ones in one call,
as an import judges them; a call for one episode also starts Python: `seconds_per_call`).
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gate.corpus_truth import Case, Corpus, read_corpus
from benchmarks.gate.peers import PEERS, Opinion, Peer
from benchmarks.outcome import measured
from shared.errors import ArmfleetError

ROOT = Path(__file__).resolve().parents[1]
TRACES = ROOT.parent / "shared" / "data" / "so101_teleop.parquet"
PLAIN_TARGET, SUBTLE_TARGET, SECONDS_TARGET = 0.95, 0.75, 1.0
CALL_S = 300.0
SEVERITIES = ("subtle", "plain", "blatant")


@dataclass
class Result:
    """What came of one case.

    Attributes:
        found: The defect was found for a fitting reason.
        fitting: The first id that fits.
        others: Further ids that led to quarantine.
        refused: An episode was quarantined, for whatever reason.
        undecided: The gate could not judge, or did not answer.
        peers: What those say that were asked.
    """

    case: Case
    found: bool = False
    fitting: str = ""
    others: list[str] = field(default_factory=list)
    refused: bool = False
    undecided: bool = False
    peers: dict[str, Opinion] = field(default_factory=dict)


def judged(case: Case, lines: list[dict[str, Any]]) -> Result:
    """Compare the gate's lines on a case with the truth. Pure."""
    result = Result(case)
    for line in lines:
        quarantined = line["verdict"] == "quarantined"
        result.refused |= quarantined
        result.undecided |= line["verdict"] == "undecidable"
        named = [reason["check"] for reason in line["reasons"]] if quarantined else []
        if case.trim and line["verdict"] == "admitted":
            named += [note["check"] for note in line["notes"]]
        fitting = [check for check in named if check.startswith(tuple(case.fits))] if case.fits else []
        if fitting and not result.found:
            result.found, result.fitting = True, fitting[0]
        if quarantined:
            result.others += [check for check in named if check not in fitting]
    result.undecided |= not lines
    return result


class Stopwatch:
    """Processor seconds of the processes that were started and ended within its blocks, and how many episodes
    they were for."""

    def __init__(self) -> None:
        self.seconds, self.episodes = 0.0, 0

    @contextmanager
    def over(self, episodes: int) -> Iterator[None]:
        """Count a block."""
        before = _spent()
        yield
        self.seconds += _spent() - before
        self.episodes += episodes

    @property
    def per_episode(self) -> float | None:
        """Mean, or None before the first."""
        return round(self.seconds / self.episodes, 3) if self.episodes else None


def _spent() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def ask_gate(corpus: Path, case: Case, watch: Stopwatch) -> list[dict[str, Any]]:
    """The lines of `armfleet gate` on a case; none when it failed."""
    history = ["--history", str(corpus / case.history)] if case.history is not None else []
    with watch.over(len(case.paths)):
        done = _gate([*(str(corpus / path) for path in case.paths), *history])
    try:
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.strip()]
    except ValueError:
        lines = []
    if not lines:
        print(f"{case.name}: no answer ({done.returncode}): {done.stderr.strip()[-300:]}", flush=True)
    return lines


def _gate(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli.main", "gate", "--json", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=CALL_S, check=False)


def time_together(corpus: Path, cases: Sequence[Case]) -> Stopwatch:
    """Judge the episodes of all cases in one call.

    Raises:
        ArmfleetError: not all of them were judged: the time would say nothing.
    """
    watch, paths = Stopwatch(), [str(corpus / path) for case in cases for path in case.paths]
    if paths:
        with watch.over(len(paths)):
            done = _gate(paths)
        if (lines := len(done.stdout.splitlines())) < len(paths):
            raise ArmfleetError(f"the gate judged {lines} of {len(paths)} episodes: {done.stderr[-300:]}")
    return watch


def make_corpus(out: Path, seed: int, motion: Path | None, only: list[str]) -> None:
    """Run the generator in a process of its own."""
    command = [sys.executable, "-m", "corpus", str(out), "--seed", str(seed)]
    command += ["--motion", str(motion)] if motion else []
    command += ["--only", *only] if only else []
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ArmfleetError(f"the corpus could not be made: {done.stderr.strip()[-500:]}")


def table(results: list[Result], peers: Sequence[str]) -> str:
    """Per class and severity what was found and by which check, and what the peers found."""
    marks = {True: "+", False: "-"}
    heads = "".join(f" {peer.removeprefix('lerobot-'):>9.9}" for peer in peers)
    lines = [f"{'defect':<24}{'found':<8}{heads}  check that found it (and what else was said)"]
    defects = [result for result in results if result.case.kind == "defect"]
    for name in dict.fromkeys(result.case.defect for result in defects):
        rows = [result for result in defects if result.case.defect == name]
        cells = ["".join(marks[found_by(peer, row, results)] for row in rows) for peer in peers]
        lines.append(
            f"{name:<24}{''.join(marks[row.found] for row in rows):<8}"
            + "".join(f" {cell:>9}" for cell in cells)
            + "  "
            + " | ".join(_said(row) for row in rows)
        )
    lines += ["", f"{'sound':<24}{'':<8}{heads}"]
    for row in results:
        if row.case.kind == "sound":
            verdict = "REFUSED" if row.refused else "?" if row.undecided else "ok"
            cells = ["refused" if row.peers[peer].rejected else "ok" for peer in peers]
            lines.append(
                f"{row.case.defect:<24}{verdict:<8}"
                + "".join(f" {cell:>9}" for cell in cells)
                + f"  {', '.join(row.others)}"
            )
    lines += [
        "",
        "Marks: subtle, plain, blatant. A defect counts as found by a peer when it reports anything, above",
        "its level of information, that it reports for no sound episode, whether or not it names the defect.",
    ]
    return "\n".join(lines)


def found_by(peer: str, row: Result, results: list[Result]) -> bool:
    """Whether a peer says something of this case that it says of no sound one. Pure."""
    sound = [result.peers[peer].said for result in results if result.case.kind == "sound"]
    return bool(row.peers[peer].said.difference(*sound))


def _said(row: Result) -> str:
    others = ",".join(dict.fromkeys(row.others))
    if row.found:
        return row.fitting + (f" ({others})" if others else "")
    if row.undecided:
        return "undecidable"
    return f"({others})" if others else "-"


def figures(results: list[Result], calls: Stopwatch, together: Stopwatch) -> tuple[bool, dict[str, Any]]:
    """Whether the gate met its targets, and the numbers; `calls` timed one call per case, `together` one for
    all sound episodes."""
    defects = [result for result in results if result.case.kind == "defect"]
    sound = [result for result in results if result.case.kind == "sound"]
    by_severity = {
        severity: [result.found for result in defects if result.case.severity == severity]
        for severity in SEVERITIES
    }
    refused = sum(result.refused for result in sound)
    numbers: dict[str, Any] = {
        "defects": len(defects),
        "defects_found": sum(result.found for result in defects),
        "sound": len(sound),
        "sound_refused": refused,
        "sound_undecided": sum(result.undecided for result in sound),
        "seconds_per_episode": together.per_episode,
        "seconds_per_call": calls.per_episode,
    }
    for severity, found in by_severity.items():
        numbers |= {severity: len(found), f"{severity}_found": sum(found)}
    coarse = by_severity["plain"] + by_severity["blatant"]
    ok = (
        refused == 0
        and _share(coarse) >= PLAIN_TARGET
        and _share(by_severity["subtle"]) >= SUBTLE_TARGET
        and (together.per_episode or 0.0) < SECONDS_TARGET
    )
    return ok, numbers


def _share(found: list[bool]) -> float:
    return sum(found) / len(found) if found else 1.0


def ask_peer(peer: Peer, corpus: Path, results: list[Result], say: Callable[[str], None]) -> dict[str, Any]:
    """Let a peer judge every case and note what it says in the results; its figures, null where it could not
    be installed."""
    say(f"installing {peer.name} …")
    if why := peer.install():
        say(f"{peer.name} could not be installed: {why}")
        return dict.fromkeys(
            [f"{peer.key}_{figure}" for figure in ("defects_found", "sound_refused", "seconds_per_episode")]
        )
    watch = Stopwatch()
    episodes = sum(len(result.case.paths) for result in results)
    with watch.over(episodes), ThreadPoolExecutor(os.cpu_count()) as pool:  # its answers take seconds each
        answers = pool.map(lambda result: _opinion(peer, corpus, result.case), results)
        for at, (result, opinion) in enumerate(zip(results, answers, strict=True), 1):
            result.peers[peer.name] = opinion
            if at % 20 == 0:
                say(f"{peer.name}: {at} of {len(results)} cases")
    defects = [result for result in results if result.case.kind == "defect"]
    sound = [result for result in results if result.case.kind == "sound"]
    return {
        f"{peer.key}_defects_found": sum(found_by(peer.name, result, results) for result in defects),
        f"{peer.key}_sound_refused": sum(result.peers[peer.name].rejected for result in sound),
        f"{peer.key}_seconds_per_episode": watch.per_episode,
    }


def _opinion(peer: Peer, corpus: Path, case: Case) -> Opinion:
    opinions = [peer.ask(corpus / path) for path in case.paths]
    said = frozenset[str]().union(*(opinion.said for opinion in opinions))
    return Opinion(said, any(opinion.rejected for opinion in opinions))


def measure(options: argparse.Namespace) -> tuple[bool, dict[str, Any]]:
    """Makes the corpus, asks everybody, prints the table; whether the targets are met, and the figures."""

    def say(text: str) -> None:
        print(text, flush=True)

    folder = Path(tempfile.mkdtemp(prefix="armfleet-bench-gate-"))
    try:
        place = options.corpus or folder / "corpus"
        if options.corpus is None:
            say(f"making the corpus, motion from {options.motion or 'the model'} …")
            make_corpus(place, options.seed, options.motion, options.only)
        corpus: Corpus = read_corpus(place)
        wanted = tuple(options.only) or ("",)
        cases = [case for case in corpus.cases if case.name.startswith(wanted)]
        watch, results = Stopwatch(), []
        for at, case in enumerate(cases, 1):
            results.append(judged(case, ask_gate(place, case, watch)))
            if at % 20 == 0:
                say(f"armfleet: {at} of {len(cases)} cases")
        together = time_together(place, [case for case in cases if case.kind == "sound"])
        ok, numbers = figures(results, watch, together)
        for peer in PEERS if options.peers else ():
            numbers |= ask_peer(peer, place, results, say)
        print(table(results, list(results[0].peers) if results else []))
        return ok, numbers
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, and returns the exit status; the last line is JSON."""
    parser = argparse.ArgumentParser(description="What the gate finds in a corpus of broken episodes.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--motion",
        type=Path,
        default=TRACES if TRACES.is_file() else None,
        help="parquet file with real traces (default: the one beside the checkout, if it is there)",
    )
    parser.add_argument("--corpus", type=Path, help="a finished corpus, instead of making one")
    parser.add_argument("--only", nargs="*", default=[], help="beginnings of the names of the wanted cases")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="ask only the gate")
    parser.add_argument("--out", type=Path, default=ROOT / "bench-gate.json", help="the result as JSON")
    options = parser.parse_args(arguments)
    return measured("bench-gate", options.out, lambda: measure(options))


if __name__ == "__main__":
    sys.exit(main())
