# cython: language_level=3, boundscheck=False, wraparound=False
"""The compiled twin of ``direct.py``: one system call, without giving the interpreter's lock away for it.

The call never waits, so that no other thread waits for it longer than the kernel takes.
"""

cdef extern from *:
    """
    #include <sys/socket.h>
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0  /* macOS; Python ignores SIGPIPE anyway */
    #endif
    """
    ssize_t send(int fd, const void* data, size_t size, int flags)
    int MSG_DONTWAIT
    int MSG_NOSIGNAL


cdef class Writer:
    """See ``direct.writer_of``."""

    cdef int number
    cdef object waiting_bytes
    cdef object is_closing
    cdef object queue

    def __init__(self, int number, waiting_bytes, is_closing, queue):
        self.number = number
        self.waiting_bytes = waiting_bytes
        self.is_closing = is_closing
        self.queue = queue

    def write(self, bytes data not None):
        """Write, or let the transport do it; called as a bound method, which needs no tuple of arguments."""
        cdef Py_ssize_t size = len(data)
        cdef ssize_t sent
        if self.waiting_bytes() or self.is_closing():
            self.queue(data)
            return
        sent = send(self.number, <const char*>data, size, MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent != size:
            self.queue(data if sent < 0 else data[sent:])
