"""What a Hub keeps: accounts, repositories with branches and commits, and large files by their SHA-256."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch

LARGE_NAMES = ("*.safetensors", "*.bin", "*.parquet", "*.onnx", "*.png", "*.jpg", "*.zip", "tokenizer.json")
"""Patterns of the `.gitattributes` that a new repository has: these files are stored as LFS objects."""

LARGE_SIZE = 10 * 1024**2
"""Bytes; a longer file is an LFS object whatever its name."""

GITATTRIBUTES = "".join(
    f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LARGE_NAMES
).encode()


@dataclass(frozen=True)
class Account:
    """The owner of a token.

    Attributes:
        name: user name.
        role: of the token: `write` or `read`.
        organizations: that the user may write to.
    """

    name: str
    role: str
    organizations: tuple[str, ...] = ()

    def may_write(self, namespace: str) -> bool:
        return self.role == "write" and self.owns(namespace)

    def owns(self, namespace: str) -> bool:
        return namespace == self.name or namespace in self.organizations


@dataclass(frozen=True)
class Blob:
    """A file of a commit."""

    content: bytes
    is_large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        return f"version https://git-lfs\noid sha256:{self.sha256}\nsize {len(self.content)}\n".encode()

    @property
    def oid(self) -> str:
        """The id that git has for the file, or for the pointer to a large one."""
        stored = self.pointer if self.is_large else self.content
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_large else self.oid

    def describe(self, path: str) -> dict[str, object]:
        """Return the entry of the file in a listing of the Hub."""
        entry: dict[str, object] = {
            "type": "file",
            "path": path,
            "size": len(self.content),
            "oid": self.oid,
        }
        if self.is_large:
            entry["lfs"] = {
                "oid": self.sha256,
                "size": len(self.content),
                "pointerSize": len(self.pointer),
            }
        return entry


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    title: str
    files: Mapping[str, Blob]
    time: datetime


@dataclass
class Repository:
    """A model, dataset or Space.

    Attributes:
        kind: `model`, `dataset` or `space`.
        name: USER/NAME.
        private: whether only its owner sees it.
        gated: whether only `readers` and its owner may read its files.
        readers: user names.
        commits: by their ids.
        branches: name to id of a commit.
        tags: name to id of a commit.
    """

    kind: str
    name: str
    private: bool = False
    gated: bool = False
    readers: set[str] = field(default_factory=set)
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.commit("main", {".gitattributes": Blob(GITATTRIBUTES, False)}, "initial commit")

    @property
    def owner(self) -> str:
        return self.name.split("/")[0]

    def find(self, revision: str) -> Commit | None:
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        return self.commits.get(oid)

    def commit(self, branch: str, files: Mapping[str, Blob | None], title: str) -> Commit:
        """Add a commit to a branch; None deletes a file."""
        parent = self.branches.get(branch)
        merged = {**(self.commits[parent].files if parent else {}), **files}
        kept = {path: blob for path, blob in sorted(merged.items()) if blob is not None}
        listing = "".join(f"{path} {blob.oid}\n" for path, blob in kept.items())
        oid = hashlib.sha1(
            f"{len(self.commits)} {self.name} {parent} {title}\n{listing}".encode()
        ).hexdigest()
        commit = Commit(oid, parent, title, kept, datetime.now(UTC))
        self.commits[oid] = commit
        self.branches[branch] = oid
        return commit

    def is_large(self, path: str, size: int) -> bool:
        return size > LARGE_SIZE or any(
            fnmatch(path.rpartition("/")[2], pattern) for pattern in LARGE_NAMES
        )

    def put(self, files: Mapping[str, bytes], branch: str = "main", title: str = "add files") -> Commit:
        """Commit contents, without the network."""
        blobs = {path: Blob(content, self.is_large(path, len(content))) for path, content in files.items()}
        return self.commit(branch, blobs, title)

    def describe(self, commit: Commit, blobs: bool = False) -> dict[str, object]:
        """Return what the Hub says of a repository at a commit."""
        siblings: list[dict[str, object]] = []
        for path, blob in commit.files.items():
            sibling: dict[str, object] = {"rfilename": path}
            if blobs:
                sibling |= {"size": len(blob.content), "blobId": blob.oid}
                if blob.is_large:
                    lfs = {"sha256": blob.sha256, "size": len(blob.content)}
                    sibling["lfs"] = {**lfs, "pointerSize": len(blob.pointer)}
            siblings.append(sibling)
        return {
            "_id": "0" * 24,
            "id": self.name,
            f"{self.kind}Id": self.name,
            "author": self.owner,
            "sha": commit.oid,
            "lastModified": commit.time.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            "createdAt": "2026-01-01T00:00:00.000Z",
            "private": self.private,
            "gated": "manual" if self.gated else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": siblings,
        }
