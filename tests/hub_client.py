"""A process that uses the Hub of hub_server.py: command lines and Python code, one after the other."""

import json
import os
import subprocess
import sys
from pathlib import Path

from hub_server import HubServer

_CLIENT = """
import contextlib, io, json, os, sys, time, traceback
sleep = time.sleep
time.sleep = lambda seconds: sleep(min(seconds, 0.01))  # the client tries again, but after seconds
import eval_downstream
from burn_timm.cli import main
for line in sys.stdin:
    task = json.loads(line)
    os.environ.update(task["env"])
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            if "code" in task:
                exec(task["code"], {})
            elif task["words"][0] == "burn-timm":
                code = main(task["words"][1:])
            else:
                eval_downstream.main(task["words"][1:])
        except SystemExit as error:
            code = error.code
        except Exception:
            code = 1
            traceback.print_exc()
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


class HubClient:
    """huggingface_hub and torch take seconds to import: a process for each command would be the most of its test."""

    def __init__(self, hub: HubServer, home: Path) -> None:
        root = Path(__file__).parents[1]
        path = os.pathsep.join([str(root), *sys.path])
        self.env = {**hub.environment(home), "CUDA_VISIBLE_DEVICES": ""}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _CLIENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, **self.env, "PYTHONPATH": path},
        )

    def close(self) -> None:
        self._process.stdin.close()
        self._process.kill()  # else torch takes its time
        self._process.wait()
        self._process.stdout.close()

    def command(self, *words, **env: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of `burn-timm ...` or `eval_downstream.py ...`."""
        return self._do({"words": [str(word) for word in words]}, env)

    def python(self, code: str, **env: str) -> tuple[int, str, str]:
        """The same of some code: 1 and the traceback where it raises."""
        return self._do({"code": code}, env)

    def _do(self, task: dict, env: dict[str, str]) -> tuple[int, str, str]:
        self._process.stdin.write(json.dumps({**task, "env": {**self.env, **env}}) + "\n")
        self._process.stdin.flush()
        return tuple(json.loads(self._process.stdout.readline()))
