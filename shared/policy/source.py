"""Where a base policy lies: a folder, or a hub id in the Hugging Face cache. Free of torch."""

import json
import os
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.recipe import Recipe

CONFIG, WEIGHTS = "config.json", "model.safetensors"
PROCESSORS = ("policy_preprocessor", "policy_postprocessor")
NORMALISERS = ("normalizer_processor", "unnormalizer_processor")
"""LeRobot's names of the steps in them that hold statistics."""
VLM = "vlm"
"""Optional folder inside a base: the VLM's configuration and tokenizer, for bases that need no hub."""

PATTERNS = (CONFIG, WEIGHTS, *(f"{name}*" for name in PROCESSORS), f"{VLM}/*")
"""The files that make up a base, as globs; everything else (README, training logs) is no part of it."""


def resolve_base(base: str | Path) -> Path:
    """The folder that holds `base`.

    Args:
        base: A folder, or a hub id such as "lerobot/smolvla_base". A hub id is looked up in the local cache
            first; with HF_HUB_OFFLINE=1 nothing is ever downloaded.

    Raises:
        ArmfleetError: BASE_MISSING: no such folder or cached snapshot, or files are missing in it.
    """
    folder = Path(base).expanduser()
    if not folder.is_dir():
        folder = _snapshot(str(base))
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    missing += [f"{name}.json" for name in PROCESSORS if not (folder / f"{name}.json").is_file()]
    if missing:
        raise ArmfleetError(
            f"the base policy in {folder} is incomplete: {', '.join(missing)} missing",
            do="copy the base again, or name another one as [policy] base",
            code=ExitCode.BASE_MISSING,
        )
    return folder.resolve()


def base_files(folder: Path) -> list[Path]:
    """The files of a base, sorted by their path relative to `folder`."""
    found = {path for pattern in PATTERNS for path in folder.glob(pattern) if path.is_file()}
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def check_standardised(base: str | Path) -> None:
    """Raise ArmfleetError unless a base's processors take states and actions by mean and standard deviation.

    Raises:
        ArmfleetError: BASE_MISMATCH: by something else, of which statistics of the fleet tell nothing;
            BASE_MISSING.
    """
    folder = resolve_base(base)
    for name in PROCESSORS:
        steps = json.loads((folder / f"{name}.json").read_text())["steps"]
        maps = [step["config"]["norm_map"] for step in steps if step.get("registry_name") in NORMALISERS]
        modes = sorted({str(each.get(kind)) for each in maps for kind in ("STATE", "ACTION")})
        if modes != ["MEAN_STD"]:
            raise ArmfleetError(
                f"the base normalises by {', '.join(modes) or 'nothing'}, pooled statistics are for MEAN_STD",
                do='set [normalisation] source = "base" at the coordinator',
                code=ExitCode.BASE_MISMATCH,
            )


def check_delay(base: str | Path, recipe: Recipe) -> None:
    """Raise ArmfleetError unless the recipe's delay leaves an action of the base's chunk to learn.

    Raises:
        ArmfleetError: BASE_MISMATCH: it does not; BASE_MISSING.
    """
    if recipe.delay == 0:
        return
    chunk = int(json.loads((resolve_base(base) / CONFIG).read_text())["chunk_size"])
    if recipe.delay >= chunk:
        raise ArmfleetError(
            f"the recipe prepares for a delay of {recipe.delay} actions, the base's chunks have {chunk}",
            do=f"set [recipe] delay below {chunk} at the coordinator, better at half of it or less",
            code=ExitCode.BASE_MISMATCH,
        )


def _snapshot(hub_id: str) -> Path:
    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(PATTERNS), local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError) as error:
        cause: Exception = error
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}
    if not offline and not isinstance(cause, HFValidationError):
        try:
            return Path(snapshot_download(hub_id, allow_patterns=list(PATTERNS)))
        except (HfHubHTTPError, OSError, ValueError) as error:
            cause = error
    raise ArmfleetError(
        f"the base policy '{hub_id}' is neither a folder nor in the local hub cache"
        f" ({str(cause).splitlines()[0] if str(cause) else type(cause).__name__})",
        do=f"copy it here, or fetch it once with: hf download {hub_id}",
        code=ExitCode.BASE_MISSING,
    ) from cause
