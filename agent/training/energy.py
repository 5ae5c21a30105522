"""The energy that a GPU took while an update was trained, where its driver counts it."""

from collections.abc import Callable

import torch
from loguru import logger

Counter = Callable[[], float | None]
"""Joules since some time that stays the same; None: not told."""


class GpuEnergy:
    """Differences of the driver's counter: of the whole card, whatever else computes on it.

    Args:
        device: torch device.
        counter: Stands in for the device's own.
    """

    def __init__(self, device: str, counter: Counter | None = None) -> None:
        self._counter = counter or counter_of(device)
        self._last: float | None = None

    def begin(self) -> None:
        """Count from now on."""
        self._last = self._counter()

    def taken(self) -> float | None:
        """Joules since `begin`, or since the last call; None: not told, or the counter was set back."""
        before, self._last = self._last, self._counter()
        if before is None or self._last is None or self._last < before:
            return None
        return self._last - before


def counter_of(device: str) -> Counter:
    """The counter of a device: NVML's nvmlDeviceGetTotalEnergyConsumption, millijoules since the driver was
    loaded, on cards since Volta. Where it can't be read, the journal says so once."""
    if torch.device(device).type != "cuda":
        return lambda: None
    try:
        import pynvml

        pynvml.nvmlInit()
        # By UUID: NVML does not know how CUDA_VISIBLE_DEVICES numbers the cards.
        uuid = torch.cuda.get_device_properties(device).uuid
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception as error:  # no driver, or a card that doesn't count: neither is a fault
        logger.info("the energy of {} is not measured: {}", device, error)
        return lambda: None

    def read() -> float | None:
        try:
            return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
        except pynvml.NVMLError as error:
            logger.debug("the energy of {} was not told: {}", device, error)
            return None

    return read
