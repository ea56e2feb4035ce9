"""What every daemon shares: keys, PKI client, logging, life cycle."""
