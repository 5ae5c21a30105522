"""TOML configuration into pydantic models; an error names file, line, key and the accepted values."""

import re
from pathlib import Path

import tomli
from pydantic import BaseModel, ConfigDict, ValidationError

from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode


class ConfigModel(BaseModel):
    """Base of all configuration sections: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def load_config[Model: BaseModel](path: Path, model: type[Model]) -> Model:
    """Read `path` into `model`.

    Raises:
        ArmfleetError: CONFIG_UNREADABLE (missing, not TOML) or CONFIG_INVALID (each wrong key on a line).
    """
    try:
        text = path.read_text()
        data = tomli.loads(text)
    except OSError as error:
        raise ArmfleetError(
            f"{path} can't be read: {error.strerror}",
            do="check the path and its permissions",
            code=ExitCode.CONFIG_UNREADABLE,
        ) from error
    except tomli.TOMLDecodeError as error:
        raise ArmfleetError(
            f"{path} is not valid TOML: {error}", do="mend that line", code=ExitCode.CONFIG_UNREADABLE
        ) from error
    try:
        return model.model_validate(data)
    except ValidationError as error:
        faults = "; ".join(_describe(path, text, model, fault) for fault in error.errors())
        raise ArmfleetError(
            faults,
            kept="nothing was started or changed",
            do="mend the keys named",
            code=ExitCode.CONFIG_INVALID,
        ) from error


def _describe(path: Path, text: str, model: type[BaseModel], fault: object) -> str:
    assert isinstance(fault, dict)
    keys = [str(part) for part in fault["loc"]]
    line = line_of(text, keys)
    where = f"{path}:{line}" if line else str(path)
    name = ".".join(keys)
    if fault["type"] == "extra_forbidden":
        accepted = _fields_at(model, keys[:-1])
        return f"{where}: unknown key '{name}'" + (f" (accepted: {', '.join(accepted)})" if accepted else "")
    if fault["type"] == "missing":
        return f"{where}: '{name}' is missing"
    return f"{where}: '{name}' = {fault['input']!r}: {fault['msg']}"


def _fields_at(model: type[BaseModel], keys: list[str]) -> list[str]:
    """Names of the fields of the section that `keys` leads to; empty where it is no plain section."""
    for key in keys:
        field = model.model_fields.get(key)
        kind = field.annotation if field else None
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return []
        model = kind
    return sorted(model.model_fields)


def line_of(text: str, keys: list[str]) -> int | None:
    """Line (from 1) of the deepest of `keys` in a TOML text; tables and dotted headers are considered."""
    section: list[str] = []
    best: tuple[int, int] | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[\[?([^\]]+)\]\]?", line)
        key = re.match(r"\s*([\w.\"'-]+)\s*=", line)
        if header:
            section = [part.strip(" \"'") for part in header[1].split(".")]
            full = section
        elif key:
            full = section + [part.strip("\"'") for part in key[1].split(".")]
        else:
            continue
        depth = len(full)
        if full == keys[:depth] and (best is None or depth > best[0]):
            best = (depth, number)
    return best[1] if best else None
