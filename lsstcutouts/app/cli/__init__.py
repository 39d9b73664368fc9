"""The console script: ``lsstcutouts VERB key=value ...``.

This room stays light: a verb is named as "module:function" and imported when it is called, hydra only when there is
something to configure. A verb takes the composed configuration, shows people what it did unless ``json`` is set, and
returns an object with ``as_dict()`` and, if it can fail without an exception, ``exit_status``.
"""

from .dispatch import main
from .verbs import VERBS

__all__ = ["VERBS", "main"]
