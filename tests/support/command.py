"""The command in a process of one thread."""

import sys

import torch

from lsstcutouts.app.cli import main

if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
