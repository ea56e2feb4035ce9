"""The programs that ``twistd`` knows after the installation of katzentwist."""

from twisted.application.service import ServiceMaker

katzenmix = ServiceMaker(
    "katzenmix",
    "katzentwist.mix.tap",
    "A node of a Katzenpost mix network: mix, gateway, service node or Provider.",
    "katzenmix",
)
katzendirauth = ServiceMaker(
    "katzendirauth",
    "katzentwist.dirauth.tap",
    "The nonvoting directory authority of a Katzenpost mix network.",
    "katzendirauth",
)
