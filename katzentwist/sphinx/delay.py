"""Mixing delays (spec: sphinx 14.2).

The distribution is the product: floor of an exponential draw plus 1, and a cap that nodes enforce too.
"""

from __future__ import annotations

import math

from katzentwist.errors import SphinxError
from katzentwist.randomness import IRandom

TAIL = -math.log(1e-12)
"""27.631021115928547: one draw in 10^12 is above the cap."""
LONGEST = 2**32 - 1
"""What a delay command can carry, in ms."""


def delay_cap(mu: float) -> int:
    """The largest delay in ms for this Mu; 0, that is no cap, if Mu is not positive, NaN or infinite."""
    if not mu > 0 or math.isinf(mu):
        return 0
    cap = TAIL / mu
    # Below a Mu of about 1e-307 the quotient is infinite; no delay of that size can be sent anyhow.
    return math.ceil(cap) if math.isfinite(cap) else 2**63 - 1


def sample_delay(mu: float, random: IRandom) -> int:
    """One hop's delay in ms, at least 1.

    :param mu: the rate per millisecond, from the PKI document.
    :raises SphinxError: Mu is not a positive finite number.
    """
    if not mu > 0 or math.isinf(mu):
        raise SphinxError(f"path: Mu must be positive and finite, not {mu}")
    limit = min(delay_cap(mu), LONGEST)
    draw = random.exponential(mu)
    return limit if draw >= limit else math.floor(draw) + 1
