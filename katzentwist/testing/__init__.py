"""What tests share: fake time, in-memory networks, strategies. No other layer imports it."""
