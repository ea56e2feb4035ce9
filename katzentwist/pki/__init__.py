"""Epochs, certificates, descriptors, documents, topology (spec: pki).

The names that stay stable::

    Document, SignedDocument, verify, threshold, GeometryMismatchError     katzentwist.pki.document
    Descriptor, ReplicaDescriptor                                          katzentwist.pki.descriptor, .replica
    SignedUpload, LoopStats                                                katzentwist.pki.upload
    Schedule                                                               katzentwist.pki.schedule
"""

from __future__ import annotations

from katzentwist.pki.cert import Certificate, Signature
from katzentwist.pki.descriptor import Descriptor
from katzentwist.pki.document import (
    LAYER_GATEWAY,
    LAYER_SERVICE,
    Document,
    GeometryMismatchError,
    Place,
    SignedDocument,
    threshold,
    verify,
)
from katzentwist.pki.replica import ReplicaDescriptor
from katzentwist.pki.schedule import Schedule
from katzentwist.pki.upload import LoopStats, SignedUpload

__all__ = [
    "LAYER_GATEWAY",
    "LAYER_SERVICE",
    "Certificate",
    "Descriptor",
    "Document",
    "GeometryMismatchError",
    "LoopStats",
    "Place",
    "ReplicaDescriptor",
    "Schedule",
    "Signature",
    "SignedDocument",
    "SignedUpload",
    "threshold",
    "verify",
]
