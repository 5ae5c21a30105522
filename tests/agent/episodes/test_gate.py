"""The command: folders in, one line per episode out, whatever state the folders are in."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agent.episodes.checks.listing import page
from agent.episodes.checks.registry import RULES
from agent.episodes.footage import Span, read_video
from agent.episodes.gate import judge, run
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from tests.agent.episodes.folders import SIZE, write

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two datasets: of one episode, and of three in shared files. Only read them."""
    root = tmp_path_factory.mktemp("made")
    write(root / "one", seeds=[1])
    write(root / "three", seeds=[2, 3, 4])
    return root


@pytest.fixture
def one(made, tmp_path):
    return copy(made / "one", tmp_path / "one")


@pytest.fixture
def three(made, tmp_path):
    return copy(made / "three", tmp_path / "three")


def copy(source, target):
    for path in source.rglob("*"):
        if path.is_file():
            (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (target / path.relative_to(source)).write_bytes(path.read_bytes())
    return target


def verdicts(*paths):
    return [(j.episode, j.verdict, {r.check for r in j.reasons}) for j in judge(paths)]


def only(folder, pattern):
    return next(iter(sorted(folder.rglob(pattern))))


def change_info(folder, **changes):
    path = folder / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_sound_datasets_of_one_and_of_several_episodes_are_admitted(made):
    assert verdicts(made / "one", made / "three") == [(n, "admitted", set()) for n in (0, 0, 1, 2)]
    assert [j.path.name for j in judge([made])] == ["one", "three", "three", "three"]  # a folder of datasets


def test_the_command_prints_one_line_per_episode_and_touches_nothing(made, capsys):
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    assert run([made / "one", made / "three"], history=made / "three", as_json=True) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["episode"], line["verdict"]) for line in lines] == [(n, "admitted") for n in (0, 0, 1, 2)]
    assert set(lines[0]) == {"path", "episode", "verdict", "reasons", "notes"}
    assert {note["check"] for note in lines[0]["notes"]} == {"timing.no_sidecar"}
    assert set(lines[0]["notes"][0]) == {"check", "value", "threshold", "frames", "message"}
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before


def test_a_copy_in_the_same_call_is_named(made, one, capsys):
    assert verdicts(made / "one", one) == [(0, "admitted", set()), (0, "quarantined", {"identity.duplicate"})]
    run([made / "one", one])
    assert "quarantined" in capsys.readouterr().out


def test_what_is_not_there_is_undecidable_and_what_is_no_dataset_quarantined(tmp_path, capsys):
    (tmp_path / "no" / "meta").mkdir(parents=True)
    assert verdicts(tmp_path / "no") == [(None, "quarantined", {"container.file_missing"})]
    assert run([tmp_path / "no"], as_json=True) == 0
    assert run([tmp_path / "nowhere"], as_json=True) == int(ExitCode.EPISODE_DAMAGED)
    assert capsys.readouterr().out.count("\n") == 2


def test_another_format_is_undecidable(one):
    change_info(one, codebase_version="v2.1")
    assert verdicts(one) == [(None, "undecidable", {"container.version"})]


def test_a_history_without_datasets_and_unknown_thresholds_are_refused(one, tmp_path):
    with pytest.raises(ArmfleetError, match="no readable"):
        run([one], history=tmp_path / "nothing")
    with pytest.raises(ArmfleetError, match=r"motion\.flies"):
        run([one], thresholds={"motion.flies": 1.0})


def test_a_truncated_table_costs_its_episodes(one):
    table = only(one, "data/**/*.parquet")
    table.write_bytes(table.read_bytes()[:2000])
    assert verdicts(one) == [(0, "quarantined", {"container.unreadable"})]


def test_a_missing_table_a_missing_video_and_missing_tasks_are_named(made, tmp_path):
    for name, pattern, check in (
        ("a", "data/**/*.parquet", "container.file_missing"),
        ("b", "videos/**/*.mp4", "video.missing"),
        ("c", "meta/tasks.parquet", "container.file_missing"),
        ("d", "meta/episodes/**/*.parquet", "container.unreadable"),
        ("e", "meta/info.json", "container.file_missing"),
    ):
        folder = copy(made / "one", tmp_path / name)
        only(folder, pattern).unlink()
        (verdict,) = verdicts(folder)
        assert verdict[1] == "quarantined"
        assert check in verdict[2], name


def test_one_bad_episode_does_not_cost_its_neighbours(three):
    table = only(three, "data/**/*.parquet")
    rows = pq.read_table(table)
    flags = rows["episode_index"].to_numpy() == 1
    state = [
        [float("nan")] * 6 if bad else row
        for bad, row in zip(flags, rows["observation.state"].to_pylist(), strict=True)
    ]
    place = rows.column_names.index("observation.state")
    pq.write_table(rows.set_column(place, "observation.state", pa.array(state)), table)
    assert [(n, v) for n, v, _ in verdicts(three)] == [(0, "admitted"), (1, "quarantined"), (2, "admitted")]


def test_counts_in_the_metadata_are_compared_with_the_data(one):
    change_info(one, total_frames=7)
    assert verdicts(one) == [(0, "quarantined", {"container.totals"})]


def test_damaged_bytes_in_a_video_are_found(one):
    video = only(one, "videos/**/*.mp4")
    data = bytearray(video.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 300] = bytes(300)
    video.write_bytes(data)
    assert "video.corrupt" in verdicts(one)[0][2]
    video.write_bytes(data[: len(data) // 2])
    assert verdicts(one)[0][2] & {"video.corrupt", "video.frame_count"}


def test_a_span_of_a_shared_file_is_read_by_itself(made):
    video = read_video(only(made / "three", "videos/**/*.mp4"), Span(3.0, 6.0, 30, 90), SIZE)
    assert video.frames == 90
    assert video.stamps[0] == pytest.approx(0.0, abs=1e-3)


def test_the_page_in_docs_lists_every_check_with_its_threshold():
    assert (ROOT / "docs/gate.md").read_text() == page()
    assert all(rule.do and rule.what for rule in RULES.values())


def test_the_command_line_needs_no_agent_and_no_torch(made):
    code = (
        "import sys\nfrom cli.main import app\n"
        f"try: app(['gate', {str(made / 'one')!r}, '--json'])\n"
        "except SystemExit as done: assert done.code == 0, done.code\n"
        "assert not {'torch', 'lerobot'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["verdict"] == "admitted"
