"""ament_python package. `contracts` and `policy_server.client` come from the repository's root."""

from glob import glob

from setuptools import setup

NODES = (
    "arm_node",
    "camera_node",
    "flight_recorder_node",
    "metrics_node",
    "policy_node",
    "task_node",
)

setup(
    name="roboalign",
    version="0.1.0",
    packages=["roboalign"],
    package_data={"roboalign": ["*.j2"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/roboalign"]),
        ("share/roboalign", ["package.xml"]),
        ("share/roboalign/launch", glob("launch/*.launch.py")),
        ("share/roboalign/config", glob("config/*")),
    ],
    install_requires=["setuptools"],
    zip_safe=False,
    maintainer="RoboAlign maintainers",
    maintainer_email="maintainers@roboalign.example",
    description="Node graph, nodes and drivers that run RoboAlign's policies on a Franka FR3.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            *(f"{node} = roboalign.{node}:main" for node in NODES),
            "supervisor = roboalign.supervisor:main",
        ]
    },
)
