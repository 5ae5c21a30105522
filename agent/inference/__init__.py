"""The resident policy, asynchronous action chunks and the adapter swap."""
