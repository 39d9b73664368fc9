"""How many examples Hypothesis tries: the numbers in the tests by ``--hypothesis-profile=all``, else a quarter of them."""

from hypothesis import HealthCheck, settings

__all__ = ["examples", "register_profiles"]

FULL = 100
"""Examples of a test that names no number."""

SHARES = {"few": 0.25, "all": 1.0, "many": 20.0}
"""What part of its examples each profile tries."""

# No test measures time; examples may share a folder or a patched attribute.
UNCHECKED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


def register_profiles() -> None:
    """Register the profiles, and take the first; pytest's option ``--hypothesis-profile`` comes after it."""
    for name, share in SHARES.items():
        count = round(FULL * share)
        settings.register_profile(name, max_examples=count, deadline=None, suppress_health_check=UNCHECKED)
    settings.load_profile("few")


def examples(count: int) -> settings:
    """Return the settings of a property test that has this many examples in the profile ``all``."""
    return settings(max_examples=max(min(count, 5), count * settings().max_examples // FULL))
