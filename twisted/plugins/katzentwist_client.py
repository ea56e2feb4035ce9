"""The client daemon as a program that ``twistd`` knows after the installation of katzentwist."""

from twisted.application.service import ServiceMaker

katzenclient = ServiceMaker(
    "katzenclient",
    "katzentwist.client.tap",
    "The client daemon of a Katzenpost mix network, for any number of local applications.",
    "katzenclient",
)
