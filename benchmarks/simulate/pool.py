"""Demonstrations of several stations pooled into one data set, and dealt out to nodes again by flwr-datasets.

A row is a frame: its station, task, episode and number, state, action, and the file with its episode's
pictures; the pictures themselves stay in that file. Each station shows one task, and stations of one task
are next to each other. `GroupedNaturalIdPartitioner` gives a node whole stations, so whole episodes, and as
`check_sizes` wants each node as many stations of each task, episodes of one task. The same pool can be dealt
to fewer nodes.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, Sequence, Value, disable_progress_bars, load_from_disk

from agent.episodes.split import content_digest
from agent.training.data import Episode, Split, separate
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from sim.expert import UnreachableError
from sim.lockstep import Demonstration, demonstrate
from sim.plant import Plant
from sim.tasks import Task, draw_scene

TASKS = (Task("push_left", "red"), Task("push_right", "green"))
CAMERA = "front"
"""What the base calls the simulator's camera."""
FIRST_SEED, SEEDS = 2_000_000, 100_000
"""Scenes of the pool with seed s begin at FIRST_SEED + s * SEEDS; the base saw scenes from 1,000,000 on, and
versions are evaluated on scenes from 500,000 on."""
STATION, ROWS, PICTURES = "station", "rows", "pictures"
"""The column that is partitioned by; folders of a pool."""
FEATURES = Features(
    {
        STATION: Value("string"),
        "task": Value("string"),
        "episode": Value("string"),
        "frame": Value("int32"),
        "state": Sequence(Value("float32"), length=6),
        "action": Sequence(Value("float32"), length=6),
        "pictures": Value("string"),
    }
)


def check_sizes(stations: int, nodes: int) -> int:
    """How many stations a node gets.

    Raises:
        ArmfleetError: CONFIG_INVALID: nodes would differ in size, or a node's stations in their task.
    """
    if nodes < 1 or nodes % len(TASKS):
        raise ArmfleetError(
            f"{nodes} nodes can't share {len(TASKS)} tasks equally",
            do=f"give a multiple of {len(TASKS)} as NODES",
            code=ExitCode.CONFIG_INVALID,
        )
    if stations < nodes or stations % nodes:
        raise ArmfleetError(
            f"{stations} stations can't be dealt to {nodes} nodes in groups of one size",
            do="give a multiple of NODES as STATIONS",
            code=ExitCode.CONFIG_INVALID,
        )
    return stations // nodes


def task_of(station: int, stations: int) -> Task:
    """What the station numbered `station` of `stations` shows."""
    return TASKS[station * len(TASKS) // stations]


def record(
    folder: Path, stations: int, demonstrations: int, seed: int, on_episode: Callable[[], None]
) -> None:
    """Write a pool: `demonstrations` successful ones of each station, by the scripted person."""
    disable_progress_bars()
    (folder / PICTURES).mkdir(parents=True)
    columns: dict[str, list] = {name: [] for name in FEATURES}
    plant, scene_seed = Plant(), FIRST_SEED + seed * SEEDS
    for number in range(stations * demonstrations):
        station = number // demonstrations
        task = task_of(station, stations)
        scene_seed, shown = _demonstration(plant, task, scene_seed)
        pictures = f"{PICTURES}/{number:06d}.npy"
        np.save(folder / pictures, shown.images)
        count = len(shown.states)
        columns[STATION] += [f"station-{station:03d}"] * count
        columns["task"] += [task.text] * count
        columns["episode"] += [f"{number:06d}"] * count
        columns["frame"] += range(count)
        columns["state"] += list(shown.states)
        columns["action"] += list(shown.actions)
        columns["pictures"] += [pictures] * count
        on_episode()
    Dataset.from_dict(columns, FEATURES).save_to_disk(folder / ROWS)


def deal(folder: Path, nodes: int) -> list[Dataset]:
    """A pool's rows for each node, in the order of the nodes' partition ids."""
    from flwr_datasets.partitioner import GroupedNaturalIdPartitioner  # installed by `make simulate` alone

    rows = load_from_disk(folder / ROWS)
    size = check_sizes(len(rows.unique(STATION)), nodes)
    partitioner = GroupedNaturalIdPartitioner(STATION, group_size=size, mode="strict", sort_unique_ids=True)
    partitioner.dataset = rows
    return [partitioner.load_partition(number) for number in range(nodes)]


def episodes_of(rows: Dataset, folder: Path) -> Split:
    """The episodes that rows of the pool in `folder` belong to, all of them for training."""
    table = rows.with_format("numpy")
    names = np.asarray(table["episode"])
    episodes = []
    for name in sorted(set(names.tolist())):
        part = table.select(np.flatnonzero(names == name))[:]
        state, action = (np.asarray(part[column], np.float32) for column in ("state", "action"))
        episodes.append(
            Episode(
                id=name,
                digest=content_digest(state, action),
                task=str(part["task"][0]),
                state=state,
                action=action,
                frames=lambda path=folder / str(part["pictures"][0]): {CAMERA: np.load(path)},
            )
        )
    return separate(episodes, ())


def _demonstration(plant: Plant, task: Task, seed: int) -> tuple[int, Demonstration]:
    """The first successful one in scenes from `seed` on, and the seed to go on with."""
    while True:
        seed += 1
        try:
            shown = demonstrate(plant, draw_scene(seed, task), np.random.default_rng(seed))
        except UnreachableError:
            continue
        if shown.success:
            return seed, shown
