"""The nonvoting directory authority (spec: pki 10 to 12)."""
