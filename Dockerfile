# Four machines from one file. Build one of them with
#   docker build --target sim .          (sim, robot, policy-server, training)
# Every target runs the same scripts/setup.py as `make setup`, so versions are those of constraints.txt.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm
ARG ROS_IMAGE=ros:jazzy
ARG CUDA_IMAGE=nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04

# -- sim: everything on one CPU, without hardware ---------------------------------------------------
FROM ${PYTHON_IMAGE} AS sim
WORKDIR /opt/roboalign
ENV MUJOCO_GL=osmesa PATH=/opt/roboalign/.venv/bin:$PATH
COPY pyproject.toml constraints.txt ./
COPY scripts scripts
COPY ros2_ws ros2_ws
RUN python3 scripts/setup.py sim robot server && rm -rf /var/lib/apt/lists/* /root/.cache
COPY contracts contracts
COPY simulation simulation
COPY policy_server policy_server
COPY calibration calibration
COPY teleop teleop
COPY evaluation evaluation
CMD ["python", "-m", "evaluation", "demo"]

# -- robot: the PC beside the arm. Real-time limits and the host network come from compose.yaml ----
FROM ${ROS_IMAGE} AS robot
SHELL ["/bin/bash", "-c"]
WORKDIR /opt/roboalign
ENV PATH=/opt/roboalign/.venv/bin:$PATH
COPY pyproject.toml constraints.txt ./
COPY scripts scripts
COPY ros2_ws ros2_ws
RUN source "/opt/ros/${ROS_DISTRO}/setup.bash" \
    && /usr/bin/python3 scripts/setup.py robot \
    && rm -rf /var/lib/apt/lists/* /root/.cache
COPY contracts contracts
COPY simulation simulation
COPY policy_server policy_server
COPY calibration calibration
COPY teleop teleop
ENTRYPOINT ["scripts/with_ros.sh"]
CMD ["ros2", "launch", "roboalign", "franka_bringup.launch.py"]

# -- what both GPU machines share ---------------------------------------------------------------------
FROM ${CUDA_IMAGE} AS gpu
WORKDIR /opt/roboalign
ENV PATH=/opt/roboalign/.venv/bin:$PATH
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml constraints.txt ./
COPY scripts scripts

# -- policy-server: serves a bundle -------------------------------------------------------------------
FROM gpu AS policy-server
RUN python3 scripts/setup.py --no-ros server-gpu && rm -rf /root/.cache
COPY contracts contracts
COPY policy_server policy_server
RUN useradd --system --create-home roboalign
USER roboalign
EXPOSE 8000
CMD ["python", "-m", "policy_server", "--host", "0.0.0.0", "--token-file", "/run/secrets/policy_token"]

# -- training: the lab workstation --------------------------------------------------------------------
FROM gpu AS training
ENV MUJOCO_GL=osmesa
RUN python3 scripts/setup.py --no-ros sim training \
    && rm -rf /var/lib/apt/lists/* /root/.cache
COPY contracts contracts
COPY simulation simulation
COPY teleop teleop
COPY training training
CMD ["python", "-c", "import training; print(training.__doc__)"]
