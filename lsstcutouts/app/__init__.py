"""The command ``lsstcutouts``: its verbs, and what only a training, a prediction or a report on the screen needs."""
