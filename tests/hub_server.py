"""A dataset hub on this machine: what a push asks of a real one, kept in memory."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import threading
import time

import uvicorn
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

TOKEN = "hf_of_me"
LICENCES = {"cc-by-4.0", "mit"}
LARGE = (".parquet", ".gz", ".zst")


class HubServer:
    """``repos`` maps names to visibility, owner, branches (name -> commit) and commits.

    A commit is its message and the files, each the bytes or, of large ones, their SHA-256. ``fail``
    maps a part of a path to the status of its answers, and to how many of them; paths with ``hold``
    in them are not answered. ``seen`` are method and path of every request.
    """

    def __init__(self):
        self.reset()
        routes = [
            Route("/api/whoami-v2", self._whoami),
            Route("/api/validate-yaml", self._card, methods=["POST"]),
            Route("/api/repos/create", self._create, methods=["POST"]),
            Route("/api/datasets/{owner}/{name}", self._info),
            Route("/api/datasets/{owner}/{name}/revision/{branch:path}", self._info),
            Route("/api/datasets/{owner}/{name}/branch/{branch:path}", self._branch,
                  methods=["POST"]),
            Route("/api/datasets/{owner}/{name}/preupload/{branch:path}", self._preupload,
                  methods=["POST"]),
            Route("/api/datasets/{owner}/{name}/xet-write-token/{branch:path}", self._xet),
            Route("/api/datasets/{owner}/{name}/commit/{branch:path}", self._commit,
                  methods=["POST"]),
            Route("/datasets/{owner}/{name}.git/info/lfs/objects/batch", self._batch,
                  methods=["POST"]),
            Route("/store/{oid}", self._put, methods=["PUT"]),
            Route("/store/{oid}/verify", self._verify, methods=["POST"]),
            Route("/site/{rest:path}", self._page),
        ]  # fmt: skip
        config = uvicorn.Config(
            Starlette(routes=[Route(r.path, self._guarded(r.endpoint), methods=r.methods)
                              for r in routes]),
            port=0, log_level="critical",
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.host, self.url = f"127.0.0.1:{port}", f"http://127.0.0.1:{port}"

    def reset(self):
        self.repos, self.large, self.verified = {}, {}, set()
        self.fail, self.seen = {}, []
        self.role, self.storage = "write", None
        self.meanwhile = self.hold = None

    def stop(self):
        self._server.should_exit = True
        self._thread.join()

    def add(self, repo, *, private=False, files=None):
        """A repository with a first commit, as if it had been there before."""
        first = {".gitattributes": b"*.parquet filter=lfs\n"} | (files or {})
        self.repos[repo] = {
            "private": private, "branches": {"main": "0" * 40},
            "commits": {"0" * 40: ("initial commit", first)},
        }  # fmt: skip

    def messages(self, repo):
        """Of every commit there, oldest first."""
        return [message for message, _ in self.repos[repo]["commits"].values()]

    def files(self, repo, branch="main"):
        """What a branch holds, by name, but for the hub's own file."""
        there = self.repos[repo]
        files = there["commits"][there["branches"][branch]][1]
        return {
            name: data if isinstance(data, bytes) else self.large[data]
            for name, data in files.items()
            if name != ".gitattributes"
        }

    def write(self, repo, folder, branch="main"):
        """A folder with what a branch holds."""
        for name, data in self.files(repo, branch).items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    # Answers -----------------------------------------------------------------------------------

    def _guarded(self, answer):
        async def endpoint(http):
            path = http.url.path
            self.seen.append((http.method, path))
            for part, (status, times) in list(self.fail.items()):
                if part in path and times:
                    self.fail[part] = (status, times - 1)
                    return JSONResponse({"error": "out of order"}, status)
            while self.hold and self.hold in path:
                await asyncio.sleep(0.05)
            open_ = path.startswith(("/store/", "/site/")) and not path.endswith("/verify")
            if not open_ and http.headers.get("authorization") != f"Bearer {TOKEN}":
                return refusal(401, "Invalid credentials in Authorization header")
            return await answer(http)

        return endpoint

    async def _page(self, http):
        return HTMLResponse("<html><body>Welcome</body></html>")

    async def _whoami(self, http):
        return JSONResponse({"name": "me", "auth": {"accessToken": {"role": self.role}}})

    async def _card(self, http):
        header = (await http.json())["content"].split("---")[1]
        licence = [line.split(": ")[1] for line in header.splitlines() if "license:" in line]
        if set(licence) <= LICENCES:
            return JSONResponse({"errors": [], "warnings": []})
        errors = [{"message": f'"license" must be one of {sorted(LICENCES)}'}]
        return JSONResponse({"errors": errors, "warnings": []}, 400)

    async def _create(self, http):
        asked = await http.json()
        repo = f"{asked['organization']}/{asked['name']}"
        assert asked["type"] == "dataset"
        if asked["organization"] != "me":
            return refusal(403, "You don't have the rights to create a dataset there")
        if repo in self.repos:
            error = {"error": "You already created this dataset repo"}
            return JSONResponse(error | {"url": f"{self.url}/datasets/{repo}"}, 409)
        self.add(repo, private=asked.get("visibility") == "private")
        return JSONResponse({"url": f"{self.url}/datasets/{repo}"})

    def _find(self, http):
        """Repository's name, the repository, and a refusal where there is none or no such branch.

        Anybody may read; only its owner may write.
        """
        repo = f"{http.path_params['owner']}/{http.path_params['name']}"
        there, branch = self.repos.get(repo), http.path_params.get("branch", "main")
        if there is None:
            return repo, None, refusal(404, "Repository not found", "RepoNotFound")
        if http.method != "GET" and not repo.startswith("me/"):
            return repo, None, refusal(403, "You have read access but not the required permissions")
        if "/branch/" not in http.url.path and branch not in there["branches"]:
            return repo, None, refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        return repo, there, None

    async def _info(self, http):
        repo, there, refused = self._find(http)
        if refused:
            return refused
        sha = there["branches"][http.path_params.get("branch", "main")]
        files = [{"rfilename": name} for name in there["commits"][sha][1]]
        return JSONResponse(
            {"id": repo, "sha": sha, "private": there["private"], "siblings": files}
        )

    async def _branch(self, http):
        _, there, refused = self._find(http)
        if refused:
            return refused
        name = http.path_params["branch"]
        if name in there["branches"]:
            return JSONResponse({"error": "Reference already exists"}, 409)
        there["branches"][name] = there["branches"]["main"]
        return JSONResponse({})

    async def _preupload(self, http):
        _, there, refused = self._find(http)
        if refused:
            return refused
        files = there["commits"][there["branches"][http.path_params["branch"]]][1]
        answers = []
        for asked in (await http.json())["files"]:
            large = asked["path"].endswith(LARGE) or asked["size"] > 10 * 2**20
            old = files.get(asked["path"])
            answer = {"path": asked["path"], "shouldIgnore": False}
            answer["uploadMode"] = "lfs" if large else "regular"
            answers.append(answer | ({"oid": identity(old)} if old else {}))
        return JSONResponse({"files": answers})

    async def _xet(self, http):
        headers = {
            "X-Xet-Cas-Url": f"local://{self.storage}",
            "X-Xet-Access-Token": "short-lived",
            "X-Xet-Token-Expiration": str(2**33),
        }
        body = {"casUrl": headers["X-Xet-Cas-Url"], "accessToken": "short-lived", "exp": 2**33}
        return JSONResponse(body, headers=headers)

    async def _batch(self, http):
        _, _, refused = self._find(http)
        if refused:
            return refused
        objects = []
        for asked in (await http.json())["objects"]:
            item = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.large:
                href = f"{self.url}/store/{asked['oid']}"
                item["actions"] = {"upload": {"href": href}, "verify": {"href": href + "/verify"}}
            objects.append(item)
        return JSONResponse({"transfer": "basic", "objects": objects})

    async def _put(self, http):
        self.large[http.path_params["oid"]] = await http.body()
        return Response()

    async def _verify(self, http):
        oid, asked = http.path_params["oid"], await http.json()
        data = self.large[oid]
        if asked["size"] != len(data) or hashlib.sha256(data).hexdigest() != oid:
            return refusal(422, "other content than announced")
        self.verified.add(oid)
        return JSONResponse({})

    async def _commit(self, http):
        repo, there, refused = self._find(http)
        if refused:
            return refused
        if self.meanwhile:
            self.meanwhile(repo)
        lines = [json.loads(line) for line in (await http.body()).splitlines()]
        header, branch = lines[0]["value"], http.path_params["branch"]
        parent = there["branches"][branch]
        if header.get("parentCommit", parent) != parent:
            return refusal(412, "A commit has happened since. Please refresh and try again.")
        files = dict(there["commits"][parent][1])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if self.storage is None and value["oid"] not in self.verified:
                    return refusal(400, f"the large file {value['oid']} is not there")
                files[value["path"]] = value["oid"]
            else:
                assert line["key"] == "deletedFile"
                del files[value["path"]]
        sha = hashlib.sha1(repr((parent, header, sorted(files.items()))).encode()).hexdigest()
        there["commits"][sha] = (header["summary"], files)
        there["branches"][branch] = sha
        url = f"{self.url}/datasets/{repo}/commit/{sha}"
        return JSONResponse({"commitUrl": url, "commitOid": sha, "success": True})


def identity(data):
    """What the hub goes by to tell whether a file is the same."""
    if isinstance(data, str):
        return data
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def refusal(status, message, code=None):
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return JSONResponse({"error": message}, status, headers)
