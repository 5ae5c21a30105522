"""The virtual SO-100 workstation (needs the `sim` extra)."""

import os

os.environ.setdefault("MUJOCO_GL", "egl")  # must be decided before anything imports mujoco
