"""Prints what `python -m MODULE --help` prints, for many modules of one process, as JSON.

`python command_help.py MODULE...` gives a list of [module, help]. One process, because some of the
modules import torch, and that once is enough.
"""

from __future__ import annotations

import contextlib
import io
import json
import runpy
import sys


def help_of(module: str) -> str:
    """Standard output of the module's own --help. Raises RuntimeError: it does not end well."""
    sys.argv = [f"python -m {module}", "--help"]
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code in (0, None):
            return said.getvalue()
        raise RuntimeError(f"python -m {module} --help ends with {end.code}") from end
    raise RuntimeError(f"python -m {module} --help does not end after its help")


if __name__ == "__main__":
    answers = [(module, help_of(module)) for module in sys.argv[1:]]
    print(json.dumps(answers))
