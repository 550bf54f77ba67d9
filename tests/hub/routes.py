"""What the Hub answers to each request of the client, when nothing is broken."""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, unquote

import yaml

from tests.hub.server import Answer, Exchange, LocalHub
from tests.hub.store import Account, Blob, Commit, Repository

Query = Mapping[str, list[str]]


class RefusedError(Exception):
    """Ends a request with an error of the Hub."""

    def __init__(self, status: int, code: str | None = None, message: str = "", **headers: str) -> None:
        named = {"X-Error-Code": code, "X-Error-Message": message or None}
        set_ones = {name: value for name, value in named.items() if value is not None}
        self.answer = as_json({"error": message}, status, **set_ones, **headers)


def as_json(value: object, status: int = 200, **headers: str) -> Answer:
    return Answer(status, {"Content-Type": "application/json", **headers}, json.dumps(value).encode())


class Call:
    """One request, with what the routes need of it."""

    def __init__(self, hub: LocalHub, exchange: Exchange, query: Query, account: Account | None) -> None:
        self.hub = hub
        self.exchange = exchange
        self.query = query
        self.account = account

    @property
    def json(self) -> Any:
        return json.loads(self.exchange.body or b"{}")

    def is_true(self, name: str) -> bool:
        return self.query.get(name, ["false"])[0].lower() in ("true", "1")

    def repository(self, kind: str, name: str, files: bool = False, write: bool = False) -> Repository:
        """Return a repository that this account may see; with `files` read, with `write` change.

        A private repository is answered as a missing one; the Hub says 401 for both without a token.
        """
        found = self.hub.repositories.get((kind, name))
        owns = found is not None and self.account is not None and self.account.owns(found.owner)
        if found is None or (found.private and not owns):
            status = 404 if self.account else 401
            raise RefusedError(status, "RepoNotFound", "Repository not found")
        if write and not (self.account and self.account.may_write(found.owner)):
            message = "Forbidden: you must use a write token to upload to a repository."
            raise RefusedError(403 if self.account else 401, None, message)
        reader = self.account is not None and self.account.name in found.readers
        if files and found.gated and not (owns or reader):
            message = f"Access to model {name} is restricted. You must have access to it."
            raise RefusedError(403 if self.account else 401, "GatedRepo", message)
        return found

    def commit(self, repository: Repository, revision: str) -> Commit:
        found = repository.find(revision)
        if found is None:
            raise RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found


def answer(hub: LocalHub, exchange: Exchange, path: str, query: Query, account: Account | None) -> Answer:
    """Answer a request; `path` is as it was sent, with its escapes."""
    if exchange.account == "invalid":
        return RefusedError(401, None, "Invalid credentials in Authorization header").answer
    call = Call(hub, exchange, query, account)
    try:
        for method, pattern, route in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and exchange.method in method:
                with hub.lock:
                    return route(call, *[unquote(group or "") for group in match.groups()])
    except RefusedError as refused:
        return refused.answer
    return RefusedError(404, None, "Sorry, we can't find the page you are looking for.").answer


def whoami(call: Call) -> Answer:
    if call.account is None:
        raise RefusedError(401, None, "Invalid username or password.")
    organizations = [{"name": name, "roleInOrg": "write"} for name in call.account.organizations]
    access = {"displayName": "test", "role": call.account.role}
    auth = {"type": "access_token", "accessToken": access}
    return as_json({"type": "user", "name": call.account.name, "orgs": organizations, "auth": auth})


def create(call: Call) -> Answer:
    asked = call.json
    kind = asked.get("type") or "model"
    if call.account is None:
        raise RefusedError(401, None, "Invalid username or password.")
    namespace = asked.get("organization") or call.account.name
    if not call.account.may_write(namespace):
        reason = f'You don\'t have the rights to create a {kind} under the namespace "{namespace}".'
        raise RefusedError(403, None, reason)
    name = f"{namespace}/{asked['name']}"
    url = f"{call.hub.url}/{'' if kind == 'model' else kind + 's/'}{name}"
    if (kind, name) in call.hub.repositories:
        return as_json({"error": f"You already created this {kind} repo", "url": url}, 409)
    private = asked.get("visibility") == "private" or asked.get("private") is True
    call.hub.add(name, kind=kind, private=private)
    return as_json({"url": url, "name": name, "id": "0" * 24})


def delete(call: Call) -> Answer:
    asked = call.json
    namespace = asked.get("organization") or (call.account.name if call.account else "")
    found = call.repository(asked.get("type") or "model", f"{namespace}/{asked['name']}", write=True)
    del call.hub.repositories[found.kind, found.name]
    return as_json({})


def validate_yaml(call: Call) -> Answer:
    """Check a card's metadata for what the Hub refuses: no YAML, no mapping, an incomplete model-index."""
    content = call.json["content"]
    match = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", content, re.DOTALL)
    if match is None:
        warning = "empty or missing yaml metadata in repo card"
        return as_json({"errors": [], "warnings": [{"message": warning}]})
    try:
        data = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        return as_json({"errors": [{"message": f"{error}"}], "warnings": []}, 400)
    problems = ['"metadata" must be an object'] if not isinstance(data, dict) else list(_missing(data))
    return as_json(
        {"errors": [{"message": text} for text in problems], "warnings": []}, 400 if problems else 200
    )


def _missing(data: Mapping[str, Any]) -> list[str]:
    """Return what the Hub requires of a model-index and does not find."""
    required = ["task.type", "dataset.type", "dataset.name", "metrics"]
    problems = []
    for number, model in enumerate(data.get("model-index") or []):
        where = f"model-index[{number}]"
        if "name" not in model or not isinstance(model.get("results"), list):
            problems.append(f'"{where}" must have name and results')
            continue
        for index, result in enumerate(model["results"]):
            for name in required:
                value: Any = result
                for part in name.split("."):
                    value = value.get(part) if isinstance(value, dict) else None
                if value is None:
                    problems.append(f'"{where}.results[{index}].{name}" is required')
            for metric in result.get("metrics") or []:
                if "type" not in metric or "value" not in metric:
                    problems.append(f'"{where}.results[{index}].metrics" must have type and value')
    return problems


def info(call: Call, kind: str, name: str, revision: str) -> Answer:
    found = call.repository(kind, name)
    commit = call.commit(found, revision or "main")
    return as_json(found.describe(commit, call.is_true("blobs")))


def tree(call: Call, kind: str, name: str, revision: str, folder: str) -> Answer:
    found = call.repository(kind, name, files=True)
    commit = call.commit(found, revision)
    prefix = folder.strip("/") + "/" if folder.strip("/") else ""
    entries: dict[str, dict[str, object]] = {}
    for path, blob in commit.files.items():
        if not path.startswith(prefix):
            continue
        parents = path[len(prefix) :].split("/")[:-1]
        for depth in range(1, len(parents) + 1):
            inside = prefix + "/".join(parents[:depth])
            if depth == 1 or call.is_true("recursive"):
                oid = hashlib.sha1(inside.encode()).hexdigest()
                entries[inside] = {"type": "directory", "path": inside, "size": 0, "oid": oid}
        if not parents or call.is_true("recursive"):
            entries[path] = _expanded(call, commit, blob.describe(path))
    if prefix and not entries:
        message = f'{folder} does not exist on "{revision}"'
        raise RefusedError(404, "EntryNotFound", message, **{"X-Repo-Commit": commit.oid})
    return as_json(list(entries.values()))


def _expanded(call: Call, commit: Commit, entry: dict[str, object]) -> dict[str, object]:
    if call.is_true("expand"):
        date = commit.time.strftime("%Y-%m-%dT%H:%M:%S.000Z")
        entry["lastCommit"] = {"id": commit.oid, "title": commit.title, "date": date}
    return entry


def paths_info(call: Call, kind: str, name: str, revision: str) -> Answer:
    found = call.repository(kind, name, files=True)
    commit = call.commit(found, revision)
    asked = parse_qs(call.exchange.body.decode())
    call.query = asked
    entries = []
    for path in asked.get("paths", []):
        path = path.strip("/")
        if path in commit.files:
            entries.append(_expanded(call, commit, commit.files[path].describe(path)))
        elif any(other.startswith(f"{path}/") for other in commit.files):
            oid = hashlib.sha1(path.encode()).hexdigest()
            entries.append({"type": "directory", "path": path, "size": 0, "oid": oid})
    return as_json(entries)


def refs(call: Call, kind: str, name: str) -> Answer:
    found = call.repository(kind, name)

    def listed(prefix: str, names: Mapping[str, str]) -> list[dict[str, str]]:
        return [
            {"name": name, "ref": f"refs/{prefix}/{name}", "targetCommit": oid}
            for name, oid in names.items()
        ]

    listing = {"branches": listed("heads", found.branches), "tags": listed("tags", found.tags)}
    return as_json({**listing, "converts": []})


def branch(call: Call, kind: str, name: str, new: str) -> Answer:
    found = call.repository(kind, name, write=True)
    if new in found.branches:
        raise RefusedError(409, None, f"Reference already exists: refs/heads/{new}")
    found.branches[new] = call.commit(found, call.json.get("startingPoint") or "main").oid
    return as_json({})


def tag(call: Call, kind: str, name: str, revision: str) -> Answer:
    found = call.repository(kind, name, write=True)
    new = call.json["tag"]
    if new in found.tags:
        raise RefusedError(409, None, f"Tag reference exists already: {new}")
    found.tags[new] = call.commit(found, revision).oid
    return as_json({})


def settings(call: Call, kind: str, name: str) -> Answer:
    found = call.repository(kind, name, write=True)
    if "visibility" in call.json:
        found.private = call.json["visibility"] == "private"
    if "gated" in call.json:
        found.gated = bool(call.json["gated"])
    return as_json({})


def auth_check(call: Call, kind: str, name: str, write: str) -> Answer:
    call.repository(kind, name, files=True, write=bool(write))
    return as_json({})


def preupload(call: Call, kind: str, name: str, revision: str) -> Answer:
    found = call.repository(kind, name, write=True)
    commit = call.commit(found, revision)
    files = []
    for asked in call.json["files"]:
        there = commit.files.get(asked["path"])
        is_large = found.is_large(asked["path"], asked["size"])
        oid = there.etag if there is not None and there.is_large == is_large else None
        mode = "lfs" if is_large else "regular"
        files.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    call.exchange.names = [asked["path"] for asked in call.json["files"]]
    return as_json({"files": files, "commitOid": commit.oid})


def lfs_batch(call: Call, kind: str, name: str) -> Answer:
    """Say where large files go: one address, or several if one is longer than `part_size`."""
    call.repository(kind or "model", name, write=True)
    objects: list[dict[str, object]] = []
    for asked in call.json["objects"]:
        oid, size = asked["oid"], asked["size"]
        entry: dict[str, object] = {"oid": oid, "size": size, "authenticated": True}
        if oid not in call.hub.objects:
            href, header = f"{call.hub.storage_url}/objects/{oid}", {}
            if size > call.hub.part_size:
                count = -(-size // call.hub.part_size)
                header = {str(part): f"{href}/parts/{part}" for part in range(1, count + 1)}
                header["chunk_size"] = str(call.hub.part_size)
                href = f"{call.hub.url}/api/complete/{oid}"
            upload = {"href": href, "header": header}
            verify = {"href": f"{call.hub.url}/api/verify/{oid}"}
            entry["actions"] = {"upload": upload, "verify": verify}
        objects.append(entry)
    return as_json({"transfer": "basic", "objects": objects})


def put_object(call: Call, oid: str) -> Answer:
    return _keep(call, oid, call.exchange.body)


def put_part(call: Call, oid: str, part: str) -> Answer:
    call.hub.parts[oid, int(part)] = call.exchange.body
    return Answer(200, {"ETag": f'"{hashlib.md5(call.exchange.body).hexdigest()}"'})


def complete(call: Call, oid: str) -> Answer:
    numbers = [part["partNumber"] for part in call.json["parts"]]
    content = b"".join(call.hub.parts.get((oid, number), b"") for number in numbers)
    for number in numbers:
        call.hub.parts.pop((oid, number), None)
    return _keep(call, oid, content)


def _keep(call: Call, oid: str, content: bytes) -> Answer:
    if hashlib.sha256(content).hexdigest() != oid:
        raise RefusedError(400, None, "The provided sha256 does not match the content")
    call.hub.objects[oid] = content
    return Answer(200, {"ETag": f'"{oid}"'})


def verify(call: Call, oid: str) -> Answer:
    if len(call.hub.objects.get(oid, b"")) != call.json["size"]:
        raise RefusedError(404, None, "Object does not exist on the server")
    return as_json({})


def commit(call: Call, kind: str, name: str, revision: str) -> Answer:
    found = call.repository(kind, name, write=True)
    parent = call.commit(found, revision)
    lines = [json.loads(line) for line in call.exchange.body.splitlines() if line]
    header = next(line["value"] for line in lines if line["key"] == "header")
    call.exchange.names = [line["value"]["path"] for line in lines if line["key"] != "header"]
    if revision not in found.branches:
        raise RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    if header.get("parentCommit", parent.oid) != parent.oid:
        raise RefusedError(412, None, "A commit has happened since. Please refresh and try again.")
    changes: dict[str, Blob | None] = {}
    for line in lines:
        value = line["value"]
        if line["key"] == "file":
            changes[value["path"]] = Blob(base64.b64decode(value["content"]), False)
        elif line["key"] == "lfsFile":
            if value["oid"] not in call.hub.objects:
                raise RefusedError(400, None, f"LFS object {value['oid']} was not uploaded")
            changes[value["path"]] = Blob(call.hub.objects[value["oid"]], True)
        elif line["key"] == "deletedFile":
            changes[value["path"]] = None
        elif line["key"] == "deletedFolder":
            folder = value["path"].rstrip("/") + "/"
            changes |= {path: None for path in parent.files if path.startswith(folder)}
    made = found.commit(revision, changes, header["summary"])
    prefix = "" if kind == "model" else f"{kind}s/"
    url = f"{call.hub.url}/{prefix}{name}/commit/{made.oid}"
    return as_json({"success": True, "commitOid": made.oid, "commitUrl": url, "hookOutput": ""})


def commits(call: Call, kind: str, name: str, revision: str) -> Answer:
    found = call.repository(kind, name, files=True)
    entries, oid = [], call.commit(found, revision).oid
    while oid:
        one = found.commits[oid]
        date = one.time.strftime("%Y-%m-%dT%H:%M:%S.000Z")
        entries.append({"id": oid, "title": one.title, "message": "", "authors": [], "date": date})
        oid = one.parent or ""
    return as_json(entries)


def resolve(call: Call, kind: str, name: str, revision: str, path: str) -> Answer:
    """Redirect to a file: a large one to the storage, another one within the Hub."""
    found = call.repository(kind or "model", name, files=True)
    at = call.commit(found, revision)
    headers = {"X-Repo-Commit": at.oid}
    blob = at.files.get(path)
    if blob is None:
        raise RefusedError(404, "EntryNotFound", "Entry not found", **headers)
    headers |= {"X-Linked-ETag": f'"{blob.etag}"', "X-Linked-Size": str(len(blob.content))}
    if blob.is_large:
        call.hub.objects.setdefault(blob.sha256, blob.content)
        location = f"{call.hub.storage_url}/objects/{blob.sha256}"
        return Answer(302, {**headers, "Location": location, "ETag": f'"{blob.oid}"'})
    location = f"/api/resolve-cache/{found.kind}s/{name}/{at.oid}/{path}"
    return Answer(307, {**headers, "Location": location, "ETag": f'"{blob.etag}"'})


def resolve_cache(call: Call, kind: str, name: str, revision: str, path: str) -> Answer:
    found = call.repository(kind, name, files=True)
    at = call.commit(found, revision)
    blob = at.files[path]
    return _ranged(call, blob.content, {"ETag": f'"{blob.etag}"', "X-Repo-Commit": at.oid})


def get_object(call: Call, oid: str) -> Answer:
    if oid not in call.hub.objects:
        raise RefusedError(404, None, "NoSuchKey")
    return _ranged(call, call.hub.objects[oid], {"ETag": f'"{oid}"'})


def _ranged(call: Call, content: bytes, headers: dict[str, str]) -> Answer:
    """Answer with the asked range of a content, or 416 if it lies outside."""
    headers |= {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", call.exchange.headers.get("range", ""))
    if match is None or not any(match.groups()):
        return Answer(200, headers, content)
    size = len(content)
    if not match[1]:
        first, last = max(0, size - int(match[2])), size - 1
    else:
        first, last = int(match[1]), min(int(match[2] or size - 1), size - 1)
    if first > last:
        return Answer(416, {**headers, "Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    return Answer(206, headers, content[first : last + 1])


_NAME = r"([^/]+/[^/]+)"
_API = rf"/api/(model|dataset|space)s/{_NAME}"
_PAGE = rf"/(?:(dataset|space)s/)?{_NAME}"

ROUTES: list[tuple[tuple[str, ...], str, Callable[..., Answer]]] = [
    (("GET",), "/api/whoami-v2", whoami),
    (("POST",), "/api/repos/create", create),
    (("DELETE",), "/api/repos/delete", delete),
    (("POST",), "/api/validate-yaml", validate_yaml),
    (("POST",), "/api/complete/([0-9a-f]+)", complete),
    (("POST",), "/api/verify/([0-9a-f]+)", verify),
    (("PUT",), "/objects/([0-9a-f]+)", put_object),
    (("PUT",), r"/objects/([0-9a-f]+)/parts/(\d+)", put_part),
    (("GET", "HEAD"), "/objects/([0-9a-f]+)", get_object),
    (("GET",), rf"{_API}(?:/revision/([^/]+))?", info),
    (("GET",), rf"{_API}/tree/([^/]+)(?:/(.*))?", tree),
    (("POST",), rf"{_API}/paths-info/([^/]+)", paths_info),
    (("GET",), rf"{_API}/refs", refs),
    (("GET",), rf"{_API}/commits/([^/]+)", commits),
    (("POST",), rf"{_API}/branch/([^/]+)", branch),
    (("POST",), rf"{_API}/tag/([^/]+)", tag),
    (("PUT",), rf"{_API}/settings", settings),
    (("GET",), rf"{_API}/auth-check(/write)?", auth_check),
    (("POST",), rf"{_API}/preupload/([^/]+)", preupload),
    (("POST",), rf"{_API}/commit/([^/]+)", commit),
    (("POST",), rf"{_PAGE}\.git/info/lfs/objects/batch", lfs_batch),
    (("GET", "HEAD"), rf"/api/resolve-cache/(model|dataset|space)s/{_NAME}/([^/]+)/(.+)", resolve_cache),
    (("GET", "HEAD"), rf"{_PAGE}/resolve/([^/]+)/(.+)", resolve),
]
