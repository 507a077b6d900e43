"""THE table of fault drills: each fault, how it is made, what must happen, and what mends it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from contracts.robot import FR3
from roboalign.drills_graph import POLICY, DrillGraph
from roboalign.drills_link import DrillLink
from roboalign.supervision import Deadlines

QUEUE = -1.0
"""Deadline: the end of the waypoints that the arm had queued."""
INSTRUCTION = "follow the drill"
DEADLINES = Deadlines()
FROZEN_S = 0.5
"""The arm moves the centimetre that it takes in 0.1 s, and four pictures need 0.3 s."""


ARM_SILENCE_S = 2.0
"""After that libfranka gives the connection up; the arm itself has held since 20 lost packets."""


@dataclass(frozen=True)
class Scene:
    """What a drill works on."""

    graph: DrillGraph
    link: DrillLink


Action = Callable[[Scene], float | None]
"""Makes or mends a fault; may return since when it is there, on the monotonic clock [s]."""
Check = Callable[[Scene], str]
"""Returns what is wrong; empty if the reaction is the right one."""


def nothing(_: Scene) -> None:
    """Mends itself."""


@dataclass(frozen=True)
class Drill:
    """One fault.

    deadline: seconds from the fault to where holding is due, QUEUE for the end of the queue, or
        None where the motion may go on; then `check` says if the reaction was right.
    reason: pattern that the arm's status must give as the reason for the hold.
    needs: part of DrillGraph without which it cannot run.
    before: brings about what the fault then ends.
    """

    name: str
    fault: str
    inject: Action
    reaction: str
    deadline: float | None
    recovered: str
    reason: str = ""
    heal: Action = nothing
    check: Check | None = None
    needs: str = ""
    before: Action = nothing


def policy_answers(mode: str) -> Action:
    return lambda scene: scene.graph.set_mode(mode)


def hardware(fault: str) -> Action:
    return lambda scene: scene.graph.control.set_fault(fault)


def kill(process: str, number: signal.Signals = signal.SIGKILL) -> Action:
    return lambda scene: scene.graph.signal(process, number)


def jump_clock(seconds: float) -> Action:
    def jump(scene: Scene) -> None:
        assert scene.graph.clock is not None
        scene.graph.clock.jump(seconds)

    return jump


def cut_network(cut: bool) -> Action:
    def act(scene: Scene) -> None:
        assert scene.graph.network is not None
        scene.graph.network.cut(cut)

    return act


def fill_disk(scene: Scene) -> None:
    assert scene.graph.disk is not None
    scene.graph.disk.fill()


def empty_disk(scene: Scene) -> None:
    assert scene.graph.disk is not None
    scene.graph.disk.empty()


def recover(scene: Scene) -> None:
    scene.link.call("recover")


def reset_and_recover(scene: Scene) -> None:
    scene.link.call("reset_emergency_stop")
    recover(scene)


def release_and_recover(scene: Scene) -> None:
    scene.graph.control.set_fault("none")
    recover(scene)


def normal_and_home(scene: Scene) -> None:
    scene.graph.set_mode("normal")
    scene.link.call("home")


def reconnect(scene: Scene) -> None:
    scene.graph.signal("simulation", signal.SIGCONT)
    recover(scene)


def free_fingers(scene: Scene) -> None:
    scene.graph.control.set_fault("none")
    scene.graph.set_mode("normal")


def restart_graph(scene: Scene) -> None:
    scene.graph.stop()
    scene.graph.start()


def intrude(scene: Scene) -> None:
    scene.link.send_chunk(np.array([0.0, 0.0, 0.15]), "pour the tea")


def second_source(scene: Scene) -> None:
    away = scene.link.pose()
    away[2] += 0.1
    for _ in range(20):
        scene.link.teleoperate(away)
        time.sleep(0.03)


def drive(scene: Scene, seconds: float = 1.0) -> None:
    """The operator leads the arm sideways."""
    scene.link.select("teleop")
    pose = scene.link.pose()
    for _ in range(round(seconds / 0.03)):
        pose[1] += 0.002
        scene.link.teleoperate(pose)
        time.sleep(0.03)


def hand_back(scene: Scene) -> None:
    scene.link.select("policy")


def close_stuck_fingers(scene: Scene) -> None:
    scene.graph.control.set_fault("stuck_fingers")
    scene.graph.set_mode("close")


_hogs: list[subprocess.Popen[bytes]] = []


def starve(_: Scene) -> None:
    """A busy loop on each core."""
    for _core in range(os.cpu_count() or 1):
        _hogs.append(subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]))


def feed(_: Scene) -> None:
    while _hogs:
        hog = _hogs.pop()
        hog.kill()
        hog.wait()


def refused(pattern: str) -> Check:
    """The command was refused with this reason and never followed."""

    def check(scene: Scene) -> str:
        link = scene.link
        if not link.until(lambda: said(link, pattern), 10.0):
            return f"no status said {pattern!r}"
        followed = {seen.message.chunk_id for seen in link.setpoints}
        sources = {seen.message.source for seen in link.setpoints}
        if any(chunk.startswith("intruder") for chunk in followed) or "teleop" in sources:
            return "the command was followed"
        return ""

    return check


def said(link: DrillLink, pattern: str) -> bool:
    return any(re.search(pattern, seen.message.reason) for seen in list(link.statuses))


def last_joint_stops(scene: Scene) -> str:
    """The last joint came to the end of its range, and no further."""
    link, end = scene.link, FR3.joint_upper[6] - FR3.joint_margin

    def reached() -> float:
        return max((float(seen.message.joints[6]) for seen in list(link.setpoints)), default=0.0)

    if not link.until(lambda: reached() > end - 0.05, 60.0):
        return f"joint 7 came to {reached():.2f} rad only, its end is {end:.2f}"
    time.sleep(1.0)
    return "" if reached() <= end + 1e-6 else f"joint 7 was sent to {reached():.3f} rad"


def fingers_reported(scene: Scene) -> str:
    def stuck() -> bool:
        return scene.link.gripper is not None and scene.link.gripper.fault == "stuck"

    return "" if scene.link.until(stuck, 30.0) else "the hand reported no stuck fingers"


def goes_on(seconds: float) -> Check:
    """The arm is still commanded, or holds and says why; nothing dies."""

    def check(scene: Scene) -> str:
        time.sleep(seconds)
        if scene.graph.died:
            return f"the graph died: {scene.graph.died}"
        recent = [s for s in list(scene.link.statuses) if time.monotonic() - s.at < 2.0]
        return "" if recent else "no status of the arm for 2 s"

    return check


def arm_stands_still(scene: Scene) -> str:
    """The arm itself, in the simulation's state: nobody is left to tell of it."""
    from simulation.shared_state import StateReader

    reader = StateReader(scene.graph.arguments.shared_memory)

    def still() -> bool:
        before = reader.read()
        time.sleep(0.2)
        now = reader.read()
        return now.time > before.time and float(np.abs(now.qpos - before.qpos).max()) < 1e-3

    if not scene.link.until(still, 10.0):
        return "the arm still moves 10 s later"
    if not scene.link.until(lambda: bool(scene.graph.died), 10.0):
        return "the supervisor did not notice"
    return ""


DRILLS = (
    Drill("policy_killed", "policy server killed", kill(POLICY),
          "holds when its queue ends", QUEUE, "by itself", "no waypoint"),
    Drill("policy_restarted", "policy server restarted", kill(POLICY, signal.SIGTERM),
          "holds when its queue ends", QUEUE, "by itself", "no waypoint"),
    Drill("policy_slow", "every answer delayed 2 s", policy_answers("slow"),
          "holds when its queue ends", QUEUE, "by itself", "no waypoint",
          heal=policy_answers("normal")),
    Drill("policy_nan", "answers that are NaN", policy_answers("nan"),
          "refuses them, holds", QUEUE, "by itself", "no waypoint", heal=policy_answers("normal")),
    Drill("policy_jump", "waypoints 0.5 m away", policy_answers("jump"),
          "refuses them, holds", QUEUE, "by itself", "jumps by", heal=policy_answers("normal")),
    Drill("policy_stale", "chunks that are 3 s old", policy_answers("stale"),
          "refuses them, holds", QUEUE, "by itself", "old|no waypoint",
          heal=policy_answers("normal")),
    Drill("other_task", "a chunk for another task", intrude,
          "refuses it, goes on", None, "goes on", check=refused("pour the tea")),
    Drill("camera_unplugged", "camera unplugged", kill("wrist"),
          "holds", DEADLINES.camera, "by itself", "wrist|no waypoint|cannot see"),
    Drill("camera_frozen", "the same picture again", hardware("freeze_view"),
          "holds", FROZEN_S, "by itself", "cannot see", heal=hardware("none")),
    Drill("clock_jump", "the clock jumps 5 s", jump_clock(5.0),
          "holds", 0.0, "by itself", needs="clock", heal=jump_clock(0.0)),
    Drill("network_cut", "network of the server cut", cut_network(True),
          "holds when its queue ends", QUEUE, "by itself", "no waypoint",
          heal=cut_network(False), needs="network"),
    Drill("reflex", "reflex during motion", hardware("reflex"),
          "stops", 0.0, "~/recover", "reflex", heal=recover),
    Drill("user_stop", "user stop pressed", hardware("user_stop"),
          "stops", 0.0, "released, ~/recover", "user stop", heal=release_and_recover),
    Drill("arm_network", "the arm no longer answers", kill("simulation", signal.SIGSTOP),
          "stops", ARM_SILENCE_S, "~/recover connects again", "cannot|connection|imeout",
          heal=reconnect),
    Drill("joint_limit", "last joint led to its limit", policy_answers("turn"),
          "stays inside", None, "~/home", heal=normal_and_home, check=last_joint_stops),
    Drill("table_pushed", "the table pushes the hand, 35 N", hardware("push"),
          "holds", 0.0, "by itself", "contact", heal=hardware("none")),
    Drill("fingers_stuck", "object stuck in the gripper", close_stuck_fingers,
          "reports it", None, "by itself", heal=free_fingers, check=fingers_reported),
    Drill("two_sources", "two command sources", second_source,
          "refuses the second, goes on", None, "goes on", check=refused("policy commands the arm")),
    Drill("operator_gone", "operator's browser gone", nothing,
          "holds", DEADLINES.operator, "~/select_source", "operator silent",
          before=drive, heal=hand_back),
    Drill("disk_full", "disk full", fill_disk,
          "goes on", None, "goes on", heal=empty_disk, check=goes_on(4.0), needs="disk"),
    Drill("cpu_starved", "a busy loop on each core", starve,
          "goes on, slower", None, "by itself", heal=feed, check=goes_on(6.0)),
    Drill("emergency_stop", "software emergency stop",
          lambda scene: scene.link.press_emergency_stop(),
          "stops", 0.0, "reset, ~/recover", "emergency stop", heal=reset_and_recover),
    Drill("arm_killed", "arm node killed -9", kill("arm_node"),
          "the arm stops by itself", None, "restart of the whole graph",
          heal=restart_graph, check=arm_stands_still),
)  # fmt: skip
"""The last one ends the graph: a robot whose owner process died is not taken over unasked."""
