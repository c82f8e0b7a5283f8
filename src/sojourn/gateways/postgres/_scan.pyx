# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The compiled twin of ``scan.py``: the same functions, the same answers, with C's arithmetic.

Every read is within the length that was checked before it; a test compares both twins on valid, damaged and random
bytes. Constants stand inside functions, because Cython 3.3.1 miscompiles some constants of modules.
"""

from libc.string cimport memchr, memcmp

ctypedef const unsigned char* Bytes


cdef inline unsigned int u32(Bytes at) noexcept nogil:
    return (<unsigned int>at[0] << 24) | (<unsigned int>at[1] << 16) | (<unsigned int>at[2] << 8) | at[3]


cdef inline bint starts(Bytes at, Py_ssize_t size, const char* word, Py_ssize_t length) noexcept nogil:
    return size >= length and memcmp(at, word, length) == 0


cdef inline bint is_space(unsigned char c) noexcept nogil:
    return c == 32 or 9 <= c <= 13


cdef inline unsigned char lower(unsigned char c) noexcept nogil:
    return c | 0x20 if 65 <= c <= 90 else c


cdef bint has_word(Bytes at, Py_ssize_t size, const char* word, Py_ssize_t length) noexcept nogil:
    # The word is in lower case; the text in any.
    cdef Py_ssize_t i
    if size < length:
        return False
    for i in range(length):
        if lower(at[i]) != <unsigned char>word[i]:
            return False
    return True


cdef bint is_first_word(Bytes at, Py_ssize_t size, const char* word, Py_ssize_t length) noexcept nogil:
    cdef unsigned char c
    if not has_word(at, size, word, length):
        return False
    if size == length:
        return True
    c = lower(at[length])
    return not (97 <= c <= 122 or 48 <= c <= 57 or c == 95 or c == 36 or c >= 128)


cdef bint is_quiet_tag(Bytes at, Py_ssize_t size) noexcept nogil:
    return (
        starts(at, size, "SELECT", 6)
        or starts(at, size, "INSERT", 6)
        or starts(at, size, "UPDATE", 6)
        or starts(at, size, "DELETE", 6)
        or starts(at, size, "BEGIN", 5)
        or starts(at, size, "COMMIT", 6)
        or starts(at, size, "FETCH", 5)
        or starts(at, size, "MOVE", 4)
        or starts(at, size, "MERGE", 5)
    )


def next_stop(bytes data not None, Py_ssize_t pos, bytes table not None):
    """See ``scan.pure_next_stop``."""
    cdef Bytes d = data
    cdef Bytes t = table
    cdef Py_ssize_t size = len(data)
    cdef unsigned int length
    cdef unsigned char action
    if pos < 0 or len(table) != 256:
        raise ValueError("next_stop wants a position in the data and a table of 256 bytes")
    while size - pos >= 5:
        action = t[d[pos]]
        length = u32(d + pos + 1)
        if length < 4 or length > 0x3FFFFFFF:
            return pos
        if action:
            if action != 2 or pos + 1 + <Py_ssize_t>length > size:
                return pos
            if not is_quiet_tag(d + pos + 5, <Py_ssize_t>length - 4):
                return pos
        pos += 1 + <Py_ssize_t>length
    return pos


def last_start(bytes data not None, Py_ssize_t pos, Py_ssize_t end):
    """See ``scan.pure_last_start``."""
    cdef Bytes d = data
    cdef Py_ssize_t size = len(data)
    cdef Py_ssize_t after
    if pos < 0:
        raise ValueError("last_start wants a position in the data")
    while size - pos >= 5:
        after = pos + 1 + <Py_ssize_t>u32(d + pos + 1)
        if after >= end:
            return pos if after == end else -1
        pos = after
    return -1


cdef int classify_sql(Bytes at, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    cdef Py_ssize_t left
    cdef unsigned char c
    cdef bint has_into = False
    while size > 0 and is_space(at[0]):
        at += 1
        size -= 1
    while size > 0 and is_space(at[size - 1]):
        size -= 1
    if size > 0 and at[size - 1] == 59:
        size -= 1
    if starts(at, size, "--", 2) or starts(at, size, "/*", 2):
        return 0
    for i in range(size):
        c = at[i]
        if c == 59 or c == 0:
            return 0
        if c < 65:
            continue
        c |= 0x20
        left = size - i
        if c == 116:  # t
            if has_word(at + i, left, "temp", 4):
                return 0
        elif c == 105:  # i
            if has_word(at + i, left, "into", 4):
                has_into = True
        elif c == 115:  # s
            if has_word(at + i, left, "set_config", 10) or has_word(at + i, left, "sojourn.role", 12):
                return 0
        elif c == 97:  # a
            if has_word(at + i, left, "advisory", 8):
                return 0
        elif c == 117:  # u
            if has_word(at + i, left, "u&", 2):
                return 0
    if is_first_word(at, size, "do", 2) or is_first_word(at, size, "call", 4):
        return 0
    if is_first_word(at, size, "execute", 7) or is_first_word(at, size, "prepare", 7):
        return 0
    if is_first_word(at, size, "deallocate", 10):
        return 0
    if has_into and not (is_first_word(at, size, "insert", 6) or is_first_word(at, size, "merge", 5)):
        return 0
    if is_first_word(at, size, "begin", 5) or is_first_word(at, size, "start", 5):
        return 2
    return 1


cdef bint is_execution(Bytes d, Py_ssize_t size, Py_ssize_t at, bint can_describe_statement) noexcept nogil:
    if starts(d + at, size - at, "D\0\0\0\x06P\0", 7):
        at += 7
    elif can_describe_statement and starts(d + at, size - at, "D\0\0\0\x06S\0", 7):
        at += 7
    return (
        size - at == 15
        and memcmp(d + at, <const char*>"E\0\0\0\x09\0", 6) == 0
        and memcmp(d + at + 10, <const char*>"S\0\0\0\x04", 5) == 0
    )


def classify(bytes data not None):
    """See ``scan.pure_classify``."""
    cdef Bytes d = data
    cdef Py_ssize_t size = len(data)
    cdef Py_ssize_t length
    cdef Py_ssize_t at
    cdef Py_ssize_t after
    cdef Py_ssize_t end
    cdef Bytes nul
    if size < 6:
        return 0
    length = u32(d + 1)
    if d[0] == 81:  # Q
        return classify_sql(d + 5, size - 6) if length == size - 1 and d[size - 1] == 0 else 0
    at = 1 + length
    if at >= size or length < 4:
        return 0
    if d[0] == 66:  # B
        if length <= 6 or d[5] != 0 or d[6] == 0 or memchr(d + 7, 0, at - 7) == NULL:
            return 0
        return 4 if is_execution(d, size, at, False) else 0
    if d[0] != 80 or length < 5 or d[5] != 0:  # P
        return 0
    nul = <Bytes>memchr(d + 6, 0, at - 6)
    if nul == NULL:
        return 0
    end = nul - d
    if end + 3 > at or end + 3 + 4 * ((<Py_ssize_t>d[end + 1] << 8) | d[end + 2]) != at:
        return 0
    if size - at < 5 or d[at] != 66:  # B
        return 0
    length = u32(d + at + 1)
    after = at + 1 + length
    if length < 6 or after >= size or d[at + 5] != 0 or d[at + 6] != 0:
        return 0
    if not is_execution(d, size, after, True):
        return 0
    return 3 if classify_sql(d + 6, end - 6) != 0 else 0


def bound_statement(bytes data not None):
    """See ``scan.pure_bound_statement``."""
    cdef Bytes d = data
    cdef Py_ssize_t size = len(data)
    cdef Bytes nul
    if size <= 6:
        return b""
    nul = <Bytes>memchr(d + 6, 0, size - 6)
    return b"" if nul == NULL else data[6:nul - d]
