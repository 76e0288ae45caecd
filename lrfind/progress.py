"""One progress bar for every stage, loaded only when it is shown."""

from __future__ import annotations

from typing import Any


class Bar:
    """A tqdm bar, or nothing at all.

    Args:
        label: What is being done.
        total: Number of steps.
        shown: False shows nothing and loads nothing.
        done: Number of steps done already, in a run that is taken up again.
    """

    def __init__(self, label: str, total: int, *, shown: bool, done: int = 0) -> None:
        self._bar: Any = None
        if shown:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=total, initial=done, desc=label, unit="step", dynamic_ncols=True, leave=True)

    @property
    def shown(self) -> bool:
        """Whether anybody sees the bar: a note that nobody sees need not be written."""
        return self._bar is not None

    def advance(self, note: str = "") -> None:
        """One step further, with a short note behind the bar."""
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update()

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def tell(line: str) -> None:
    """Print a line, above the bar where one is shown."""
    from tqdm.auto import tqdm

    tqdm.write(line)
