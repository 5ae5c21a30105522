"""How large messages may be: one place, since each limit follows from the first.

A message is held whole, and several times, by every process that it passes: Flower's processes, its apps, the
daemons. Flower itself would let 2 GiB pass (`flwr.supercore.grpc`).
"""

MAX_MESSAGE_BYTES = 64 * 2**20
"""An envelope (`shared.envelope`), either way. nginx lets no larger request pass."""
MAX_UPDATE_BYTES = MAX_MESSAGE_BYTES // 4
"""An encoded update. A check-in brings a new station two versions, promoted and candidate, in float32; half
precision takes a quarter of that, so an adapter that fits a check-in has no larger update, in any codec."""
MAX_REPLY_BYTES = 2 * MAX_UPDATE_BYTES
"""An answer with its update; all else in it is small."""
BESIDE_BYTES = 2**20
"""Left for what a message holds besides an adapter's numbers: names of tensors, manifests, metadata."""
MAX_NUMBERS = (MAX_MESSAGE_BYTES - BESIDE_BYTES) // 8
"""Of an adapter, 8.26 million: two versions with 4 bytes each."""
MAX_PLAN_BYTES = 2 * MAX_MESSAGE_BYTES + BESIDE_BYTES
"""Check-ins that the daemon hands its ServerApp at once: no further one when a message's worth is there."""
