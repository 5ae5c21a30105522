"""The join bundle: made by `armfleet node invite`, read by `armfleet join`."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.messages import Digest, Name


class JoinBundle(BaseModel):
    """The file that enrols one workstation: hand it over as you would a password; it is good once."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    protocol: Literal[1] = 1
    fleet: Name
    url: str = Field(pattern=r"^https://[\w.\[\]:-]+$")
    """Where nginx answers; `[public] url` of the coordinator."""
    ca_pem: str
    """Certificate of the fleet's authority, PEM."""
    tuf_root: str
    """Root metadata of The Update Framework, JSON text: the anchor of all trust in versions."""
    node: Name
    secret: str
    expires: datetime
    base_digest: Digest
