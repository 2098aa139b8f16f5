"""Tar files that depend on nothing but what is put into them: sorted, of owner 0, and of one time."""

import gzip
import io
import tarfile


class Archive:
    def __init__(self, epoch):
        self.epoch = epoch
        self.entries = {}

    def folder(self, name, mode=0o755, owner=0):
        self.entries[name] = (self.entry(name, tarfile.DIRTYPE, mode, owner), b"")

    def file(self, name, data, mode=0o644):
        """Adds a file, and the folders that it is in."""
        entry = self.entry(name, tarfile.REGTYPE, mode, 0)
        entry.size = len(data)
        self.entries[name] = (entry, data)

    def link(self, name, target):
        entry = self.entry(name, tarfile.SYMTYPE, 0o777, 0)
        entry.linkname = target
        self.entries[name] = (entry, b"")

    def entry(self, name, kind, mode, owner):
        for at, letter in enumerate(name):
            if letter == "/" and name[:at] not in self.entries:
                self.folder(name[:at])
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode, entry.mtime, entry.uid, entry.gid = kind, mode, self.epoch, owner, owner
        return entry

    def tar(self):
        """Returns the file's bytes."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name in sorted(self.entries):
                entry, data = self.entries[name]
                tar.addfile(entry, io.BytesIO(data))
        return out.getvalue()

    def tar_gz(self):
        return gzip.compress(self.tar(), 9, mtime=0)
