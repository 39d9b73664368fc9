"""Processes of several ranks on this machine, as torchrun, Lightning or a scheduler would start them."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment without a trace of any launcher, for processes with a thread each."""
    launchers = ("SLURM_", "TORCHELASTIC_", "MASTER_", "PL_")
    ranks = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "GROUP_RANK", "NODE_RANK", "LOCAL_WORLD_SIZE", "PYTHONWARNINGS"}
    plain = {k: v for k, v in os.environ.items() if not k.startswith(launchers) and k not in ranks}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    # Each worker process would load the compiled kernels, which takes seconds; the pixels are the same without.
    # Gloo would ask the host's name for an address, which need not be one of this machine.
    own = {"OMP_NUM_THREADS": "1", "LSSTCUTOUTS_KERNELS": "plain", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": path}
    return {**plain, **own, **more}


def elastic(rank: int, world: int, port: int) -> dict[str, str]:
    """Return the variables that torchrun sets for a rank of one node."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    address = {"TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {name: str(value) for name, value in (place | address).items()}


def torchrun_command(ranks: int, module: str, arguments: Sequence[str]) -> list[str]:
    """Return the command that starts a module in so many ranks of one node."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "1", "--nproc-per-node", str(ranks)]
    return [*launcher, "--master-addr", "127.0.0.1", "--master-port", str(free_port()), "-m", module, *arguments]


def run(command: Sequence[str], *, env: Mapping[str, str], cwd: Path | None = None, timeout: float = 280) -> str:
    """Run a command that must succeed and return what it printed."""
    done = subprocess.run(
        command, env=env, cwd=cwd, capture_output=True, text=True, check=False, timeout=timeout, errors="replace"
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done.stdout
