"""Find another Python on PATH when the one that was called cannot be used.

Readable for old Pythons too: see setup.py.
"""

import os
import subprocess
import sys


def find(oldest, newest):
    """Command name of a usable Python on PATH, the newest tested one first, else None."""
    names = ["python%d.%d" % (3, minor) for minor in range(oldest[1], newest[1] + 1)]
    preferred = sorted(names, key=lambda name: (name != "python3.12", name))
    for name in preferred:
        # Version managers put shims on PATH that exist and yet do not run: so run it.
        try:
            if subprocess.call([name, "-c", "import venv"], stderr=subprocess.DEVNULL) == 0:
                return name
        except OSError:
            continue
    return None


def restart_with(name, arguments):
    """Replace this process by the same setup under another Python."""
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "setup.py")
    sys.stdout.write("setup: going on with %s\n" % name)
    sys.stdout.flush()
    os.execvp(name, [name, script] + list(arguments))
