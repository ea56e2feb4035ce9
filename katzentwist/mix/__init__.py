"""The mix: pipeline, scheduler, replay protection, links."""
