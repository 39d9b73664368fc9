"""``lsstcutouts benchmark``: the speed of the user's own plan on the user's own machine, what limits it, what to change."""
