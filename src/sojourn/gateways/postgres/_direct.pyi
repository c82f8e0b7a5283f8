from collections.abc import Callable

class Writer:
    def __init__(
        self,
        number: int,
        waiting_bytes: Callable[[], int],
        is_closing: Callable[[], bool],
        queue: Callable[[bytes], None],
    ) -> None: ...
    def write(self, data: bytes, /) -> None: ...
