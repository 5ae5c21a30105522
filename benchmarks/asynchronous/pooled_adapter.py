"""An adapter that can do four pushes, trained at one pooled station with the product's trainer.

It is no version of a fleet: its updates are added as they are. Demonstrations, updates and the adapter stay
in the folder; a killed training goes on where it was, a finished one is read.
"""

from collections.abc import Callable
from pathlib import Path

from agent.episodes.record import now
from benchmarks.learning.arms import CENTRALISED, FOUR, PAIRS
from benchmarks.learning.demonstrations import Demonstrations
from benchmarks.learning.plan import Shown, Station
from benchmarks.learning.updates import StationUpdates
from coordinator.exchange.schedule import learning_rate
from shared.adapters import Manifest, digest, write_adapter
from shared.files import durable_folder
from shared.policy.digest import base_digest
from shared.policy.initial import initial_adapter

TASKS = FOUR
DEMONSTRATIONS = 40
"""Of each task."""
UPDATES = 100
"""Of 24 steps each: 2400, as many as `bench-learning` trains."""
VERSION = 1

STATION = Station(
    name="pool",
    shown=tuple(
        Shown(verb=verb, color=color, demonstrations=DEMONSTRATIONS, source=source)
        for source, (verb, color) in enumerate(PAIRS.items())
    ),
)


def pooled_adapter(folder: Path, base: Path, seed: int, said: Callable[[str], None]) -> Path:
    """The adapter's PEFT folder.

    Args:
        folder: Where everything is kept, by seed.
        base: Folder of the base policy.
        seed: Of demonstrations, samples and noise.
        said: Told after each update what was done; UPDATES times in all, or never if the adapter is there.
    """
    home = folder / f"adapter-{seed}"
    if home.exists():
        return home
    recipe = CENTRALISED.recipe.model_copy(update={"seed": seed})
    split = Demonstrations(folder / "demonstrations", seed).split(STATION)
    updates = StationUpdates(CENTRALISED, STATION, recipe, base, split, folder / f"training-{seed}")
    tensors, config = initial_adapter(base, recipe)
    for number in range(UPDATES):
        delta, _ = updates.update(number, tensors, number, learning_rate(recipe, number, UPDATES))
        tensors = {name: array + delta[name] for name, array in tensors.items()}
        said(f"training, step {(number + 1) * recipe.steps}")
    manifest = Manifest(
        version=VERSION,
        parent=None,
        base_digest=base_digest(base),
        tensors_digest=digest(tensors),
        recipe=recipe,
        created=now(),
    )
    with durable_folder(home) as work:
        write_adapter(work, tensors, config, manifest)
    return home
