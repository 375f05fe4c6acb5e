"""Which pages of the KV cache are free, and which hold what a later request can use. Numbers only: the pages themselves
are the backend's.

A full page is known by a key: a hash of its tokens and of the key before it, hence of every token from the first on.
It is a cryptographic one (BLAKE2b, 256 bits), so equal keys stand for equal tokens without a comparison: nobody can
make up a prompt that finds another one's pages.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from hashlib import blake2b


def first_key(salt: str) -> bytes:
    """What the chain of keys begins with. What makes the same tokens mean other keys and values goes into `salt`:
    which adapter the request uses."""
    return blake2b(salt.encode(), digest_size=32).digest()


def next_key(previous: bytes, tokens: Sequence[int]) -> bytes:
    return blake2b(previous + array("q", tokens).tobytes(), digest_size=32).digest()


class BlockPool:
    """Page numbers 0 .. count-1. A page is used by one request or more; or idle, when it is known by its key and no
    request uses it now; or empty. Idle and empty ones are free to take.

    The page emptied last is the first one taken, and at most `keep` pages are idle, so that little memory is touched.
    """

    def __init__(self, count: int, keep: int | None = None) -> None:
        self.count = count
        self.keep = count if keep is None else keep
        self._users = [0] * count
        self._empty = list(range(count - 1, -1, -1))
        self._idle: dict[int, None] = {}  # the one used longest ago first
        self._page_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}

    @property
    def free(self) -> int:
        return len(self._empty) + len(self._idle)

    @property
    def idle(self) -> int:
        return len(self._idle)

    def take(self, pages: int) -> list[int]:
        """Pages for one request to write to. The caller has looked at `free` first."""
        assert pages <= self.free, f"{pages} pages wanted, {self.free} free"
        while len(self._empty) < pages:
            self._evict()
        taken = [self._empty.pop() for _ in range(pages)]
        for page in taken:
            self._users[page] = 1
        return taken

    def find(self, keys: Iterable[bytes]) -> list[int]:
        """The pages known by these keys, up to the first that is not. They may be taken away until they are used."""
        found: list[int] = []
        for key in keys:
            if (page := self._page_of.get(key)) is None:
                break
            found.append(page)
        return found

    def use(self, pages: Iterable[int]) -> None:
        """One more request uses these known pages, to read from them only."""
        for page in pages:
            self._users[page] += 1
            self._idle.pop(page, None)

    def know(self, page: int, key: bytes) -> int:
        """A page that one request has filled is known from now on. Returns the page that this request goes on with:
        another one if that holds the same, and this one is then free."""
        assert self._users[page] == 1, f"page {page} was written to by one of {self._users[page]} requests"
        known = self._page_of.setdefault(key, page)
        if known != page:
            self.use([known])
            self.give([page])
        else:
            self._key_of[page] = key
        return known

    def give(self, pages: list[int]) -> None:
        """A request returns its pages, which are in their order. Empties the list, so that it cannot use or return them
        again.

        The last page becomes idle first: a page is of no use without those before it, so it has to go before them.
        """
        for page in reversed(pages):
            assert self._users[page], f"page {page} was returned twice"
            self._users[page] -= 1
            if self._users[page]:
                continue
            if page in self._key_of:
                self._idle[page] = None
            else:
                self._empty.append(page)
        pages.clear()
        while len(self._idle) > self.keep:
            self._evict()

    def writable(self, page: int) -> bool:
        """Whether one request alone has it and nobody can find it."""
        return self._users[page] == 1 and page not in self._key_of

    def _evict(self) -> None:
        page = next(iter(self._idle))
        del self._idle[page], self._page_of[self._key_of.pop(page)]
        self._empty.append(page)
