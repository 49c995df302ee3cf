"""Pack documents into blocks by best fit."""

from bisect import bisect_left, insort

import numpy as np


def pack(lengths: np.ndarray, size: int) -> np.ndarray:
    """Return the number of the block of each document, (D,) int64: by best fit, longest first.

    Each goes into the block whose free room is the smallest that it fits into. Blocks are numbered
    by their first document. Takes O(D log(size)) steps.

    Args:
        lengths: (D,) of the documents in tokens, from 1 to `size`.
        size: of a block.
    """
    blocks = np.empty(len(lengths), dtype=np.int64)
    rooms: list[int] = []  # the free rooms of blocks, ascending, each once
    blocks_with: dict[int, list[int]] = {}  # the blocks that have such a room
    count = 0
    order = np.argsort(-lengths, kind="stable")
    for document, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        place = bisect_left(rooms, length)
        if place == len(rooms):
            block, room, count = count, size, count + 1
        else:
            room = rooms[place]
            block = blocks_with[room].pop()
            if not blocks_with[room]:
                del rooms[place], blocks_with[room]
        blocks[document] = block
        if rest := room - length:
            if rest not in blocks_with:
                insort(rooms, rest)
                blocks_with[rest] = []
            blocks_with[rest].append(block)
    _, firsts = np.unique(blocks, return_index=True)
    numbers = np.empty(count, dtype=np.int64)
    numbers[np.argsort(firsts)] = np.arange(count)
    return numbers[blocks]
