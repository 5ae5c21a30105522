"""A version merged into its base: a plain policy folder that stock LeRobot loads, without PEFT.

Each adapted weight W becomes W + (alpha / rank) B A in float32 (Hu et al., LoRA, arXiv 2106.09685, section
4.1; PEFT's `merge_and_unload`), each module to save its trained copy. The same actions in exact arithmetic;
with rounding they differ a little, and how much is measured on what was written.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from lerobot.utils.constants import OBS_IMAGES
from safetensors.torch import save_model

from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import durable_folder, free_bytes, write_atomic
from shared.normalisation import Statistics
from shared.policy.base import load_processors
from shared.policy.chunker import Chunker
from shared.policy.source import CONFIG, PROCESSORS, VLM, WEIGHTS, base_files, resolve_base

LARGEST_DIFFERENCE = 360 / 4096
"""Between the actions before and after, in units: a step of an STS3215's encoder, in degrees. Rounding stays
a thousand times below it (`docs/lerobot.md`); more means that something was not merged."""
PROBE_TASKS = ("push the red cube to the left", "pull the blue cube back", "pick it up", "")
PROBE_SPREAD = 30.0
"""Standard deviation of the probe's joint positions, in units: poses all over the arm's range."""


def write_merged(base: str | Path, version: Path, target: Path) -> float:
    """Write the version in the folder `version`, merged into `base`, to `target`: whole, or not at all.

    Weights are float32, configuration, processors and the base's own VLM folder are the base's; processors
    have the version's statistics, where it has some. The folder's own place is written into them, since
    LeRobot takes relative names for relative to where it is started.

    Returns:
        The largest difference between the actions of base and adapter and those of the folder that was
        written, in units (degrees, gripper 0..100), over a chunk for each of a few poses, pictures and
        sentences, from the same noise.

    Raises:
        ArmfleetError: `target` is there; BASE_MISSING, VERSION_REFUSED, BASE_MISMATCH; DISK_FULL; the two
            differ by more than `LARGEST_DIFFERENCE`.
    """
    if target.exists():
        raise ArmfleetError(f"{target} is there already", kept="it, unchanged", do="name another folder")
    chunker = Chunker(base)
    chunker.load_version(version)
    normalisation = chunker.normalisation
    wanted = _probe(chunker)
    chunker.merge()
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = resolve_base(base)
    _check_room(chunker, folder, target.parent)
    with durable_folder(target) as work:
        save_model(chunker.policy, str(work / WEIGHTS), metadata={"format": "pt"})
        (work / WEIGHTS).chmod(0o644)  # safetensors writes it for its owner alone
        del chunker  # two policies need not fit into memory
        _write_rest(folder, work, target.absolute(), normalisation)
        difference = float(np.abs(_probe(Chunker(work)) - wanted).max())
        if not difference <= LARGEST_DIFFERENCE:
            raise ArmfleetError(
                f"the merged policy acts differently: by up to {difference:.3g} units on a probe",
                kept="the version; nothing was written",
                do="use the version's own folder, which is a PEFT adapter",
            )
    return difference


def _probe(chunker: Chunker) -> np.ndarray:
    """(rows, chunk, A) float32 in units: what a policy does in a few drawn situations, always the same."""
    rng, rows = np.random.default_rng(0), len(PROBE_TASKS)
    state = rng.normal(0, PROBE_SPREAD, (rows, 6)).astype(np.float32)
    images = {}
    for name in chunker.cameras:
        _, height, width = chunker.policy.config.image_features[f"{OBS_IMAGES}.{name}"].shape
        images[name] = rng.integers(0, 256, (rows, height, width, 3), dtype=np.uint8)
    chunker.reseed(0)
    return chunker.chunk(state, images, PROBE_TASKS)[1]


def _check_room(chunker: Chunker, base: Path, parent: Path) -> None:
    needed = sum(tensor.nbytes for tensor in chunker.policy.state_dict().values())
    needed += sum(path.stat().st_size for path in base_files(base) if path != base / WEIGHTS)
    free = free_bytes(parent)
    if free < needed:
        raise ArmfleetError(
            f"the merged policy takes {needed >> 20} MB, in {parent} {free >> 20} MB are free",
            kept="everything; nothing was written",
            do="make room, or name a folder on another disk",
            code=ExitCode.DISK_FULL,
        )


def _write_rest(base: Path, work: Path, final: Path, normalisation: Statistics | None) -> None:
    """Configuration, processors and VLM of `base` into `work`, as they are right once it is named `final`."""
    for path in base_files(base):
        copy = work / path.relative_to(base)
        copy.parent.mkdir(exist_ok=True)
        if copy != work / WEIGHTS:
            shutil.copyfile(path, copy)
    if normalisation is not None:
        processors = load_processors(base, normalisation=normalisation)
        for name, pipeline in zip(PROCESSORS, processors, strict=True):
            pipeline.save_pretrained(work, config_filename=f"{name}.json")
    config = json.loads((work / CONFIG).read_text())
    config["load_vlm_weights"] = False  # the weight file holds them
    if (base / VLM).is_dir():
        config["vlm_model_name"] = str(final / VLM)
        _name_tokenizer(work / f"{PROCESSORS[0]}.json", str(final / VLM))
    write_atomic(work / CONFIG, json.dumps(config, indent=4) + "\n")


def _name_tokenizer(file: Path, place: str) -> None:
    pipeline: dict[str, Any] = json.loads(file.read_text())
    for step in pipeline["steps"]:
        if step["registry_name"] == "tokenizer_processor":
            step["config"]["tokenizer_name"] = place
    write_atomic(file, json.dumps(pipeline, indent=2) + "\n")
