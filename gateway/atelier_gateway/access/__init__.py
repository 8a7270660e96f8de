"""Who may ask for what: API keys and their limits, and what browsers are kept from doing."""
