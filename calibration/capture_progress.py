"""What a person sees during a capture: a progress bar, and each refused picture with its reason."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from calibration.views import View


class CaptureProgress:
    """A bar of `count` views; its methods are what `capture.visit` and `capture.guide` ask for."""

    def __init__(self, console: Console, count: int) -> None:
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TimeElapsedColumn(),
        )  # fmt: skip
        self._progress = Progress(*columns, console=console, transient=True)
        self._task = self._progress.add_task("starting", total=count)
        self.hint = ""

    def __enter__(self) -> CaptureProgress:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def planning(self) -> None:
        """The viewpoints are being planned."""
        self._progress.update(self._task, description="planning viewpoints")

    def tell(self, count: int, view: View | None, reason: str) -> None:
        """One more picture was taken: see `capture.Tell`."""
        self._progress.update(self._task, completed=count, description="looking")
        if view is None:
            self._progress.console.print(reason)

    def ready(self, count: int) -> bool:
        """Ask a person to guide the arm to the next place; False if she has had enough."""
        self._progress.stop()
        hint = f" ({self.hint})" if self.hint else ""
        self._progress.console.print(
            f"view {count + 1}: guide the arm to another place{hint}, let go, press Enter; "
            "q and Enter to end"
        )
        try:
            answer = input()
        except EOFError:
            return False
        self._progress.start()
        return answer.strip().lower() != "q"
