"""Members out of tars, verified: straight from the folder where they lie."""

from deepcoro.data.storage import Damaged, Folder, verified


class PlainTars:
    """Every member is asked of the folder."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def member(self, shard: str, offset: int, size: int, crc32: int) -> bytes:
        """The payload at a place. Raises Damaged or OSError. What came over a wire is asked for a second time when it is damaged."""
        try:
            return verified(self._folder.read_range(shard, offset, size), size, crc32)
        except Damaged:
            if self._folder.is_local:
                raise
        return verified(self._folder.read_range(shard, offset, size), size, crc32)
