"""Train a small lens finder on a simulated Rubin repository, streaming the cutouts.

    python train_example.py                                  # the demo
    python train_example.py trainer.max_epochs=3 seed=1      # any setting of configs/train.yaml
    python train_example.py data=dp2 data.catalog=my.parquet trainer=gpu

The same as ``lsstcutouts train``.
"""

import sys

from lsstcutouts.app.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
