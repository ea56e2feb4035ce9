"""The smallest whole files of one network, for the reference.

The keys are real ones whose private halves nobody has.
"""

from __future__ import annotations

from typing import Final

from katzentwist.sphinx import Geometry

INTRODUCTION: Final = """\
## The smallest network

These files make a network: an authority, three mixes (of which one is shown), a Provider and a client. Change
addresses, folders and keys. A node makes its keys and prints them with `twistd katzenmix -f katzenpost.toml -g`, the
authority with `twistd katzendirauth -f authority.toml -g`: `IdentityKey` and `PublicKey` below are the identity public
key of those lines, not its hash; `identity.public.pem` and `link.public.pem` are in `DataDir`. For links that a quantum
computer does not open write `xwing` instead of the default, `x25519`: as `WireKEM` of every node and `WireKEMScheme` of
authority and client. `katzentwist genconfig` writes such files, keys included, for one machine.
"""

AUTHORITY: Final = '''\
[Server]
Addresses = ["tcp://192.0.2.1:62472"]
DataDir = "/var/lib/katzendirauth"

[Debug]
MinNodesPerLayer = 1            # of three layers; the default, 2, needs six mixes

[[Mixes]]
IdentityKey = "e06443cdbb7bb48c5b29e38bbc71615aca652d056aebd60824ea6eec14d4c10a"

[[Mixes]]
IdentityKey = "8d792fac47b2bec86fad31fc35024b50a3691c2f22f1507b1e9b860b614305ab"

[[Mixes]]
IdentityKey = "016cb288e31f5a64e95048dcc84522771769dfc7249f589bd4d31c169bc7983d"

[[Providers]]
Identifier = "provider1"
IdentityKey = "d9aa2fc6e95d5236ddc4423fb1d890318bc8f307390856d01d5ea0a8ea86e8ff"
# service/identity.public.pem of the Provider, or the name of a copy in our DataDir
ServiceIdentityKeyPem = """
-----BEGIN ED25519 PUBLIC KEY-----
aQDZWZB0DPrLntpaA1iNpb3uj0m9+dTVsPXtJsvxaLw=
-----END ED25519 PUBLIC KEY-----
"""
'''

_PKI: Final = """
[PKI.Nonvoting]
Address = "192.0.2.1:62472"
PublicKey = "9f7e0854e822dcc980c2cafd87783432adcf25e3f4ddc7e8b8ded55e0ad914ca"
"""

MIX: Final = f"""\
[Server]
Identifier = "mix1"
Addresses = ["tcp://192.0.2.11:3219"]
DataDir = "/var/lib/katzenpost"
{_PKI}"""

PROVIDER: Final = f"""\
[Server]
Identifier = "provider1"
Addresses = ["tcp://192.0.2.20:3219"]   # its service half listens on the next port
DataDir = "/var/lib/katzenpost"
IsProvider = true
{_PKI}
[Provider]
EnableEphemeralClients = true   # without these two only users that the operator adds are let in
TrustOnFirstUse = true

[[Provider.Kaetzchen]]          # decoys go to an echo service: a network needs one
Capability = "echo"
Endpoint = "+echo"
"""

CLIENT: Final = f'''\
WireKEMScheme = "x25519"

[Listen.Tcp]                    # where applications find the daemon
Address = "127.0.0.1:64331"

[NonvotingAuthority]
PublicKey = "9f7e0854e822dcc980c2cafd87783432adcf25e3f4ddc7e8b8ded55e0ad914ca"

[[PinnedGateways.Gateways]]
Name = "provider1"
PKISignatureScheme = "Ed25519"
IdentityKey = """
-----BEGIN ED25519 PUBLIC KEY-----
2aovxuldUjbdxEI/sdiQMYvI8wc5CFbQHV6gqOqG6P8=
-----END ED25519 PUBLIC KEY-----
"""
WireKEMScheme = "x25519"
LinkKey = """
-----BEGIN X25519 PUBLIC KEY-----
XSRthR4BuNRJOR5HqQVj5+31YyavT4gLatIyUZEyh2U=
-----END X25519 PUBLIC KEY-----
"""
Addresses = ["tcp://192.0.2.20:3219"]

{Geometry.from_user_payload(2000, 5, nike="x25519").toml()}'''

FILES: Final = (
    ("`authority.toml`", AUTHORITY),
    ("`katzenpost.toml` of a mix", MIX),
    ("`katzenpost.toml` of the Provider", PROVIDER),
    ("`client.toml`", CLIENT),
)


def render() -> str:
    """The section of the reference."""
    return "\n".join([INTRODUCTION, *(f"### {title}\n\n```toml\n{text}```\n" for title, text in FILES)])
