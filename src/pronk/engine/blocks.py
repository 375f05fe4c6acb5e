"""Which pages of the KV cache are free. Numbers only: the pages themselves are the backend's."""

from __future__ import annotations


class BlockPool:
    """Page numbers 0 .. count-1. The last page given back is the first one taken, so that little memory is touched."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = list(range(count - 1, -1, -1))
        self._taken = bytearray(count)

    @property
    def free(self) -> int:
        return len(self._free)

    def take(self, pages: int) -> list[int]:
        """The caller has looked at `free` first."""
        assert pages <= len(self._free), f"{pages} pages wanted, {len(self._free)} free"
        taken = [self._free.pop() for _ in range(pages)]
        for page in taken:
            self._taken[page] = 1
        return taken

    def give(self, pages: list[int]) -> None:
        """Return pages. Empties the list, so that its owner cannot use or return them again."""
        for page in reversed(pages):
            assert self._taken[page], f"page {page} was returned twice"
            self._taken[page] = 0
            self._free.append(page)
        pages.clear()
