"""The console script: ``lsstcutouts VERB key=value ...``.

To start fast, a verb is given as "module:function" and imported when it is called; hydra is imported when a
configuration is composed. A verb takes the composed configuration, prints its result unless ``json`` is set, and returns
an object with ``as_dict()`` and, if it can fail without an exception, ``exit_status``.
"""

from .dispatch import main
from .verbs import VERBS

__all__ = ["VERBS", "main"]
