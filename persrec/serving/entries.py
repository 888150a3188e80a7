"""What stands in a store under which key: users' records, in pieces, and what is no user's.

LMDB puts entries into pages of 4,096 bytes, and gives one of more than half a page pages of its own: a record of 2,100
bytes would take up 4,096. So records are cut into pieces of which at least three fill a page.
"""

from collections.abc import Iterator
from itertools import takewhile
from typing import Final

import lmdb

from persrec.errors import UserError

ABOUT: Final = b"\0about"  # the keys of what is no user's begin with a zero
ADDED: Final = b"\0added"
CURSOR: Final = b"\0cursor "
USERS: Final = b"\x01"  # where the users' keys begin
NUMBER: Final = 0x10  # the first byte of a number's key is this and how many follow
TEXT: Final = b"\x20"  # the first byte of a text's key
PIECES: Final = 0x40  # the first byte of the keys of further pieces; the second one counts them
PIECE: Final = 1320  # bytes of a piece
MOST: Final = 8  # pieces; of a record that is longer still, pages of its own waste little
LONGEST: Final = 500  # bytes of a textual id


def key_of(user: int | str) -> bytes:
    """The key of a user: 7 -> 11 07, "7" -> 20 37; raises UserError for ids that are too long or negative."""
    if isinstance(user, int):
        if not 0 <= user < 1 << 64:
            raise UserError(f"user {user}: expected a whole number from 0 to {(1 << 64) - 1}, or text")
        size = max(1, (user.bit_length() + 7) // 8)
        return bytes([NUMBER + size]) + user.to_bytes(size, "big")
    coded = user.encode()
    if len(coded) > LONGEST:
        raise UserError(f"user {user[:40]!r}...: the id has {len(coded)} bytes, expected at most {LONGEST}")
    return TEXT + coded


def user_of(key: bytes) -> int | str:
    """The user whose key it is."""
    return key[1:].decode() if key[:1] == TEXT else int.from_bytes(key[1:], "big")


def cursor_key(source: str) -> bytes:
    """The key under which it stands how far a source has been read."""
    return CURSOR + source.encode()


def as_bytes(value: bytes | memoryview | None) -> bytes | None:
    """A value on its own, where LMDB might lend its memory."""
    return None if value is None else bytes(value)


def own(txn: lmdb.Transaction) -> Iterator[tuple[bytes | memoryview, bytes | memoryview]]:
    """The entries that are no user's."""
    return takewhile(lambda entry: bytes(entry[0]) < USERS, txn.cursor().iternext())


def found(txn: lmdb.Transaction, key: bytes) -> bytes | None:
    """A record, put together."""
    first = as_bytes(txn.get(key))
    if not first or first[0] <= 1:
        return first and first[1:]
    rest = [as_bytes(txn.get(_piece(key, index))) or b"" for index in range(1, first[0])]
    return b"".join([first[1:], *rest])


def put(txn: lmdb.Transaction, key: bytes, value: bytes | None) -> None:
    """A record in pieces, before the first of which stands how many there are; None removes it."""
    old = txn.get(key)
    if value is None:
        txn.delete(key)
        needed = 0
    else:
        needed = max(1, -(-len(value) // PIECE))
        needed = needed if needed <= MOST else 1
        length = -(-len(value) // needed)
        txn.put(key, bytes([needed]) + value[:length])
        for index in range(1, needed):
            txn.put(_piece(key, index), value[index * length : (index + 1) * length])
    for index in range(max(needed, 1), bytes(old)[0] if old else 0):
        txn.delete(_piece(key, index))


def _piece(key: bytes, index: int) -> bytes:
    return bytes([PIECES, index]) + key


def users(txn: lmdb.Transaction) -> Iterator[bytes]:
    """The keys of users in their order."""
    cursor = txn.cursor()
    if cursor.set_range(USERS):  # else an iteration would begin at the first key of all
        for key in cursor.iternext(values=False):
            if key[:1] == bytes([PIECES]):
                return
            yield bytes(key)
