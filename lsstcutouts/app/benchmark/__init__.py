"""``lsstcutouts benchmark``: cutouts a second beside the other ways and the ceilings, and what limits them.

All ways read the same pixels, which is made sure of first, and take turns run by run.
"""
