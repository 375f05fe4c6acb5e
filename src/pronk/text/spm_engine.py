"""sentencepiece on a Vocabulary: the library is given a proto written from checked data, whatever the file was."""

from __future__ import annotations

import struct
from collections.abc import Callable

from pronk.errors import TokenizerError
from pronk.text import sentencepiece_file
from pronk.text.vocabulary import Vocabulary


def engine(vocabulary: Vocabulary) -> Callable[[str], list[int]]:
    """Text without special tokens -> ids. Raises TokenizerError for a vocabulary that sentencepiece does not take."""
    import sentencepiece

    if vocabulary.charsmap:
        check_charsmap(vocabulary.charsmap)
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_file.serialize(vocabulary))
    except (RuntimeError, OSError, TypeError) as error:
        raise TokenizerError(f"sentencepiece does not take the vocabulary: {str(error).splitlines()[0]}") from None
    return lambda text: list(processor.encode(text))


def check_charsmap(charsmap: bytes) -> None:
    """Walk every step that sentencepiece could take in the compiled character map, which it follows unchecked.

    Layout: u32 size of a double-array trie, the trie (u32 units, darts-clone), then the replacements, each ended by 0.
    A unit's offset is xor-ed with its position and the next character to find the next unit; a leaf's value is a
    position among the replacements. Raises TokenizerError where any of these can lead outside.
    """
    import numpy as np

    size = struct.unpack_from("<I", charsmap)[0] if len(charsmap) >= 4 else 0
    replacements = charsmap[4 + size :]
    # sentencepiece wants whole blocks of 256 units; then position ^ offset in bounds is in bounds with any character
    if size == 0 or size % 1024 or size > len(charsmap) - 4 or not replacements.endswith(b"\0"):
        raise TokenizerError(f"the character map of {len(charsmap)} bytes claims a trie of {size}; it is damaged")
    units = np.frombuffer(charsmap, "<u4", size // 4, offset=4)
    leaf = units >> 31 == 1
    offset = (units >> 10) << ((units & (1 << 9)) >> 6)
    reach = np.arange(units.size, dtype=np.uint32) ^ offset
    if (reach[~leaf] >= units.size).any() or ((units[leaf] & 0x7FFFFFFF) >= len(replacements)).any():
        raise TokenizerError("the character map of the vocabulary points outside itself; it is damaged")
