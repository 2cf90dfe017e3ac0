"""Start a vLLM server that ``rollout=vllm_server`` can use, and wait until it answers.

    python -m gprl_lightning.rollout.vllm_start --python vllm-env/bin/python --model FOLDER

Standard library only. The server runs in the environment of ``--python``, where vLLM is installed;
this package has to be found there by nothing but its path. What stands behind ``--`` goes to vLLM.

The server opens endpoints that replace its weights, without any protection: it listens on
127.0.0.1 unless told otherwise, and must never be reachable from outside.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

PACKAGE = Path(__file__).parents[2]
EXTENSION = "gprl_lightning.rollout.vllm_worker.Weights"


def command(options: argparse.Namespace) -> list[str]:
    """Return the server's command line."""
    flags = {
        "--served-model-name": options.name,
        "--host": options.host,
        "--port": str(options.port),
        "--seed": "0",
        "--generation-config": "vllm",  # the trainer alone says how to sample
        "--logprobs-mode": options.logprobs,
        "--worker-extension-cls": EXTENSION,
        "--weight-transfer-config": '{"backend": "broadcast"}',
        "--disable-access-log-for-endpoints": "/health",
    }
    pairs = [word for pair in flags.items() for word in pair]
    server = "vllm.entrypoints.openai.api_server"
    words = [options.python, "-m", server, "--model", options.model, "--enable-scale-out", *pairs]
    if options.lora_rank:
        words += ["--enable-lora", "--max-lora-rank", str(options.lora_rank)]
    return [*words, *options.more]


def environment() -> dict[str, str]:
    """Return the server's environment: this package on its path, and the endpoints opened."""
    paths = [str(PACKAGE), *filter(None, [os.environ.get("PYTHONPATH")])]
    defaults = {
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB, on a CPU
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    forced = {
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    return {**defaults, **os.environ, **forced}


def start(options: argparse.Namespace) -> subprocess.Popen[bytes]:
    """Start the server in a process group of its own and return when it answers.

    Raises:
        RuntimeError: it ended, or did not answer in time; the message has the end of its log.
    """
    log = Path(options.log)
    with log.open("wb") as out:
        process = subprocess.Popen(
            command(options), env=environment(), stdout=out, stderr=out, start_new_session=True
        )
    deadline = time.monotonic() + options.wait
    while not answers(f"http://{options.host}:{options.port}"):
        if process.poll() is not None or time.monotonic() > deadline:
            stop(process)
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
            raise RuntimeError(f"the vLLM server did not come up; the end of {log}:\n{tail}")
        time.sleep(1)
    return process


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the server with its engine and workers, which outlive it otherwise and hold memory."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def answers(url: str) -> bool:
    """Return True if a server at ``url`` says that it is well."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return answer.status == 200
    except (OSError, urllib.error.URLError):
        return False


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options of the command line."""
    ours, more = [*arguments], []
    if "--" in ours:
        ours, more = ours[: ours.index("--")], ours[ours.index("--") + 1 :]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--python", default=sys.executable, help="of the environment with vLLM")
    parser.add_argument(
        "--model", required=True, help="folder or hub name: the policy as it starts"
    )
    parser.add_argument("--name", default="policy", help="as rollout.sampler.model")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--lora-rank", type=int, default=0, help="serve adapters up to this rank")
    parser.add_argument(
        "--logprobs",
        default="raw_logprobs",
        help="raw_logprobs, or processed_logprobs with rollout.temperature other than 1",
    )
    parser.add_argument("--log", default="vllm_server.log")
    parser.add_argument("--wait", type=float, default=600, help="seconds until it must answer")
    options = parser.parse_args(ours)
    options.more = more
    return options


def main() -> None:
    """Start the server and stay until it ends or is told to."""
    options = parse(sys.argv[1:])
    process = start(options)
    print(f"http://{options.host}:{options.port} serves {options.name}, process {process.pid}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        process.wait()
    finally:
        stop(process)


if __name__ == "__main__":
    main()
