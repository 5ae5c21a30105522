"""One self-contained page about one episode: opens anywhere, asks no network for anything."""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import jinja2
from markupsafe import Markup

from agent.episodes import plots
from agent.episodes.dataset import read_episode
from agent.episodes.record import EpisodeRecord, facts, findings_of
from shared.errors import ArmfleetError

IMAGES = "observation.images."
JPEG_QUALITY = 80
TEMPLATE = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""\
<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'">
<title>Episode {{ record.id }}</title>
<style>
body { font: 15px/1.45 sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse } td, th { text-align: left; padding: .15em 1em .15em 0 }
.admitted { color: #1a7f37 } .quarantined, .undecidable { color: #c0392b } .unjudged { color: #777 }
code { color: #555 } svg { width: 100%; height: auto } figure { display: inline-block; margin: 0 1em 1em 0 }
figcaption { color: #555 } img, video { max-width: 340px }
</style></head><body>
<h1>Episode {{ record.id }}: <span class="{{ record.verdict }}">{{ record.verdict }}</span></h1>
<p>{{ record.task or "(no task)" }}</p>
<table>
{% for name, value in facts %}
<tr><th>{{ name }}</th><td>{{ value }}</td></tr>
{% endfor %}
</table>
{% for title, findings in findings %}
<h2>{{ title }}</h2>
<table>
{% for f in findings %}
<tr><td><code>{{ f.check }}</code></td><td>{{ f.message }}
{% if f.value is not none %} (measured {{ f.value }}
{%- if f.threshold is not none %}, limit {{ f.threshold }}{% endif %}){% endif %}
{% if f.frames %} &ndash; frames {{ f.frames | join(", ") }}{% endif %}</td></tr>
{% endfor %}
</table>
{% endfor %}
{% for fault in faults %}
<p class="quarantined">{{ fault }}</p>
{% endfor %}
{% if joints %}
<h2>Joints: state over action</h2>
{{ joints }}
{% endif %}
{% if timing %}
<h2>Loop time and age of pictures</h2>
{{ timing }}
{% elif joints %}
<p>There is no sidecar: real loop time and age of the pictures are not known.</p>
{% endif %}
{% for camera in cameras %}
<h2>Camera {{ camera.name }}</h2>
{% for caption, picture in camera.stills %}
<figure><img alt="{{ caption }}" src="data:image/jpeg;base64,{{ picture }}">
<figcaption>{{ caption }}</figcaption></figure>
{% endfor %}
{% if camera.video %}
<p><video controls muted preload="metadata" src="data:video/mp4;base64,{{ camera.video }}"></video></p>
{% endif %}
{% endfor %}
</body></html>
""")


@dataclass(frozen=True)
class Camera:
    """What the page shows of one camera: (caption, base64 JPEG) of single frames, and the video, base64."""

    name: str
    stills: list[tuple[str, str]]
    video: str


def write_page(folder: Path, record: EpisodeRecord, target: Path) -> None:
    """Write the page of the episode in `folder`. What can't be read is said on the page, not raised."""
    faults: list[str] = []
    joints = timing = ""
    marks = plots.marked([*record.reasons, *record.notes])
    try:
        data = read_episode(folder, with_video=False)
        names = [name.removesuffix(".pos") for name in data.names]
        joints = plots.joints(data.state, data.action, data.fps, names, marks)
        if data.sidecar:
            timing = plots.timing(data.sidecar, data.fps, marks)
    except (ArmfleetError, ValueError, IndexError) as error:
        faults.append(f"The rows can't be shown: {error}")
    cameras = list(_cameras(folder, record.frames, faults))
    page = TEMPLATE.render(
        record=record,
        facts=facts(record),
        findings=findings_of(record),
        faults=faults,
        joints=Markup(joints),  # drawn here, from numbers and feature names
        timing=Markup(timing),
        cameras=cameras,
    )
    target.write_text(page, encoding="utf-8")


def _cameras(folder: Path, frames: int, faults: list[str]) -> Iterator[Camera]:
    for parent in sorted((folder / "videos").glob("*")):
        name = parent.name.removeprefix(IMAGES)
        files = sorted(parent.rglob("*.mp4"))
        if not files:
            faults.append(f"There is no video of camera {name}.")
            continue
        stills: list[tuple[str, str]] = []
        try:
            stills = list(_stills(files[0], frames))
        except (av.FFmpegError, OSError, IndexError) as error:
            faults.append(f"The video of camera {name} can't be decoded: {error}")
        yield Camera(name, stills, base64.b64encode(files[0].read_bytes()).decode())


def _stills(path: Path, frames: int) -> Iterator[tuple[str, str]]:
    """First, middle and last frame; one pass, so that damaged indices don't matter."""
    wanted = {0: "first", frames // 2: "middle", max(frames - 1, 0): "last"}
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                yield f"{wanted[number]}: frame {number}", _jpeg(frame)


def _jpeg(frame: Any) -> str:
    raw = io.BytesIO()
    frame.to_image().save(raw, "JPEG", quality=JPEG_QUALITY)
    return base64.b64encode(raw.getvalue()).decode()
