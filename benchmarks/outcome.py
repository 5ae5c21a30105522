"""How a benchmark ends: its result as a JSON file and as the last line on stdout, also when it fails."""

import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.errors import ArmfleetError
from shared.files import write_atomic

INTERRUPTED = 130
Figures = dict[str, Any]


def measured(name: str, out: Path, measure: Callable[[], tuple[bool, Figures]]) -> int:
    """Run `measure`, which gives (every target was met, figures); write and print what came out.

    Returns:
        The exit status: 0, 1 for a missed target or an error that nobody foresaw, else the error's own code;
        130 after an interruption.
    """
    try:
        ok, figures = measure()
        status = 0 if ok else 1
    except KeyboardInterrupt:
        ok, figures, status = False, {"error": "interrupted"}, INTERRUPTED
    except ArmfleetError as error:
        ok, figures, status = False, {"error": str(error)}, int(error.code)
    except Exception as error:  # whatever it was: the last line says that it failed
        traceback.print_exc()
        ok, figures, status = False, {"error": f"{type(error).__name__}: {error}"}, 1
    line = json.dumps({"benchmark": name, "ok": ok, "figures": figures})
    try:
        write_atomic(out, line + "\n")
    except OSError as error:
        print(f"{out} could not be written: {error}", flush=True)
        status = status or 1
        line = json.dumps({"benchmark": name, "ok": False, "figures": {"error": str(error)} | figures})
    print(line, flush=True)
    return status
