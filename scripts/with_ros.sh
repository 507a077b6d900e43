#!/usr/bin/env bash
# Run a command with ROS and the built workspace in its environment: with_ros.sh ros2 topic list
set -eo pipefail
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [ -n "${ROS_DISTRO:-}" ] && [ -f "/opt/ros/$ROS_DISTRO/setup.bash" ]; then
    source "/opt/ros/$ROS_DISTRO/setup.bash"
fi
source "$repository/.venv/local_setup.bash"
exec "$@"
