"""MkDocs hook: writes the pages below reference/ from the code, each time that the site is built.

`extra.commands_of` in mkdocs.yml lists the packages whose commands are asked for their help.
"""

from __future__ import annotations

from pathlib import Path

import code_reference
import command_reference
import graph_reference
import server_reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

REPOSITORY = Path(__file__).resolve().parents[2]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    try:
        pages = {
            "commands": command_reference.page(REPOSITORY, config.extra["commands_of"]),
            "configurations": code_reference.configurations(REPOSITORY),
            "graph": graph_reference.page(REPOSITORY),
            "nodes": code_reference.nodes(REPOSITORY),
            "messages": code_reference.messages(REPOSITORY),
            "http": server_reference.http(),
            "metrics": server_reference.metrics(),
        }
    except RuntimeError as error:
        raise PluginError(str(error)) from error
    for name, text in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files
