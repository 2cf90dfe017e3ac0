"""What a W&B server knows, and what it answers to the questions of wandb's client and agent."""

from __future__ import annotations

import base64
import itertools
import json
import re
import threading
import uuid
from dataclasses import dataclass, field
from typing import Any

import yaml

ENTITY, PROJECT = "local", "gprl"
CANCELED = "CANCELED"  # the state that `wandb sweep --cancel` sets


@dataclass
class RemoteRun:
    """What the server knows of a run."""

    about: dict[str, Any] = field(default_factory=dict)  # displayName, groupName, tags, sweep, …
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: list[str] = field(default_factory=list)
    exit_code: int | None = None  # None: not ended
    stopped: bool = False  # set by a test: the "stop run" of W&B's page

    def values(self, name: str) -> list[Any]:
        """A metric's values in order."""
        return [row[name] for row in self.history if name in row]


@dataclass
class RemoteSweep:
    """A sweep: its trials are the product of its values."""

    config: str
    state: str = "RUNNING"
    waiting: list[dict[str, Any]] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)


class WandbState:
    """Runs, sweeps and agents.

    Attributes:
        url: where it is served.
        runs, sweeps: by id.
        operations: the names of all GraphQL operations, in order.
        unknown: those that had no answer.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.runs: dict[str, RemoteRun] = {}
        self.sweeps: dict[str, RemoteSweep] = {}
        self.agents: list[str] = []  # the sweep of each
        self.operations: list[str] = []
        self.unknown: list[str] = []
        self._lock = threading.Lock()

    def start_sweep(self, config: str) -> str:
        sweep, parsed = uuid.uuid4().hex[:8], yaml.safe_load(config)
        names = list(parsed["parameters"])
        choices = [p.get("values", [p.get("value")]) for p in parsed["parameters"].values()]
        trials = [dict(zip(names, values, strict=True)) for values in itertools.product(*choices)]
        self.sweeps[sweep] = RemoteSweep(config, waiting=trials)
        return sweep

    # GraphQL -----------------------------------------------------------------------------------

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any] | None:
        """The data of a GraphQL answer; None if the operation is not known."""
        found = re.search(r"\b(?:query|mutation)\s+(\w+)", query)
        name = found.group(1) if found else query[:40]
        with self._lock:
            self.operations.append(name)
            try:
                return getattr(self, f"_on_{name}")(variables)
            except (AttributeError, LookupError, TypeError) as error:
                self.unknown.append(f"{error!r}: {query[:400]}")
                return None

    def _on_Viewer(self, _: dict) -> dict:
        nobody = {"id": "VXNlcg==", "entity": ENTITY, "username": ENTITY, "name": ENTITY}
        teams = {"teams": {"edges": []}, "apiKeys": {"edges": []}}
        return {"viewer": {**nobody, **teams, "email": "", "admin": False, "flags": "{}"}}

    def _on_ServerFeaturesQuery(self, _: dict) -> dict:
        return {"serverInfo": {"features": []}}

    def _on_OrganizationCoreWeaveOrganizationID(self, _: dict) -> dict:
        return {"entity": {"organization": None}}

    def _on_RunResumeStatus(self, _: dict) -> dict:
        return {"model": {**_project(), "bucket": None}}

    def _on_UpsertBucket(self, variables: dict) -> dict:
        name = variables.get("name") or uuid.uuid4().hex[:8]
        run = self.runs.setdefault(name, RemoteRun())
        if variables.get("config"):
            run.config = {k: v["value"] for k, v in json.loads(variables["config"]).items()}
        if variables.get("summaryMetrics"):
            run.summary = json.loads(variables["summaryMetrics"])
        given = ("displayName", "groupName", "jobType", "tags", "notes", "sweep", "project")
        run.about |= {k: variables[k] for k in given if variables.get(k) is not None}
        bucket = {
            "id": _identifier("Run", name),
            "name": name,
            "displayName": run.about.get("displayName", name),
            "description": "",
            "config": variables.get("config") or "{}",
            "sweepName": run.about.get("sweep"),
            "historyLineCount": 0,
            "project": _project(),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def _on_CreateRunFiles(self, variables: dict) -> dict:
        files = [
            {"name": f, "uploadUrl": f"{self.url}/upload/{variables['run']}/{f}"}
            for f in variables["files"]
        ]
        return {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": files}}

    def _on_ArtifactType(self, _: dict) -> dict:
        return {"project": {"artifact": None}}

    def _on_CreateArtifact(self, variables: dict) -> dict:
        given = variables["input"]
        self.runs[given["runName"]].artifacts.append(given["artifactCollectionName"])
        identifier = _identifier("Artifact", uuid.uuid4().hex)
        sequence = {"latestArtifact": {"id": identifier}}
        artifact = {"id": identifier, "state": "COMMITTED", "artifactSequence": sequence}
        return {"createArtifact": {"artifact": artifact}}

    # Sweeps ------------------------------------------------------------------------------------

    def _on_UpsertSweep(self, variables: dict) -> dict:
        if variables.get("state"):
            sweep = variables["id"]
            self.sweeps[sweep].state = variables["state"]
        else:
            sweep = self.start_sweep(variables["config"])
        upserted = {"name": sweep, "project": _project()}
        return {"upsertSweep": {"sweep": upserted, "configValidationWarnings": []}}

    def _on_UpsertSweepState(self, variables: dict) -> dict:
        return self._on_UpsertSweep(variables)

    def _on_SweepWithRuns(self, variables: dict) -> dict:
        name = variables["sweep"]
        if name not in self.sweeps:
            return {"project": {"sweep": None}}
        sweep = self.sweeps[name]
        method = yaml.safe_load(sweep.config)["method"]
        about = {"id": name, "name": name, "method": method, "state": sweep.state}
        return {"project": {"sweep": {**about, "config": sweep.config, "runs": {"edges": []}}}}

    def _on_CreateAgent(self, variables: dict) -> dict:
        self.agents.append(variables["sweep"])
        return {"createAgent": {"agent": {"id": _identifier("Agent", str(len(self.agents) - 1))}}}

    def _on_Heartbeat(self, variables: dict) -> dict:
        agent = int(base64.b64decode(variables["id"]).decode().split(":")[1])
        sweep = self.sweeps[self.agents[agent]]
        running = [run for run, on in json.loads(variables["runState"] or "{}").items() if on]
        commands: list[dict[str, Any]] = []
        if running and sweep.state == CANCELED:
            commands = [{"type": "stop", "run_id": run} for run in running]
        elif not running and sweep.state == "RUNNING" and sweep.waiting:
            commands = [self._next_trial(sweep)]
        elif not running:
            commands = [{"type": "exit"}]
        answer = {"agent": {"id": variables["id"]}, "commands": json.dumps(commands)}
        return {"agentHeartbeat": answer}

    def _next_trial(self, sweep: RemoteSweep) -> dict[str, Any]:
        run, trial = uuid.uuid4().hex[:8], sweep.waiting.pop(0)
        sweep.runs.append(run)
        arguments = {name: {"value": value} for name, value in trial.items()}
        program = yaml.safe_load(sweep.config).get("program")
        return {"type": "run", "run_id": run, "program": program, "args": arguments}

    # The file stream ---------------------------------------------------------------------------

    def stream(self, run_id: str, sent: dict[str, Any]) -> dict[str, Any]:
        """Take lines of a run's files, in the end its exit code; answer whether it shall stop."""
        with self._lock:
            run = self.runs.setdefault(run_id, RemoteRun())
            files = sent.get("files") or {}
            lines = files.get("wandb-history.jsonl", {}).get("content", [])
            run.history += [json.loads(line) for line in lines]
            if "wandb-summary.json" in files:
                run.summary = json.loads(files["wandb-summary.json"]["content"][-1])
            if sent.get("complete"):
                run.exit_code = sent.get("exitcode")
            return {"limits": {}, "stopped": run.stopped}


def _identifier(kind: str, name: str) -> str:
    return base64.b64encode(f"{kind}:{name}".encode()).decode()


def _project() -> dict[str, Any]:
    entity = {"id": _identifier("Entity", ENTITY), "name": ENTITY}
    return {"id": _identifier("Project", PROJECT), "name": PROJECT, "entity": entity}
