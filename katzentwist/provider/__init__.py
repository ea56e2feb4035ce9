"""The two ends of a Provider: gateway half and service half."""
