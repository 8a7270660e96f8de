"""Jobs: requests that are accepted once and carried out, whatever happens to clients, gateways and services.

`store` keeps rows in a database, `blobs` keeps bytes; everything else can be lost at any moment.
"""
