"""Writes docs/gate.md from the list of checks, so that the page can't be out of step.

python -m agent.episodes.checks.listing > docs/gate.md
"""

from agent.episodes.checks.registry import RULES, Rule

GROUPS = {
    "container": "Does the folder agree with itself",
    "identity": "Is it an episode, and a new one",
    "values": "Are the numbers joint positions",
    "timing": "Did the recording keep time",
    "motion": "Did the arm move, and as an arm can",
    "coupling": "Does the state follow the action",
    "video": "Do the cameras show what happened",
    "gate": "The gate itself",
}

INTRO = """# The gate

    armfleet gate PATH… [--history DIR] [--json] [--config agent.toml]

judges every episode of LeRobot v3 dataset folders (or of folders of such), read-only, without an agent:

- **admitted**: nothing speaks against it. Notes say what was seen besides: what training trims
(`motion.lead_in`,
  `motion.tail`), and what could not be checked (`timing.no_sidecar`, `values.joint_names`).
- **quarantined**: at least one reason. It is kept, and left out of training.
- **undecidable**: the evidence is missing (no such folder, a format or a codec that can't be read here). The
exit status
  is 32 then, else 0.

`--json` prints one line per episode:
`{"path", "episode", "verdict", "reasons": [{"check", "value", "threshold", "frames", "message"}], "notes":
[same]}`. `episode` is null for what concerns a folder as a whole.

`--history DIR` names sound episodes of the same workstation: a dataset, or a folder of datasets. They are
the reference for exchanged cameras, colours, lag, order and sign of joints, copies and habits. A difference
from one's own history is only noted, unless it is certain. Without a history these are not checked. The
agent takes the episodes it admitted before.

Thresholds can be set by id in agent.toml; an episode that was judged before keeps its verdict:

    [gate]
    thresholds = { "motion.lead_in" = 2.0, "timing.jitter" = 0.5 }

## What it can't tell

A failed attempt that moves normally, a wrong instruction, a cube that was not where it should be, a scene
that nobody will meet again: that is the operator's label. Pictures that are wrong in all cameras in the same
way as in the history. A calibration that is wrong in leader and follower alike. Without a sidecar: how long
things really took.

## The checks

Units are LeRobot's: degrees or range units, the gripper 0 to 100. Ids are never reused for another defect.
"""


def page() -> str:
    """docs/gate.md."""
    parts = [INTRO]
    for prefix, title in GROUPS.items():
        rules = [rule for rule in RULES.values() if rule.id.startswith(f"{prefix}.")]
        parts.append(f"\n### {title}\n")
        parts += [_paragraph(rule) for rule in rules]
    return "\n".join(parts)


def _paragraph(rule: Rule) -> str:
    threshold = "" if rule.threshold is None else f", threshold {rule.threshold:g}"
    why = f" {rule.why}" if rule.why else ""
    return f"**{rule.id}** ({rule.outcome}{threshold}): {rule.what}{why} *{rule.do}*\n"


if __name__ == "__main__":
    import agent.episodes.gate  # noqa: F401

    print(page(), end="")
