"""Weights & Biases: on its server where somebody is logged in, else as files that `wandb sync` uploads later."""

from __future__ import annotations

import netrc
import os
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# Its error reports and usage counts would go out to the network, also for a run that is tracked offline.
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

import wandb

from thriftnet.tracking.tracker import TrackedRun

PROJECT = "thriftnet"
INIT_TIMEOUT_S = 30.0
"""How long a server may take to answer before the run begins without it."""
FINISH_TIMEOUT_S = 120.0
"""How long the last upload may take; what is left is on the disk for `wandb sync`."""


class WeightsAndBiases:
    """One W&B run; its files are in the run folder, whatever the mode.

    WANDB_MODE says online, offline or disabled; unset, it is online where a login is configured (WANDB_API_KEY, netrc)
    and offline elsewhere. Console, code, git, hardware and the list of packages are not collected: the run folder's
    environment.json has what a number depends on, by an allow-list.
    """

    def open(self, run: TrackedRun) -> str:
        wanted = os.environ.get("WANDB_MODE")
        mode = wanted or ("online" if logged_in() else "offline")
        # W&B names its folder by the second, so a run opened twice within one would write over itself.
        while any(run.folder.glob(f"wandb/*run-{datetime.now():%Y%m%d_%H%M%S}-{run.id}")):
            time.sleep(0.05)
        self._run = wandb.init(
            project=None if os.environ.get("WANDB_PROJECT") else PROJECT,
            id=run.id,
            name=run.name,
            group=run.group,
            config=dict(run.config),
            dir=str(run.folder),
            mode=mode,  # type: ignore[arg-type]
            resume="allow" if mode == "online" else None,
            reinit="create_new",  # several runs of one process are several runs
            settings=wandb.Settings(
                silent=True,
                console="off",
                save_code=False,
                disable_git=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
                init_timeout=INIT_TIMEOUT_S,
                finish_timeout=FINISH_TIMEOUT_S,
            ),
        )
        if mode == "online":
            return f"tracking: wandb at {self._run.url}"
        why = f"WANDB_MODE={wanted}" if wanted else "no login is configured"
        return f"tracking: wandb {mode} ({why}); later: wandb sync {Path(self._run.dir).parent}"

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def figure(self, name: str, png: Path, step: int) -> None:
        # W&B ignores what comes at an earlier step than it has reached, as an evaluation of a finished run would.
        self._run.log({f"figures/{name}": wandb.Image(str(png))}, step=max(step, self._run.step))

    def outcome(self, values: Mapping[str, Any], step: int) -> None:
        self._run.summary.update(dict(values))

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


def logged_in() -> bool:
    """Whether a key for the server is configured: in the environment, or in the netrc file as `wandb login` writes."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    named = os.environ.get("NETRC")
    files = [Path(named)] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]
    for file in files:
        if file.is_file():
            try:
                return host in netrc.netrc(file).hosts
            except (netrc.NetrcParseError, OSError):
                return False  # wandb could not read it either
    return False
