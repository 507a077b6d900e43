"""The steps of the setup in their order, and what can be skipped because nothing has changed."""

import argparse
import hashlib
import sys
from pathlib import Path

import ros_workspace
import system_packages
import virtual_environment
from progress import Progress, SetupError, fail, run_logged, say

REPOSITORY = Path(__file__).resolve().parent.parent
DEMO_EXTRAS = ["sim", "robot", "server"]


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="setup", description=__doc__)
    parser.add_argument("extras", nargs="*", help=f"default: {' '.join(DEMO_EXTRAS)}")
    parser.add_argument("--venv", type=Path, default=REPOSITORY / ".venv")
    parser.add_argument(
        "--no-ros", action="store_true", help="leave ROS out: policy server and training machines"
    )
    parser.add_argument("--this-python", action="store_true", help="do not look for another one")
    return parser.parse_args(arguments)


def digest(paths: list[Path]) -> str:
    """One hash over names and contents of these files, and the Python in use."""
    total = hashlib.sha256(sys.version.encode())
    for path in sorted(paths):
        total.update(str(path.relative_to(REPOSITORY)).encode())
        total.update(path.read_bytes())
    return total.hexdigest()


def package_inputs() -> list[Path]:
    return [REPOSITORY / "pyproject.toml", REPOSITORY / "constraints.txt"]


def workspace_inputs() -> list[Path]:
    """Files that make a new colcon build necessary. Python sources are linked, not copied."""
    source = REPOSITORY / "ros2_ws/src"
    patterns = ["*/package.xml", "*/CMakeLists.txt", "*/setup.py", "*/setup.cfg"]
    patterns += ["*/msg/*.msg", "*/srv/*.srv", "*/action/*.action"]
    patterns += ["*/launch/*", "*/config/*", "*/resource/*"]
    found = [path for pattern in patterns for path in source.glob(pattern) if path.is_file()]
    return [*found, REPOSITORY / "scripts/ros_workspace.py"]


def ros_source(no_ros: bool) -> str:
    """Where ROS comes from here: `wheels`, `none`, or the name of the sourced distribution."""
    return "none" if no_ros else ros_workspace.sourced_distribution() or "wheels"


def wanted_extras(asked: list[str], stamp: dict, ros: str) -> list[str]:
    """What was asked for, what an earlier setup installed, and ROS where it comes from wheels."""
    extras = set(asked or DEMO_EXTRAS) | set(stamp.get("extras", []))
    return sorted(extras | {"ros-wheels"} if ros == "wheels" else extras)


def set_up(venv: Path, asked: list[str], no_ros: bool = False) -> None:
    """Run the steps that are needed."""
    venv.parent.mkdir(parents=True, exist_ok=True)
    venv = venv.parent.resolve() / venv.name
    stamp = virtual_environment.read_stamp(venv) if virtual_environment.works(venv) else {}
    ros = ros_source(no_ros)
    extras = wanted_extras(asked, stamp, ros)
    packages = {
        "packages": digest(package_inputs()), "extras": extras, "ros": ros,
        "repository": str(REPOSITORY),
    }  # fmt: skip
    complete = {**packages, "workspace": digest(workspace_inputs())}
    if stamp == complete:
        say(f"setup: nothing to do, {venv} is up to date ({', '.join(extras)})")
        return

    if stamp.get("ros", ros) != ros:
        raise SetupError(
            f"{venv} was made with ROS from {stamp['ros']}, now it would be {ros}: "
            "`make clean` first, or use a shell like the one it was made in."
        )
    progress = Progress(total=3 if ros == "none" else 4)
    logs = venv / "setup_log"
    python = "{}.{}.{}".format(*sys.version_info[:3])
    virtual_environment.requirements_of(REPOSITORY, extras)  # refuse bad extras before any work
    with progress.step(f"system packages (Python {python})"):
        if ros not in ("none", "wheels"):
            ros_workspace.check_sourced_python(ros)
        system_packages.ensure(logs, system_packages.requirements(extras, with_ros=ros != "none"))
    with progress.step(f"virtual environment {venv}"):
        virtual_environment.ensure(venv, system_site_packages=ros not in ("none", "wheels"))
        virtual_environment.write_paths(venv, REPOSITORY)
    with progress.step(f"Python packages: {', '.join(extras)}"):
        if {key: stamp.get(key) for key in packages} == packages:
            say("      unchanged")
        else:
            virtual_environment.install(venv, REPOSITORY, extras, logs)
    if ros != "none":
        with progress.step(f"ROS 2 ({ros}): colcon build of ros2_ws"):
            build_workspace(venv, logs, ros)
    virtual_environment.write_stamp(venv, complete)
    say(f"setup: ready in {progress.elapsed():.0f} s")
    report_what_is_missing(venv, extras, ros)


def build_workspace(venv: Path, logs: Path, ros: str) -> None:
    """Build the workspace and see that Python finds what it built."""
    if ros == "wheels":
        ros_workspace.repair_wheels(venv)
    workspace = REPOSITORY / "ros2_ws"
    environment = ros_workspace.build_environment(venv)
    run_logged(ros_workspace.build_command(workspace, venv), logs / "colcon.log", environment)
    check = ros_workspace.check_command(venv, ros)
    run_logged(check, logs / "ros_check.log")


def report_what_is_missing(venv: Path, extras: list[str], ros: str) -> None:
    """Say what this setup did not do, so that nobody looks for it in vain."""
    if ros == "none":
        say("      not here: ROS (--no-ros)")
    elif ros == "wheels":
        say("      not here: the ros2 command line, launch and rviz (a ROS installation has them)")
    else:
        say(f"      before Python starts: source {venv}/local_setup.bash (make does it for you)")
    if "training" not in extras:
        say("      not installed: training (torch, transformers); `make test` adds it")
    if "server-gpu" not in extras:
        say("      not installed: server-gpu (onnxruntime-gpu, TensorRT); see the Dockerfile")


def run(arguments: list[str]) -> int:
    """Set up; return the exit status: 0 done, 1 could not, 130 interrupted."""
    options = parse(arguments)
    try:
        set_up(options.venv, options.extras, options.no_ros)
    except SetupError as error:
        fail(str(error))
        return 1
    except KeyboardInterrupt:
        fail("interrupted; start it again to go on where it stopped")
        return 130
    return 0
