"""Where a base policy lies: a folder, or a hub id in the Hugging Face cache. Free of torch."""

import os
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

CONFIG, WEIGHTS = "config.json", "model.safetensors"
PROCESSORS = ("policy_preprocessor", "policy_postprocessor")
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
