"""All tests. ``python -m twisted.trial tests`` from the root of the tree."""

from hypothesis import HealthCheck, settings

# On a busy machine a draw may be slow or large for reasons that are not the code's; what is asserted stays the same.
settings.register_profile("katzentwist", deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile("katzentwist")
