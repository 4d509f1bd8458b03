from __future__ import annotations

from hypothesis import settings

# A busy machine is no failure: how long an example takes is not tested here.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
