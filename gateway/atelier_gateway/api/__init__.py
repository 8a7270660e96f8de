"""The dialects that clients speak over HTTP. Each translates its own contract to and from `core`'s values."""
