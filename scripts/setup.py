"""Prepare this machine: virtual environment, packages, ROS 2 and the workspace build.

    python3 scripts/setup.py sim robot server     # what `make demo` needs
    python3 scripts/setup.py training dev         # what `make test` adds

Extras are those of pyproject.toml and add up: what was set up before stays. Running it again when
nothing has changed takes a second. The syntax of this file must stay readable for old Pythons,
so that they end with the message below instead of a SyntaxError.
"""

import sys

OLDEST, NEWEST = (3, 11), (3, 13)  # ROS wheels exist beyond, but not all other packages do


def wrong_python():
    """The sentence for a Python that cannot be used, else None."""
    if OLDEST <= sys.version_info[:2] <= NEWEST:
        return None
    return (
        "RoboAlign needs Python %d.%d to %d.%d, and %s is %d.%d.\n"
        "Install one of them, or name it: PYTHON=python3.12 make setup"
    ) % (OLDEST + NEWEST + (sys.executable,) + tuple(sys.version_info[:2]))


def main(arguments):
    """Set up; return the exit status."""
    message = wrong_python()
    if message is not None:
        import other_pythons

        other = other_pythons.find(OLDEST, NEWEST)
        if other is None or "--this-python" in arguments:
            sys.stderr.write("setup: %s\n" % message)
            return 2
        other_pythons.restart_with(other, arguments)

    import setup_steps

    return setup_steps.run(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
