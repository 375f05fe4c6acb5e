"""Markdown drawn while it arrives.

Finished blocks (a paragraph, a list, fenced code) are printed for good; only the last one is redrawn. So a long
answer scrolls like any other text, and nothing above the cursor flickers.
"""

from __future__ import annotations

from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markdown import Markdown
from rich.text import Text


class MarkdownStream:
    """A context manager: feed() text as it comes; leaving it prints what is left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tail = ""
        self._live = Live(console=console, refresh_per_second=12, transient=True, vertical_overflow="crop")

    def __enter__(self) -> MarkdownStream:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.update(Text(""))
        self._live.stop()
        if self._tail.strip():
            self._console.print(Markdown(self._tail))

    def feed(self, text: str) -> None:
        done, self._tail = split_blocks(self._tail + text)
        if done.strip():
            self._live.console.print(Markdown(done))
        self._live.update(self._visible_tail())

    def _visible_tail(self) -> RenderableType:
        """The end of the unfinished block, no taller than the screen: Live cannot redraw what has scrolled away."""
        height = max(self._console.size.height - 2, 1)
        lines = self._console.render_lines(Markdown(self._tail), pad=False)[-height:]
        return Group(*(Text.assemble(*((s.text, s.style or "") for s in line)) for line in lines))


def split_blocks(text: str) -> tuple[str, str]:
    """(blocks that nothing to come can change, the rest). A block ends at a blank line outside a code fence; a list
    goes on over blank lines, so it is finished only when a line that is no item and not indented follows."""
    cut, fence, offset, pending = 0, "", 0, -1
    for line in text.splitlines(keepends=True):
        stripped = line.strip()
        start = offset
        offset += len(line)
        if fence:
            if stripped.startswith(fence) and not stripped.strip(fence[0]):
                fence = ""
            continue
        if pending >= 0 and stripped and not _continues_list(line):
            cut, pending = start, -1
        if stripped.startswith(("```", "~~~")):
            fence = stripped[:3]
        elif not stripped and line.endswith("\n"):
            pending = start
    return text[:cut], text[cut:]


def _continues_list(line: str) -> bool:
    stripped = line.lstrip()
    numbered = stripped.split(maxsplit=1)[0].rstrip(".)").isdigit()
    return line[0] in " \t" or stripped.startswith(("- ", "* ", "+ ")) or numbered
