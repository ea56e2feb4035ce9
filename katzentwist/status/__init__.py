"""What a daemon shows of itself: counters and metrics."""
