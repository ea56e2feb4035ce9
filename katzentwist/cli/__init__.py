"""The katzentwist command."""
