"""What every dialect over HTTP needs: bodies in, errors out, deadlines, request IDs, metrics."""
